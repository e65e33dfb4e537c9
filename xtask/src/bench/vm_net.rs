//! Whole machines with their networks: the same guest does the same work with servers on this host's loopback, in QEMU's user network
//! and in visor's translator, alternately.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};

use super::side::{Guest, Side, tail};
use super::table::{Table, rows};
use crate::shell::{cargo, root, step};

const LIMIT: Duration = Duration::from_secs(900);
/// Under which both networks show the host's loopback.
const HOST: &str = "10.0.2.2";
const QEMU: &str = "-M pc -accel tcg,thread=multi -cpu max -m 512 -nodefaults -no-user-config -display none -serial stdio \
                    -no-reboot -kernel {kernel} -initrd {initrd} -append {append} -netdev user,id=n -device \
                    virtio-net-pci,netdev=n,romfile=";

/// Compares; `visor` names another program than the release build.
pub(super) fn run(rounds: usize, visor: Option<&str>) -> anyhow::Result<()> {
    let directory = root().join("target/bench-net");
    let mut maker = cargo(&["run", "--quiet", "--locked", "--package", "visor-test-linux"]);
    step("guest", maker.args(["--bin", "linux-guest", "--", "net"]).arg(&directory))?;
    let arguments = "-q run --engine soft --memory 512M --no-reboot --allow-host-loopback --kernel {kernel} --initrd \
                     {initrd} --append {append}";
    let visor = match visor {
        Some(program) => Side::command("visor", &format!("{program} {arguments}"))?,
        None => Side::visor_with(arguments)?,
    };
    let sides = [Side::command("qemu", &format!("qemu-system-x86_64 {QEMU}"))?, visor];
    let (sink, source, datagrams) = (serve(sink)?, serve(source)?, count()?);
    let path = |name: &str| directory.join(name).to_string_lossy().into_owned();
    let append = format!(
        "console=ttyS0 quiet panic=-1 cryptomgr.notests=1 tsc=reliable no_timer_check net={HOST},{sink},{source},{datagrams}"
    );
    let guest = Guest { kernel: path("vmlinuz"), initrd: path("initrd.cpio"), append, cpus: 1 };
    let side_names = || sides.iter().map(|s| s.name.clone());
    let (mut table, mut cpu) = (Table::new(side_names()), Table::new(side_names()));
    for round in 1..=rounds.max(1) {
        for side in &sides {
            eprintln!("round {round} of {}: {}", rounds.max(1), side.name);
            let run = side.run(&guest, false, LIMIT)?;
            if !run.text.contains("DONE") {
                bail!("{} did not finish:\n{}", side.name, tail(&run.text));
            }
            let rows = rows(&run.text);
            cpu.add(&side.name, &rows.iter().zip(&run.row_cpu).map(|((n, _), s)| (n.clone(), *s)).collect::<Vec<_>>());
            cpu.add(&side.name, &[("whole run".to_owned(), run.cpu)]);
            table.add(&side.name, &rows);
        }
    }
    println!("seconds of the guest's clock:\n{}", table.render("native"));
    println!("seconds of host CPU, which other work on the host does not change:\n{}", cpu.render("native"));
    println!(
        "rows: 2 seconds of nothing, 400 pings, 400 connections, 2,000 more, 64 MiB up and down, 100 streams of 512 KiB down, 40,000 datagrams of 64 bytes"
    );
    let bad = table.lost();
    if !bad.is_empty() {
        bail!("missing, or slower than QEMU: {}", bad.join(", "));
    }
    Ok(())
}

/// A server on the loopback, with a thread for each connection. Gives its port.
fn serve(answer: fn(TcpStream) -> std::io::Result<()>) -> anyhow::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream));
        }
    });
    Ok(port)
}

fn sink(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 18];
    while stream.read(&mut buffer)? > 0 {}
    Ok(())
}

fn source(mut stream: TcpStream) -> std::io::Result<()> {
    let (mut wanted, buffer) = ([0; 8], vec![0x5a; 1 << 18]);
    stream.read_exact(&mut wanted)?;
    let mut left = usize::try_from(u64::from_le_bytes(wanted)).unwrap_or(0);
    while left > 0 {
        left -= stream.write(&buffer[..left.min(buffer.len())])?;
    }
    Ok(())
}

/// Counts datagrams; whoever connects to the same port over TCP gets their number since the last time.
fn count() -> anyhow::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let socket = UdpSocket::bind(address).context("the UDP port of the same number")?;
    let counted = Arc::new(AtomicU64::new(0));
    let counter = counted.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while socket.recv(&mut buffer).is_ok() {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(&counted.swap(0, Ordering::Relaxed).to_le_bytes());
        }
    });
    Ok(address.port())
}
