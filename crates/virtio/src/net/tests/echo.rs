//! A network that answers while it is being asked.

use std::time::Duration;

use visor_net::FrameSink;

use super::*;

/// Answers each frame with itself, and rings while it is being sent to.
#[derive(Default)]
struct Echo {
    frames: Vec<Vec<u8>>,
    notify: Option<Notify>,
}

impl NetPort for Echo {
    fn send(&mut self, f: Frame<'_>) -> Sent {
        let mut answer = f.data.to_vec();
        answer[..6].copy_from_slice(&OURS);
        self.frames.push(answer);
        self.notify.iter().for_each(|n| n());
        Sent::Yes
    }

    fn receive(&mut self, sink: &mut dyn FrameSink) -> usize {
        let mut taken = 0;
        while taken < self.frames.len() && sink.frame(Frame::plain(&self.frames[taken])) != Sent::Full {
            taken += 1;
        }
        self.frames.drain(..taken).count()
    }

    fn set_accepts(&mut self, _: Accepts) {}

    fn peer_accepts(&self) -> Accepts {
        Accepts::ALL
    }

    fn on_ready(&mut self, notify: Notify) {
        self.notify = Some(notify);
    }
}

#[test]
fn answers_are_received_where_the_question_was_sent() {
    let wakes = Arc::new(AtomicUsize::new(0));
    let w = wakes.clone();
    let wake: Notify = Arc::new(move || _ = w.fetch_add(1, Ordering::SeqCst));
    let (device, nic) = Net::new(Box::new(Echo::default()), &NetConfig { mac: MAC, pairs: 1 }, wake);
    let rig = Rig::new(device);
    let mut q = rig.start(MERGE);
    nic.pump();
    wakes.store(0, Ordering::SeqCst);
    rig.store(DATA, &[&header(0, 0, 0, 0, 0)[..], &frame([2; 6], 100)].concat());
    q[0].send(&rig, &[(DATA + 0x1000, 2000, true)]);
    q[1].send(&rig, &[(DATA, 112, false)]);
    assert!(q[1].used(&rig).is_some() && q[0].used(&rig).is_some(), "the answer is there");
    assert_eq!(rig.bytes(DATA + 0x1000 + 12, 6), OURS);
    assert_eq!(wakes.load(Ordering::SeqCst), 0, "nobody was woken");
    // Without a buffer it waits until the driver brings one.
    q[1].send(&rig, &[(DATA, 112, false)]);
    assert!(q[0].used(&rig).is_none());
    q[0].send(&rig, &[(DATA + 0x1000, 2000, true)]);
    assert!(wakes.load(Ordering::SeqCst) > 0);
    nic.pump();
    assert!(q[0].used(&rig).is_some());
}

/// Collects all frames but the first after each look, and rings only when it is told to.
#[derive(Clone, Default)]
struct Collector(Arc<std::sync::Mutex<(bool, usize, usize)>>);

impl NetPort for Collector {
    fn send(&mut self, _: Frame<'_>) -> Sent {
        let (busy, waiting, gone) = &mut *self.0.lock().unwrap();
        if std::mem::replace(busy, true) {
            *waiting += 1
        } else {
            *gone += 1
        }
        Sent::Yes
    }

    fn receive(&mut self, _: &mut dyn FrameSink) -> usize {
        let (busy, waiting, gone) = &mut *self.0.lock().unwrap();
        *gone += std::mem::take(waiting);
        *busy = false;
        0
    }

    fn set_accepts(&mut self, _: Accepts) {}

    fn peer_accepts(&self) -> Accepts {
        Accepts::ALL
    }

    fn on_ready(&mut self, _: Notify) {}

    fn collects(&self) -> bool {
        self.0.lock().unwrap().1 > 0
    }
}

