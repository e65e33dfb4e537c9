//! Commands in the guest, where it has an agent. What is sent on the connection is [`crate::machine::exec`]'s.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use visor_control::{Refusal, RefusalKind, Reply, Verb, arguments, read_frame, write_frame};
use visor_guest::protocol::{ExecSpec, Stream};

use super::super::execs::{Line, Output};
use super::Context;
use crate::machine::exec as frame;

pub(super) const VERBS: &[Verb<Context>] = &[Verb { name: "exec.run", run: exec }];

/// How long a client may leave output unread before it is let go.
const PATIENCE: Duration = Duration::from_secs(3600);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exec {
    argv: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    #[serde(default)]
    cwd: String,
    /// Columns and rows, for a terminal instead of pipes.
    tty: Option<(u16, u16)>,
}

/// Runs a command, whose streams the connection becomes.
fn exec(c: &Context, args: Value) -> Result<Reply, Refusal> {
    let Exec { argv, env, cwd, tty } = arguments(args)?;
    if argv.is_empty() {
        return Err(Refusal::new(RefusalKind::Arguments, "there is no command"));
    }
    if !c.agent {
        return Err(Refusal::new(RefusalKind::Missing, "there is no agent in this guest to run commands")
            .hint(format!("its console has what there is: visor console {}", c.record.name)));
    }
    let bytes = |list: Vec<String>| list.into_iter().map(String::into_bytes).collect();
    let line = c.wishes.exec(ExecSpec { argv: bytes(argv), env: bytes(env), cwd: cwd.into_bytes(), tty });
    Ok(Reply::Stream(json!({}), Box::new(move |stream| serve(stream, &line))))
}

fn serve(stream: UnixStream, line: &Arc<Line>) {
    let Ok(out) = stream.try_clone() else { return line.hang_up() };
    let to_client = line.clone();
    let writer = std::thread::Builder::new().name("exec out".into()).spawn(move || write(out, &to_client));
    let mut from = &stream;
    while let Ok(Some((kind, data))) = read_frame(&mut from) {
        match (kind, &data[..]) {
            (frame::STDIN, bytes) => _ = line.input(bytes),
            (frame::STDIN_END, _) => line.end_input(),
            (frame::SIZE, [a, b, c, d]) => line.resize(u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])),
            (frame::SIGNAL, [number]) => line.signal(*number),
            // Who sends nonsense is let go.
            _ => break,
        }
    }
    line.hang_up();
    if let Ok(writer) = writer {
        let _ = writer.join();
    }
}

fn write(mut stream: UnixStream, line: &Line) {
    let _ = stream.set_write_timeout(Some(PATIENCE));
    while let Some(output) = line.next() {
        let written = match &output {
            Output::Bytes(Stream::Stderr, bytes) => write_frame(&mut stream, frame::STDERR, bytes),
            Output::Bytes(_, bytes) => write_frame(&mut stream, frame::STDOUT, bytes),
            Output::Exited(status) => write_frame(&mut stream, frame::EXITED, &[*status]),
            Output::Failed(status, why) => {
                write_frame(&mut stream, frame::FAILED, &[&[*status], why.as_bytes()].concat())
            }
        };
        if written.is_err() {
            break;
        }
        if let Output::Bytes(kind, bytes) = &output {
            line.took(*kind, bytes.len());
        }
    }
    // The reader ends with it.
    let _ = stream.shutdown(std::net::Shutdown::Both);
}
