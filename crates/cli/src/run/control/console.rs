//! The serial console: whoever attaches sees what came before, and types along.

use std::io::{Read as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Deserialize;
use serde_json::{Value, json};
use visor_control::{Refusal, Reply, Verb, arguments};
use visor_machine::SerialInput;

use super::super::hub::{Hub, Place, Read};
use super::Context;
use super::info::word;

pub(super) const VERBS: &[Verb<Context>] = &[
    Verb { name: "console.attach", run: attach },
    Verb { name: "console.log", run: log },
    Verb { name: "console.resize", run: resize },
];

/// Bytes moved at a time.
const AT_A_TIME: usize = 64 << 10;
/// Between two looks whether somebody is still attached.
const LOOK: Duration = Duration::from_millis(500);
/// How long somebody who is attached may leave output unread before he is let go.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Attach {
    /// Bytes of what came before.
    scrollback: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resize {
    columns: u16,
    rows: u16,
}

/// Makes the console of the connection, both ways.
fn attach(c: &Context, args: Value) -> Result<Reply, Refusal> {
    let Attach { scrollback } = arguments(args)?;
    let (hub, input) = (c.hub.clone(), c.machine.serial_input());
    let place = hub.tail(scrollback);
    let about = json!({ "state": word(&c.machine.state()) });
    Ok(Reply::Stream(about, Box::new(move |stream| converse(stream, &hub, place, input))))
}

/// What has come so far.
fn log(c: &Context, args: Value) -> Result<Reply, Refusal> {
    let Attach { scrollback } = arguments(args)?;
    let mut place = c.hub.tail(scrollback);
    let bytes = match c.hub.read(&mut place, scrollback, Duration::ZERO) {
        Read::Bytes(bytes, _) => bytes,
        Read::Nothing | Read::End => Vec::new(),
    };
    Ok(Reply::Payload(json!({}), bytes))
}

/// Tells the guest the size of the terminal behind its console, where it has an agent.
fn resize(c: &Context, args: Value) -> Result<Reply, Refusal> {
    let Resize { columns, rows } = arguments(args)?;
    c.wishes.resize(columns, rows);
    Ok(Reply::done())
}

fn converse(stream: UnixStream, hub: &Arc<Hub>, place: Place, mut input: SerialInput) {
    let (Ok(out), shown) = (stream.try_clone(), hub.clone()) else { return };
    let writer = std::thread::Builder::new().name("console out".into()).spawn(move || show(out, &shown, place));
    let Ok(writer) = writer else { return };
    let mut typed = [0; 4096];
    let mut from = &stream;
    // An end of what is typed is no end of what is shown.
    while let Ok(n) = from.read(&mut typed) {
        if n == 0 || typed.get(..n).is_none_or(|t| input.write_all(t).is_err()) {
            break;
        }
    }
    let _ = writer.join();
}

fn show(mut stream: UnixStream, hub: &Hub, mut place: Place) {
    let _ = stream.set_write_timeout(Some(PATIENCE));
    if let Read::Bytes(old, _) = hub.read(&mut place, usize::MAX, Duration::ZERO)
        && stream.write_all(&without_queries(old)).is_err()
    {
        let _ = stream.shutdown(std::net::Shutdown::Both);
        return;
    }
    loop {
        let written = match hub.read(&mut place, AT_A_TIME, LOOK) {
            Read::Bytes(bytes, 0) => stream.write_all(&bytes),
            Read::Bytes(bytes, missed) => write!(stream, "\r\n[visor: {missed} bytes were not read in time]\r\n")
                .and_then(|()| stream.write_all(&bytes)),
            Read::Nothing if has_gone(&stream) => break,
            Read::Nothing => Ok(()),
            Read::End => break,
        };
        if written.is_err() {
            break;
        }
    }
    // Ends the reader as well.
    let _ = stream.shutdown(std::net::Shutdown::Both);
}

/// `old` output without what a terminal answers (ECMA-48 DSR and DA): the answer would be typed into the guest, which has long had one.
fn without_queries(old: Vec<u8>) -> Vec<u8> {
    const QUERIES: [&[u8]; 5] = [b"\x1b[6n", b"\x1b[5n", b"\x1b[c", b"\x1b[0c", b"\x1b[>c"];
    let mut out = Vec::with_capacity(old.len());
    let mut rest = &old[..];
    while let Some((first, after)) = rest.split_first() {
        match QUERIES.iter().find(|q| rest.starts_with(q)) {
            Some(q) => rest = rest.get(q.len()..).unwrap_or_default(),
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

/// Whether the other end has closed the connection, not just its half of it.
fn has_gone(stream: &UnixStream) -> bool {
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    let gone = PollFlags::POLLHUP | PollFlags::POLLERR;
    poll(&mut fds, PollTimeout::ZERO).is_ok() && fds[0].revents().is_some_and(|r| r.intersects(gone))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_questions_are_not_asked_again() {
        assert_eq!(without_queries(b"a\x1b[6nb\x1b[1mc\x1b[c\x1b[".to_vec()), b"ab\x1b[1mc\x1b[");
    }
}
