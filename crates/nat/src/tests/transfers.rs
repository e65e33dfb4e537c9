//! Transfers over cables in bad weather: byte-exact always, and fast in good weather.

use smoltcp::socket::tcp::State;

use super::cable::{Weather, World};
use super::frames::at;
use super::pattern;
use super::sim::End;

/// Virtual time after which a transfer has failed.
const LIMIT: u64 = 3_000_000_000;

/// Sends `up` bytes to the far end and `down` bytes from it at the same time; both ends close when they are done. Gives the
/// virtual time it took, in microseconds.
fn transfer(weather: Weather, to: &str, up: usize, down: usize) -> u64 {
    let mut world = World::new(weather);
    let guest = world.socket(256 << 10);
    world.connect(guest, at(to), 40000);
    let (upwards, downwards) = (pattern(up, 1), pattern(down, 2));
    let (mut sent, mut fed, mut got, mut arrived) = (0, 0, Vec::new(), Vec::new());
    let mut far = None;
    let begin = world.now;
    loop {
        world.step(LIMIT);
        assert!(world.now < LIMIT, "{weather:?}: {sent} sent, {} arrived, {} got", arrived.len(), got.len());
        let socket = world.tcp(guest);
        while socket.can_send() && sent < up {
            sent += socket.send_slice(&upwards[sent..]).unwrap();
        }
        if sent == up && matches!(socket.state(), State::Established | State::CloseWait) && socket.send_queue() == 0 {
            socket.close();
        }
        while socket.can_recv() {
            socket.recv(|data| (data.len(), got.extend_from_slice(data))).unwrap();
        }
        let done = matches!(socket.state(), State::TimeWait | State::Closed) && got.len() == down;
        far = far.or(world.far());
        let Some(number) = far else { continue };
        if world.engine.host().sockets.contains_key(&number) {
            let host = world.engine.host();
            arrived.extend(host.far_reads(number, 1 << 20));
            // The far end's kernel holds a megabyte.
            while fed < down && host.sim(number).rx.len() < 1 << 20 {
                let n = (down - fed).min(64 << 10);
                host.far_sends(number, &downwards[fed..fed + n]);
                fed += n;
            }
            if fed == down && !host.sim(number).rx_end {
                host.far_ends(number);
            }
        } else if done {
            break;
        }
    }
    let took = world.now - begin;
    let (end, rest) = world.engine.host().ended.remove(&far.unwrap()).unwrap();
    arrived.extend(rest.tx);
    assert_eq!(end, End::Closed);
    assert!(rest.tx_end, "the guest's end was passed on");
    assert!(arrived == upwards, "{} of {up} bytes up", arrived.len());
    assert!(got == downwards, "{} of {down} bytes down", got.len());
    took
}

#[test]
fn good_weather() {
    for to in ["192.0.2.9:80", "[2001:db8::9]:80"] {
        transfer(Weather { seed: 1, delay: 50, ..Weather::default() }, to, 3_000_000, 4_000_000);
    }
}

#[test]
fn nothing_at_all() {
    transfer(Weather { seed: 1, delay: 50, ..Weather::default() }, "192.0.2.9:80", 0, 0);
}

#[test]
fn every_weather_is_survived() {
    for seed in 1..=4 {
        for (loss, double, jitter) in
            [(10, 0, 0), (50, 0, 0), (150, 20, 200), (0, 100, 0), (0, 0, 3000), (20, 20, 1000)]
        {
            let weather = Weather { seed, loss, double, delay: 200, jitter, room: 0 };
            transfer(weather, "192.0.2.9:80", 200_000, 300_000);
        }
    }
}

#[test]
fn a_guest_that_takes_few_frames_loses_none() {
    let weather = Weather { seed: 5, delay: 100, room: 3, ..Weather::default() };
    transfer(weather, "192.0.2.9:80", 100_000, 1_000_000);
}

#[test]
fn a_guest_that_pauses_for_an_hour_goes_on_where_it_was() {
    let mut world = World::new(Weather { seed: 3, delay: 100, ..Weather::default() });
    let guest = world.socket(64 << 10);
    world.connect(guest, at("192.0.2.9:80"), 40000);
    let data = pattern(2_000_000, 4);
    let mut got = Vec::new();
    let (mut fed, mut paused) = (false, false);
    while got.len() < data.len() {
        world.step(LIMIT * 3);
        assert!(world.now < LIMIT * 3, "{} bytes", got.len());
        if let Some(far) = world.far().filter(|_| !fed) {
            fed = true;
            world.engine.host().far_sends(far, &data);
        }
        let socket = world.tcp(guest);
        while socket.can_recv() {
            socket.recv(|data| (data.len(), got.extend_from_slice(data))).unwrap();
        }
        if got.len() > 500_000 && !paused {
            paused = true;
            // Nobody calls the engine, and nothing moves.
            world.now += 3_600_000_000;
        }
    }
    assert!(got == data);
}

#[test]
fn a_slow_reader_gets_everything() {
    let mut world = World::new(Weather { seed: 3, delay: 100, ..Weather::default() });
    let guest = world.socket(8 << 10);
    world.connect(guest, at("192.0.2.9:80"), 40000);
    let data = pattern(60_000, 4);
    let mut got = Vec::new();
    let mut fed = false;
    let mut next = 0;
    while got.len() < data.len() {
        world.step(next.max(world.now + 1));
        assert!(world.now < LIMIT, "{} bytes", got.len());
        if let Some(far) = world.far().filter(|_| !fed) {
            fed = true;
            world.engine.host().far_sends(far, &data);
        }
        // A kilobyte each ten seconds: the window is shut most of the time.
        if world.now >= next {
            next = world.now + 10_000_000;
            let _ = world
                .tcp(guest)
                .recv(|data| (data.len().min(1024), got.extend_from_slice(&data[..data.len().min(1024)])));
        }
    }
    assert!(got == data && world.engine.counters().expired == 0);
}

/// Ratios of virtual times, which are the same on every machine.
#[test]
fn throughput() {
    let size = 2_000_000;
    let down = |weather| transfer(weather, "192.0.2.9:80", 0, size);
    let base = Weather { seed: 7, delay: 1000, ..Weather::default() };
    let clear = down(base);
    // 256 KiB each 2 ms, and the handshake: a window is used as a whole.
    assert!(clear < 40_000, "{clear} µs");
    let table = [
        ("1 in 1000 lost", Weather { loss: 1, ..base }, 15),
        ("1 in 100 lost", Weather { loss: 10, ..base }, 60),
        ("doubled", Weather { double: 200, ..base }, 4),
        ("reordered a little", Weather { jitter: 20, ..base }, 50),
        ("ten times the delay", Weather { delay: 10_000, ..base }, 12),
    ];
    for (what, weather, most) in table {
        let took = down(weather);
        println!("{what}: {}.{} times", took / clear, took * 10 / clear % 10);
        assert!(took < clear * most, "{what}: {took} µs against {clear} µs");
    }
}
