//! Boots a kernel with its serial port on the terminal: `boot KERNEL [INITRD [CMDLINE [MIB [CPUS [SECONDS]]]]]`.
//! `VISOR_DISKS` lists raw images; `VISOR_AGENT`, `VISOR_PACKED` and `VISOR_REBOOT` greet the agent port, leave the kernel
//! packed, and allow reboots.
//!
//! For work on the engine and the devices; the `visor` command is the tool for everything else.

use std::io::{Read, Write};
use std::time::Duration;

use visor_machine::{Disk, EngineChoice, FileSource, Machine, MachineSpec, choose};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let kernel = args.next().ok_or("no kernel given")?;
    let mut spec = MachineSpec::new(FileSource::Path(kernel.into()));
    spec.initrd = args.next().filter(|a| !a.is_empty()).map(|p| FileSource::Path(p.into()));
    spec.cmdline = args.next().unwrap_or_else(|| "console=ttyS0 earlyprintk=ttyS0".into());
    spec.memory = args.next().map_or(Ok(512), |a| a.parse::<u64>())? << 20;
    spec.cpus = args.next().map_or(Ok(1), |a| a.parse())?;
    spec.time_limit = Some(Duration::from_secs(args.next().map_or(Ok(60), |a| a.parse())?));
    spec.debug_exit = true;
    spec.decompress = std::env::var_os("VISOR_PACKED").is_none();
    for path in std::env::var("VISOR_DISKS").iter().flat_map(|d| d.split(',')) {
        spec.disks.push(Disk::open_raw(path.as_ref(), visor_disk::Access::ReadWrite)?);
    }
    spec.no_reboot = std::env::var_os("VISOR_REBOOT").is_none();
    let engine = choose(EngineChoice::Auto)?;
    eprintln!("engine: {engine:?}");
    let machine = Machine::new(&spec.validate()?, &*engine.engine)?;
    machine.notes().iter().for_each(|n| eprintln!("{n}"));
    let mut output = machine.serial_output();
    let copy = std::thread::spawn(move || {
        let (mut buffer, mut stdout) = ([0; 4096], std::io::stdout());
        while let Ok(n @ 1..) = output.read(&mut buffer) {
            let _ = stdout.write_all(&buffer[..n]).and_then(|()| stdout.flush());
        }
    });
    let mut input = machine.serial_input();
    std::thread::spawn(move || {
        let (mut buffer, mut stdin) = ([0; 256], std::io::stdin());
        while let Ok(n @ 1..) = stdin.read(&mut buffer) {
            if input.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
    });
    if let Some(mut agent) = machine.agent().filter(|_| std::env::var_os("VISOR_AGENT").is_some()) {
        std::thread::spawn(move || {
            agent.wait_guest_open(Duration::from_secs(600));
            let _ = agent.write_all(b"hello");
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = agent.read(&mut buffer) {
                eprintln!("agent: {:?}", String::from_utf8_lossy(&buffer[..n]));
            }
        });
    }
    let begin = std::time::Instant::now();
    machine.start()?;
    let reason = machine.wait();
    let _ = copy.join();
    eprintln!("\n{reason} after {:.3} s\n{:#?}", begin.elapsed().as_secs_f64(), machine.stats());
    Ok(())
}
