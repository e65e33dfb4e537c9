//! What it costs the host that a VNC client looks at a screen that stands still: CPU time of the whole process, against that of the same
//! machine without a client.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

/// How long each is looked at.
const TIME: Duration = Duration::from_secs(10);
/// How long a machine may take to stand still.
const PATIENCE: Duration = Duration::from_secs(120);
/// The promise: a client costs at most this part of a CPU.
const MOST: f64 = 0.005;

/// A machine that ends with the measurement.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Guest {
    /// Seconds of CPU that it has taken (proc(5): utime and stime in ticks of 10 ms).
    fn cpu(&self) -> anyhow::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        let rest = stat.rsplit(')').next().unwrap_or_default();
        let ticks: Vec<f64> = rest.split_whitespace().skip(11).take(2).filter_map(|t| t.parse().ok()).collect();
        Ok(ticks.iter().sum::<f64>() / 100.0)
    }

    fn cpu_while_waiting(&self) -> anyhow::Result<f64> {
        let before = self.cpu()?;
        std::thread::sleep(TIME);
        Ok(self.cpu()? - before)
    }
}

/// Measures and prints; fails if the promise is broken.
pub(super) fn run(visor: &str, directory: &Path) -> anyhow::Result<()> {
    let (disk, socket) = (directory.join("still"), directory.join("vnc"));
    // A text mode's cursor blinks, so it goes: mov ah, 1; mov cx, 2000h; int 10h. Then sti; l: hlt; jmp l, with the BIOS's timer at 18 Hz.
    let code = [0xb4, 0x01, 0xb9, 0x00, 0x20, 0xcd, 0x10, 0xfb, 0xf4, 0xeb, 0xfd];
    let mut sector = vec![0; 1 << 20];
    sector[..code.len()].copy_from_slice(&code);
    sector[510..512].copy_from_slice(&[0x55, 0xaa]);
    std::fs::write(&disk, sector)?;
    let vnc = format!("unix:{}", socket.display());
    let child = Command::new(visor)
        .args(["-q", "run", "--engine", "soft", "--net", "none", "--vnc", &vnc, "--disk"])
        .arg(&disk)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {visor}"))?;
    let guest = Guest(child);
    let mut client = connect(&socket)?;
    // The BIOS has written its last line when nothing has come for seconds.
    come_to_rest(&mut client)?;
    drop(client);
    std::thread::sleep(Duration::from_secs(1));
    let alone = guest.cpu_while_waiting()?;
    let mut client = connect(&socket)?;
    come_to_rest(&mut client)?;
    let looked_at = guest.cpu_while_waiting()?;
    let part = |seconds: f64| 100.0 * seconds / TIME.as_secs_f64();
    println!(
        "a screen that stands still, CPU of the machine: {:.2} % alone, {:.2} % with a client",
        part(alone),
        part(looked_at)
    );
    let more = (looked_at - alone) / TIME.as_secs_f64();
    ensure!(more <= MOST, "a client costs {:.2} % of a CPU; {:.1} % is promised", more * 100.0, MOST * 100.0);
    Ok(())
}

/// Connects and introduces itself as a client that takes raw pixels and pictures of any size.
fn connect(socket: &Path) -> anyhow::Result<UnixStream> {
    let end = Instant::now() + PATIENCE;
    let mut client = loop {
        match UnixStream::connect(socket) {
            Ok(client) => break client,
            Err(e) if Instant::now() >= end => return Err(e).context("the machine takes no VNC clients"),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    client.write_all(b"RFB 003.008\n\x01\x01")?;
    client.write_all(&[&[2, 0, 0, 2, 0, 0, 0, 0][..], &(-223i32).to_be_bytes()].concat())?;
    // Version, one type of security, its result; then the size, a format and the length of the name.
    let mut head = [0; 12 + 2 + 4 + 24];
    client.read_exact(&mut head)?;
    let name = u32::from_be_bytes([head[38], head[39], head[40], head[41]]);
    client.read_exact(&mut vec![0; name.min(1000) as usize])?;
    client.set_read_timeout(Some(Duration::from_secs(3)))?;
    Ok(client)
}

/// Takes updates until none comes for seconds.
fn come_to_rest(client: &mut UnixStream) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    while update(client)? {
        ensure!(Instant::now() < end, "the screen does not stand still");
    }
    Ok(())
}

/// Asks for what changes and reads it; false if nothing has changed for seconds, with the request still standing.
fn update(client: &mut UnixStream) -> anyhow::Result<bool> {
    client.write_all(&[3, 1, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff])?;
    let mut head = [0; 4];
    match client.read_exact(&mut head) {
        Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
            return Ok(false);
        }
        other => other?,
    }
    for _ in 0..u16::from_be_bytes([head[2], head[3]]) {
        let mut rect = [0; 12];
        client.read_exact(&mut rect)?;
        let v = |i: usize| usize::from(u16::from_be_bytes([rect[i], rect[i + 1]]));
        let raw = rect[8..] == [0; 4];
        client.read_exact(&mut vec![0; if raw { v(4) * v(6) * 4 } else { 0 }])?;
    }
    Ok(true)
}
