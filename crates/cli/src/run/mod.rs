//! `visor run`: boots a throw-away machine and stays with it to its end.
//!
//! - `args`: its command line; `spec`: from arguments to a machine and a job; `new_disk`: disks given by their size; `firmware`,
//!   `boot`: booting as a PC does;
//! - `live`: the running machine, and the poll in which the main thread waits for everything;
//! - `network`: what it is connected to;
//! - `console`, `command`: the jobs;
//! - `agent`: the session with the agent in the guest; `execs`: commands that others run through it;
//! - `control`: its control socket, if it has a name;
//! - `hub`: the console's output for who attaches;
//! - `streams`, `tail`, `wake`: bytes on their way;
//! - `end`, `stats`, `timeline`: what is reported.
//!
//! vCPU threads only fill buffers and wake the main thread; all other I/O is the main thread's, which never waits but in `live`.

mod agent;
mod args;
mod boot;
mod command;
mod console;
mod control;
mod disc;
mod end;
mod execs;
mod firmware;
mod hub;
mod keys;
mod live;
mod network;
mod new_disk;
mod screen;
mod spec;
mod stats;
mod streams;
mod tail;
mod timeline;
mod wake;

pub(crate) use self::args::RunArgs;
use self::args::StatsFormat;
use self::command::Command;
use self::console::Console;
use self::control::Named;
pub(crate) use self::disc::look_at_disc;
use self::end::{End, Purpose};
use self::live::Live;
pub(crate) use self::network::{NetworkArgs, parse_rule};
pub(crate) use self::new_disk::NewDisks;
pub(crate) use self::screen::ScreenArgs;
use self::spec::Job;
pub(crate) use self::spec::split_disk;
use self::tail::Tail;
pub(crate) use self::tail::printable;
use crate::report::Failure;
use crate::start::Manner;

/// Finds out whether a machine can be started, for who starts it in the background: images are built, firmware is fetched, files
/// are opened and closed again.
pub(crate) fn rehearse(args: &RunArgs, verbose: u8, quiet: bool) -> Result<(), Failure> {
    spec::plan(args, verbose, quiet).map(drop)
}

/// Runs a machine and gives the exit status.
pub(crate) fn main(args: &RunArgs, verbose: u8, quiet: bool) -> Result<u8, Failure> {
    let mut named = Named::claim(args)?;
    let (mut spec, job) = spec::plan(args, verbose, quiet)?;
    let tell = |line: &str| {
        if verbose > 0 {
            eprintln!("visor: {line}");
        }
    };
    let network = network::attach(&args.network, &mut spec, args.image.is_some(), tell)?;
    firmware::network_roms(args, &mut spec, quiet)?;
    let purpose = if matches!(job, Job::Command(_)) { Purpose::Command } else { Purpose::Machine };
    let mut live = Live::start(spec, args, tell)?;
    network.report(&args.network, tell);
    named.iter_mut().try_for_each(|n| n.serve(&live, &network))?;
    let done = work(&live, job, args, verbose, quiet);
    let stats = live.finish(args.stats.unwrap_or(StatsFormat::Table));
    live.write_screen(&args.screen)?;
    if args.stats.is_some() {
        eprint!("{stats}");
    }
    network.finish()?;
    if let Some(file) = &args.firmware.timeline {
        timeline::write(file, &live.timeline().events())?;
    }
    let (end, hidden) = done?;
    let reached = matches!(end, End::TimedOut(_)).then(|| timeline::reached(&live.timeline().events()));
    end.conclude(purpose, hidden.as_ref()).map_err(|mut failure| {
        failure.hints.splice(..0, reached);
        failure
    })
}

fn work(live: &Live, job: Job, args: &RunArgs, verbose: u8, quiet: bool) -> Result<(End, Option<Tail>), Failure> {
    let background = args.detach;
    // Boot messages tell the same, and would break the line.
    let told = !quiet && verbose == 0 && !background;
    let manner = if told { Manner::of_stderr() } else { Manner::Silent };
    let announce = control::boots(args);
    match job {
        Job::Serial => {
            let look = console::Look {
                curtain: false,
                agent: false,
                announce,
                manner,
                banner: !quiet,
                log: verbose > 0,
                background,
            };
            Console::open(live, look)?.run()
        }
        Job::Shell => {
            let look = console::Look {
                curtain: verbose == 0,
                agent: true,
                announce,
                manner,
                banner: !quiet,
                log: false,
                background,
            };
            Console::open(live, look)?.run()
        }
        Job::Command(argv) => {
            // Elsewhere than on a terminal standard error is the command's alone.
            let manner = if manner == Manner::Whole { Manner::Silent } else { manner };
            let look = command::Look { announce, manner, console: verbose > 0, worry: !quiet, background };
            Command::new(live, argv, look)?.run()
        }
    }
}
