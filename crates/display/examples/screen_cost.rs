//! What a screen costs the host: a whole picture on its way from display memory to a VNC client's socket, and a screen that stands still.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::time::{ClockId, clock_gettime};
use visor_console::{Display, FrameBufferSink, Generation, Size};
use visor_device::testing::ManualClock;
use visor_display::{Screen, Vga, VgaWires};
use visor_engine::{EngineError, EngineErrorKind, MsiSink, Vcpu, VcpuId, Vm};
use visor_memory::{DeviceMemory, Extra, Gpa, GuestMemory, RamRange};
use visor_rfb::{Canvas, Config, Session};
use visor_x86::cpuid::Cpuid;

const SIZE: (u16, u16) = (1024, 768);
/// The promise: a whole picture takes at most this.
const REDRAW: Duration = Duration::from_millis(50);
/// And a look at an idle screen, ten times a second, at most a thousandth of a CPU.
const IDLE: Duration = Duration::from_micros(100);

/// A VM without CPUs.
struct NoVm;

impl Vm for NoVm {
    fn add_vcpu(&self, _: VcpuId, _: &Cpuid) -> Result<Box<dyn Vcpu>, EngineError> {
        Err(EngineError::new(EngineErrorKind::Invalid, "no CPUs here"))
    }
    fn msi(&self) -> Arc<dyn MsiSink> {
        struct NoMsi;
        impl MsiSink for NoMsi {
            fn send(&self, _: u64, _: u32) {}
        }
        Arc::new(NoMsi)
    }
    fn set_intr(&self, _: bool) {}
    fn nmi(&self) {}
}

struct Sink<'a>(&'a mut Canvas);

impl FrameBufferSink for Sink<'_> {
    fn resize(&mut self, size: Size) {
        self.0.resize(size.width, size.height);
    }
    fn row(&mut self, y: u32, x: u32, pixels: &[u32]) {
        self.0.row(y, x, pixels);
    }
}

/// Measures and prints; fails if a promise is broken. The argument is the number of redraws of each kind.
fn main() -> anyhow::Result<()> {
    let rounds: u32 = std::env::args().nth(1).map_or(Ok(15), |n| n.parse())?;
    let ram = RamRange { start: Gpa(0), len: 1 << 20 };
    let memory = Arc::new(GuestMemory::with_extra(&[ram], &Extra { devices: 16 << 20, ..Extra::default() })?);
    let memory = memory.take_device_memory(16 << 20)?;
    let vga =
        Vga::new(VgaWires { memory: memory.clone(), vm: Arc::new(NoVm), clock: Arc::new(ManualClock::default()) });
    vga.set_linear(SIZE.0, SIZE.1);
    let screen = vga.screen();
    println!("a whole picture of {}x{} to a client's socket, host CPU time (median of {rounds}):", SIZE.0, SIZE.1);
    let mut worst = Duration::ZERO;
    for (name, number) in [("raw", 0), ("hextile", 5), ("zrle", 16)] {
        for (what, paint) in [("console", console as fn(&DeviceMemory, u32)), ("photo", photo)] {
            let (time, bytes) = redraws(&screen, &memory, number, paint, rounds)?;
            println!("  {name:8} {what:8} {:7.2} ms {:9} bytes", time.as_secs_f64() * 1e3, bytes);
            worst = worst.max(time);
        }
    }
    let idle = idle(&screen);
    println!("a look at a screen that stands still: {:.1} µs", idle.as_secs_f64() * 1e6);
    ensure!(worst <= REDRAW, "a redraw takes {worst:?}; {REDRAW:?} is promised");
    ensure!(idle <= IDLE, "an idle screen costs {idle:?} a look; {IDLE:?} is promised");
    Ok(())
}

/// Median time of a redraw, and its size.
fn redraws(
    screen: &Screen,
    memory: &DeviceMemory,
    encoding: i32,
    paint: fn(&DeviceMemory, u32),
    rounds: u32,
) -> anyhow::Result<(Duration, usize)> {
    let (mut server, mut client) = UnixStream::pair()?;
    let reader = std::thread::spawn(move || {
        let mut bytes = vec![0; 1 << 20];
        while client.read(&mut bytes).is_ok_and(|n| n > 0) {}
    });
    let mut session = Session::new(Config { name: "bench".into(), password: None, challenge: [0; 16] });
    let mut seen = screen.changes(Generation::default(), &mut Sink(session.canvas()));
    session.receive(b"RFB 003.008\n\x01\x01")?;
    session.receive(&[&[2, 0, 0, 1][..], &encoding.to_be_bytes()].concat())?;
    session.sent(usize::MAX);
    let (mut times, mut bytes) = (Vec::new(), 0);
    for round in 0..rounds {
        paint(memory, round);
        session.receive(&[&[3, 0, 0, 0, 0, 0][..], &SIZE.0.to_be_bytes(), &SIZE.1.to_be_bytes()].concat())?;
        let start = cpu_time()?;
        seen = screen.changes(seen, &mut Sink(session.canvas()));
        ensure!(session.update(), "there is no update");
        bytes = session.output().len();
        server.write_all(session.output())?;
        times.push(cpu_time()? - start);
        session.sent(bytes);
    }
    drop(server);
    reader.join().map_err(|_| anyhow::anyhow!("the client panicked"))?;
    times.sort();
    Ok((times[times.len() / 2], bytes))
}

fn idle(screen: &Screen) -> Duration {
    const LOOKS: u32 = 1000;
    let mut canvas = Canvas::default();
    let seen = screen.changes(Generation::default(), &mut Sink(&mut canvas));
    let start = cpu_time().unwrap_or_default();
    for _ in 0..LOOKS {
        screen.changes(seen, &mut Sink(&mut canvas));
    }
    (cpu_time().unwrap_or_default() - start) / LOOKS
}

fn cpu_time() -> anyhow::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("clock_gettime")?.into())
}

/// Grey glyph-like dots on black, other ones each round.
fn console(memory: &DeviceMemory, round: u32) {
    fill(memory, |x, y| {
        let cell = (x / 8 + y / 16 * 131 + round * 7).wrapping_mul(2_654_435_761);
        let dot =
            (cell >> (x % 8 + y % 16)) & 1 == 1 && cell & 0x700 != 0 && !(3..13).contains(&(y % 16)) | (x % 8 < 5);
        if dot { 0xaa_aaaa } else { 0 }
    });
}

/// Gradients with noise.
fn photo(memory: &DeviceMemory, round: u32) {
    fill(memory, |x, y| {
        let noise = (x * 7919 + y * 104_729 + round).wrapping_mul(2_654_435_761) >> 29;
        (x / 4 + noise) << 16 | (y / 3 + noise) << 8 | (noise * 16 + round)
    });
}

fn fill(memory: &DeviceMemory, pixel: impl Fn(u32, u32) -> u32) {
    let mut row = Vec::new();
    for y in 0..u32::from(SIZE.1) {
        row.clear();
        (0..u32::from(SIZE.0)).for_each(|x| row.extend_from_slice(&(pixel(x, y) & 0xff_ffff).to_le_bytes()));
        memory.write(u64::from(y) * row.len() as u64, &row);
    }
}
