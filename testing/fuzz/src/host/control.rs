//! Clients of a machine's control socket.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use serde_json::Value;
use visor_control::{Claim, Handler, Places, Refusal, RefusalKind, Reply, Server, arguments, read_frame};

/// Answers a little of everything.
struct Machine;

#[derive(serde::Deserialize)]
struct Arguments {
    text: String,
    count: u8,
}

impl Handler for Machine {
    fn handle(&self, verb: &str, args: Value) -> Result<Reply, Refusal> {
        match verb {
            "info" => Ok(Reply::done()),
            "type" => arguments::<Arguments>(args).and_then(|a| Reply::of(&a.text.repeat(a.count.into()).len())),
            "picture" => Ok(Reply::Payload(Value::Null, vec![7; 1000])),
            "exec" => Ok(Reply::Stream(
                Value::Null,
                Box::new(|mut stream| while let Ok(Some(_)) = read_frame(&mut stream) {}),
            )),
            _ => Err(Refusal::new(RefusalKind::UnknownVerb, verb)),
        }
    }
}

struct Running {
    socket: PathBuf,
    _claim: Claim,
    _server: Server,
}

static RUNNING: LazyLock<Running> = LazyLock::new(|| {
    let root = crate::scratch::folder().expect("a folder can be made");
    std::fs::set_permissions(&root, PermissionsExt::from_mode(0o700)).expect("it is ours");
    let place = Places::new(&root).and_then(|p| p.named("vm")).expect("a place can be had");
    let claim = Claim::take(&place).expect("nobody has it");
    let server = Server::start(&place, Arc::new(Machine)).expect("it can be served");
    Running { socket: place.socket(), _claim: claim, _server: server }
});

pub(super) fn run(data: &[u8]) {
    let mut stream = UnixStream::connect(&RUNNING.socket).expect("it is served");
    let limit = Some(Duration::from_secs(30));
    stream.set_read_timeout(limit).and_then(|()| stream.set_write_timeout(limit)).expect("it is a time");
    let _ = stream.write_all(data);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.len() <= 4096 + 2048 * (1 + data.len() / 16), "{} bytes of answer to {}", answer.len(), data.len());
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        r#"{"visor":1,"verb":"info","args":{}}"#,
        r#"{"visor":1,"verb":"type","args":{"text":"ab","count":3}}"#,
        r#"{"visor":1,"verb":"picture"}"#,
        r#"{"visor":2,"verb":"info","args":null}"#,
        "{}",
        "[[[[[[",
        "",
    ];
    let mut seeds: Vec<_> = texts.iter().map(|t| format!("{t}\n").into_bytes()).collect();
    seeds.push(texts.join("\n").into_bytes());
    let mut frames = b"{\"visor\":1,\"verb\":\"exec\",\"args\":{}}\n".to_vec();
    let _ = visor_control::write_frame(&mut frames, 1, b"input");
    seeds.push(frames);
    seeds
}