#[test]
fn while_the_port_collects_the_driver_need_not_notify() {
    for features in [MERGE | F_EVENT_IDX, MERGE] {
        let port = Collector::default();
        let gone = || port.0.lock().unwrap().2;
        let (device, nic) = Net::new(Box::new(port.clone()), &NetConfig { mac: MAC, pairs: 1 }, Arc::new(|| ()));
        let rig = Rig::new(device);
        let mut q = rig.start(features);
        nic.pump();
        rig.store(DATA, &[&header(0, 0, 0, 0, 0)[..], &frame([2; 6], 100)].concat());
        let mut kicks = [0; 3];
        for (round, kicks) in kicks.iter_mut().enumerate() {
            for _ in 0..20 {
                q[1].add(&rig, &[(DATA, 112, false)]);
                if q[1].wants_kick(&rig, features & F_EVENT_IDX != 0) {
                    *kicks += 1;
                    q[1].kick(&rig);
                }
            }
            assert_eq!(gone(), 20 * round + 1, "the first goes at once, the others wait");
            nic.pump();
            assert_eq!(std::iter::from_fn(|| q[1].used(&rig)).count(), 20, "all are taken when the port rings");
            nic.pump();
            assert_eq!(gone(), 20 * (round + 1));
        }
        // One for the first, one for the second, with which the port begins to collect; a look that finds nothing ends it.
        assert_eq!(kicks, [2, 2, 2], "{features:x}");
    }
}

/// Takes everything, and notes when it was asked to ring.
#[derive(Clone, Default)]
struct Clocked(Arc<std::sync::Mutex<Vec<Duration>>>);

impl NetPort for Clocked {
    fn send(&mut self, _: Frame<'_>) -> Sent {
        Sent::Yes
    }

    fn receive(&mut self, _: &mut dyn FrameSink) -> usize {
        0
    }

    fn set_accepts(&mut self, _: Accepts) {}

    fn peer_accepts(&self) -> Accepts {
        Accepts::ALL
    }

    fn on_ready(&mut self, _: Notify) {}

    fn ring_in(&mut self, delay: Duration) -> bool {
        self.0.lock().unwrap().push(delay);
        true
    }
}

#[test]
fn small_packets_are_given_back_together() {
    for features in [MERGE | F_EVENT_IDX, MERGE] {
        let port = Clocked::default();
        let asked = || std::mem::take(&mut *port.0.lock().unwrap());
        let (device, nic) = Net::new(Box::new(port.clone()), &NetConfig { mac: MAC, pairs: 1 }, Arc::new(|| ()));
        let rig = Rig::new(device);
        let mut q = rig.start(features);
        let hour = Duration::from_secs(3600);
        lock(&nic.0.transmit).hold = hour;
        rig.store(DATA, &[&header(0, 0, 0, 0, 0)[..], &frame([2; 6], 1000)].concat());
        let mut gone = 0;
        let mut send = |len: u32| {
            // As a driver that wants to hear of the next one.
            q[1].used_event(&rig, gone);
            q[1].send(&rig, &[(DATA, len, false)]);
            let back = std::iter::from_fn(|| q[1].used(&rig)).count() as u16;
            gone += back;
            back
        };
        assert_eq!(
            (0..16).map(|_| send(112)).collect::<Vec<_>>(),
            [[0; 15].as_slice(), &[16]].concat(),
            "{features:x}"
        );
        let asked_for = asked();
        assert!(asked_for.len() == 15 && asked_for.iter().all(|d| *d <= hour), "{asked_for:?}");
        assert_eq!([send(112), send(112), send(1012)], [0, 0, 3], "a large one takes the others along");
        // The time is over.
        assert_eq!(send(112), 0);
        lock(&nic.0.transmit).hold = Duration::ZERO;
        nic.pump();
        assert_eq!(std::iter::from_fn(|| q[1].used(&rig)).count(), 1);
        // Nobody would be interrupted, so nothing is gained.
        lock(&nic.0.transmit).hold = hour;
        if features & F_EVENT_IDX != 0 {
            q[1].used_event(&rig, 1000);
        } else {
            rig.store(q[1].base + 0x1000, &[1, 0]);
        }
        q[1].send(&rig, &[(DATA, 112, false)]);
        assert!(q[1].used(&rig).is_some());
    }
}
