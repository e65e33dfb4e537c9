//! Networks: `visor net`, and what changes them and their guests' places in them while they run.
//!
//! - `args`: the command lines of `visor net`; `networks`: `create`, `ls`, `rm` and the process of a network;
//! - `guest`: a guest by its name, wherever it is plugged in;
//! - `port`, `fw`, `sg`: `visor port`, `visor fw`, `visor sg`;
//! - `why`, `table`, `capture`: `visor net why`, `nat-table`, `capture`; `shell`: `visor net shell`.

mod args;
mod capture;
mod fw;
mod guest;
mod networks;
mod port;
mod rules;
mod sg;
mod shell;
mod table;
mod why;

pub(crate) use self::args::NetCommand;
pub(crate) use self::fw::FwCommand;
pub(crate) use self::networks::{places, running};
pub(crate) use self::port::PortCommand;
pub(crate) use self::sg::SgCommand;
use crate::report::Failure;

/// Runs a network command.
pub(crate) fn main(command: &NetCommand, quiet: bool) -> Result<u8, Failure> {
    match command {
        NetCommand::Create(create) => networks::create(create, quiet),
        NetCommand::Ls { json } => networks::list(*json),
        NetCommand::Rm { name, force } => networks::remove(name, *force),
        NetCommand::NatTable { name, watch, json } => table::show(name.as_deref(), *watch, *json),
        NetCommand::Why { words, udp, ping } => why::why(words, *udp, *ping),
        NetCommand::Capture { name, output, time } => capture::capture(name, output, *time, quiet),
        NetCommand::Shell { name, command } => shell::shell(name, command, quiet),
        NetCommand::Serve { name } => networks::serve(name),
    }
}

/// Runs `visor port`.
pub(crate) fn port(command: &PortCommand) -> Result<u8, Failure> {
    port::main(command)
}

/// Runs `visor fw`.
pub(crate) fn fw(command: &FwCommand, quiet: bool) -> Result<u8, Failure> {
    fw::main(command, quiet)
}

/// Runs `visor sg`.
pub(crate) fn sg(command: &SgCommand) -> Result<u8, Failure> {
    sg::main(command)
}
