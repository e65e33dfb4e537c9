//! `visor` creates, boots and manages virtual machines anywhere: with KVM where it helps, on its own CPU engine elsewhere.
//!
//! - `args`: the table of commands; `values`: sizes and times as all of them read them;
//! - `run`: `visor run`;
//! - `doctor`: `visor doctor`;
//! - `image`: `visor image`;
//! - `iso`: `visor iso`;
//! - `disk`: `visor disk`; `pool`: `visor pool`;
//! - `machine`: commands for machines that run, by their names;
//! - `terminal`: the raw terminal, its escape keys and its restoration;
//! - `start`: the line that tells how far a boot has come;
//! - `report`: errors as a person reads them, and exit statuses.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod args;
mod disk;
mod doctor;
mod image;
mod iso;
mod machine;
mod net;
mod pool;
mod progress;
mod report;
mod run;
mod start;
mod terminal;
mod values;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Args, Command};

fn main() -> ExitCode {
    let args = Args::parse();
    init_tracing(args.verbose);
    // Here, while there is one thread, it costs nothing.
    visor_memory::prepare_process();
    let result = match args.command {
        Command::Run(run) => machine::run(*run, args.verbose, args.quiet),
        Command::Launch(launch) => machine::run(launch.into_run(), args.verbose, args.quiet),
        Command::Doctor(doctor) => doctor::main(&doctor),
        Command::Image { command } => image::main(&command, args.quiet),
        Command::Iso { command } => iso::main(&command, args.quiet),
        Command::Net { command } => net::main(&command, args.quiet),
        Command::Port { command } => net::port(&command),
        Command::Fw { command } => net::fw(&command, args.quiet),
        Command::Sg { command } => net::sg(&command),
        Command::Pool { command } => pool::main(&command, args.quiet),
        Command::Disk { command } => disk::main(&command, args.quiet),
        Command::Machine(command) => machine::main(&command, args.quiet),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(failure) => report::print(&failure),
    }
}

/// Diagnostics of the crates go to stderr: warnings always, more with -v or by `VISOR_LOG`.
fn init_tracing(verbose: u8) {
    let level = match verbose {
        0 => "error",
        1 => "warn",
        2 => "info",
        _ => "debug",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("VISOR_LOG").unwrap_or_else(|_| level.into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
}
