//! Running machines by name: who owns a name, and the socket through which a running machine is spoken to.
//!
//! - `place`: where machines live, and their names; `record`: what each tells of itself in a file;
//! - `claim`: owning a name while a process lives, and what killed processes leave behind;
//! - `message`, `lines`, `frames`: the protocol; `server`, `verbs`: its machine's side; `client`: the other side.
//!
//! ```text
//! $XDG_RUNTIME_DIR/visor/machines/NAME/      0700; without that variable /tmp/visor-UID/machines/NAME/
//!     lock            held (flock) by the machine's process as long as it lives: a free lock is a dead machine
//!     machine.json    what it is (`MachineRecord`)
//!     control.sock    0600, this protocol
//! ```
//!
//! # Protocol, version 1
//! A connection carries requests, each answered before the next is read; both are one line of JSON:
//!
//! ```text
//! > {"v":1,"verb":"power.pause","args":{}}
//! < {"v":1,"ok":{"state":"paused"}}
//! > {"v":1,"verb":"screen.picture"}
//! < {"v":1,"ok":{"width":720,"height":400},"payload":9120}       9120 bytes of PNG follow the line
//! > {"v":1,"verb":"power.halt"}
//! < {"v":1,"error":{"kind":"unknown-verb","message":"...","hints":["did you mean `power.kill`?"]}}
//! ```
//!
//! A verb may turn its connection into a stream of bytes ([`Reply::Stream`]): whatever follows its answer, in both directions, is then
//! the verb's own. Requests are [`MAX_REQUEST`] bytes at most, lines of answers [`MAX_ANSWER`]; a line must arrive within seconds
//! of its first byte, and [`MAX_CLIENTS`] are served at once. The verb `verbs` lists the others.
//!
//! # How to add a verb
//! 1. The machine's side is a file of the domain (`disk`, `port`, ...) with a table of [`Verb`]s and one function each, which gets the
//!    context and its arguments ([`arguments`] makes a struct of them) and gives a [`Reply`] or a [`Refusal`]. In visor's program that
//!    is `crates/cli/src/run/control/DOMAIN.rs`, and its table is one line in `run/control/mod.rs`.
//! 2. The user's side sends the verb with [`Client::call`] and shows the answer: in visor's program
//!    `crate::machine::find(NAME)?.call("disk.attach", &args)?` from wherever the command lives.
//! 3. Names are `domain.verb`. Paths in arguments are made absolute by whoever sends them: the machine's process has another working
//!    directory. Arguments are structs with `#[serde(deny_unknown_fields)]`, so that an older machine refuses what it does not know
//!    instead of ignoring it.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod claim;
mod client;
mod frames;
mod lines;
mod message;
mod place;
mod record;
mod server;
#[cfg(test)]
mod tests;
mod verbs;

pub use claim::{Claim, ClaimError};
pub use client::{CallError, Client};
pub use frames::{MAX_FRAME, read_frame, write_frame};
pub use message::{MAX_ANSWER, MAX_PAYLOAD, MAX_REQUEST, Refusal, RefusalKind, VERSION};
pub use place::{Found, MAX_NAME, Place, PlaceError, Places, near};
pub use record::MachineRecord;
pub use server::{Handler, MAX_CLIENTS, Reply, Server};
pub use verbs::{Verb, Verbs, arguments};
