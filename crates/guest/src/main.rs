//! `visor-guest-init`: PID 1 of visor's guests, and by other names the programs that belong to it.
//!
//! | called as | does |
//! |---|---|
//! | `init`, `visor-guest-init` (as PID 1) | boots and runs the guest |
//! | `visor-agent PORT CONSOLE` | serves the host |
//! | `systemctl` | controls services |
//! | `modprobe` | loads kernel modules; the kernel calls it too |

use std::path::Path;
use std::process::ExitCode;

use visor_guest::modules::Loader;
use visor_guest::{agent, init, service, sys};

fn main() -> ExitCode {
    // Arguments need not be UTF-8, but none of those that mean something here is anything else.
    let mut arguments = std::env::args_os().map(|a| a.to_string_lossy().into_owned());
    let called = arguments.next().unwrap_or_default();
    let arguments: Vec<String> = arguments.collect();
    match called.rsplit('/').next().unwrap_or_default() {
        "systemctl" => ExitCode::from(service::client::main(&arguments)),
        "modprobe" => modprobe(&arguments),
        "visor-agent" => run_agent(&arguments),
        _ if std::process::id() == 1 => init::main(),
        name => {
            eprintln!("{name}: must run as PID 1, or be called as systemctl, modprobe or visor-agent");
            ExitCode::FAILURE
        }
    }
}

fn run_agent(arguments: &[String]) -> ExitCode {
    let [port, console] = arguments else {
        eprintln!("visor-agent: needs the port's device and the console's");
        return ExitCode::FAILURE;
    };
    match agent::serve_port(Path::new(port), Path::new(console)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("visor-agent: {port}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `modprobe [-q] NAME`, or `modprobe -a [-q] NAME...`; names may be aliases. Options of modules are not supported.
fn modprobe(arguments: &[String]) -> ExitCode {
    let has = |names: &[&str]| arguments.iter().any(|a| names.contains(&a.as_str()));
    let (quiet, all) = (has(&["-q", "--quiet", "-aq", "-qa"]), has(&["-a", "--all", "-aq", "-qa"]));
    let names = arguments.iter().filter(|a| !a.starts_with('-'));
    let names: Vec<&String> = if all { names.collect() } else { names.take(1).collect() };
    if names.is_empty() {
        eprintln!("usage: modprobe [-a] [-q] MODULE...");
        return ExitCode::FAILURE;
    }
    let mut loader = Loader::open(&Path::new("/lib/modules").join(sys::uname_release()));
    let mut code = ExitCode::SUCCESS;
    for name in names {
        if let Err(error) = loader.load(name) {
            code = ExitCode::FAILURE;
            if !quiet {
                eprintln!("modprobe: FATAL: {error}");
            }
        }
    }
    code
}
