use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::*;

fn places(dir: &tempfile::TempDir) -> Places {
    Places::new(&dir.path().join("visor")).unwrap()
}

fn record(name: &str) -> MachineRecord {
    MachineRecord { name: name.into(), pid: std::process::id(), image: "tiny".into(), ..MachineRecord::default() }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Twice {
    text: String,
}

fn twice(_: &u32, args: Value) -> Result<Reply, Refusal> {
    let Twice { text } = arguments(args)?;
    Reply::of(&format!("{text}{text}"))
}

fn picture(n: &u32, _: Value) -> Result<Reply, Refusal> {
    Ok(Reply::Payload(json!({ "width": n }), b"line\nline\n".repeat(10_000)))
}

fn slow(_: &u32, _: Value) -> Result<Reply, Refusal> {
    std::thread::sleep(Duration::from_millis(300));
    Ok(Reply::done())
}

fn refuse(_: &u32, _: Value) -> Result<Reply, Refusal> {
    Err(Refusal::new(RefusalKind::Missing, "no screen").hint("start it with --display"))
}

fn echo(_: &u32, _: Value) -> Result<Reply, Refusal> {
    Ok(Reply::Stream(
        json!("go"),
        Box::new(|mut stream| {
            let mut byte = [0];
            while stream.read(&mut byte).is_ok_and(|n| n > 0) && stream.write_all(&byte).is_ok() {}
        }),
    ))
}

fn panics(_: &u32, _: Value) -> Result<Reply, Refusal> {
    panic!("a verb that fails badly")
}

const DOMAIN: &[Verb<u32>] = &[
    Verb { name: "test.twice", run: twice },
    Verb { name: "test.picture", run: picture },
    Verb { name: "test.slow", run: slow },
    Verb { name: "test.refuse", run: refuse },
    Verb { name: "test.echo", run: echo },
    Verb { name: "test.panic", run: panics },
];

struct Running {
    claim: Claim,
    server: Option<Server>,
    _dir: tempfile::TempDir,
}

impl Running {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let claim = Claim::take(&places(&dir).named("web").unwrap()).unwrap();
        let server = Server::start(claim.place(), Arc::new(Verbs::new(7, &[DOMAIN]))).unwrap();
        Running { claim, server: Some(server), _dir: dir }
    }

    fn client(&self) -> Client {
        Client::connect(self.claim.place()).unwrap()
    }

    fn raw(&self) -> UnixStream {
        UnixStream::connect(self.claim.place().socket()).unwrap()
    }

    /// Sends bytes and reads the answer's line.
    fn ask_raw(&self, bytes: &[u8]) -> Value {
        let mut stream = self.raw();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        let mut byte = [0];
        while stream.read(&mut byte).unwrap() > 0 && byte[0] != b'\n' {
            answer.push(byte[0]);
        }
        serde_json::from_slice(&answer).unwrap()
    }
}

#[test]
fn names_are_those_of_hosts() {
    let dir = tempfile::tempdir().unwrap();
    let places = places(&dir);
    let longest = "a".repeat(63);
    for good in ["a", "web-1", "0", &longest] {
        assert!(places.named(good).is_ok(), "{good}");
    }
    for bad in ["", ".", "..", "a/b", "-x", "Web", "a b", "ä", "a\n", &"a".repeat(64)] {
        assert!(matches!(places.named(bad), Err(PlaceError::Name(_))), "{bad:?}");
    }
    assert_eq!(near("wbe", ["db", "web", "webmail"]), Some("web"));
    assert_eq!(near("wbe", ["db", "cache"]), None);
    assert_eq!(near("x", ["y"]), None, "everything is near to one letter");
}

#[test]
fn directories_of_others_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("visor");
    std::fs::create_dir(&root).unwrap();
    std::fs::set_permissions(&root, PermissionsExt::from_mode(0o777)).unwrap();
    assert!(Places::new(&root).unwrap_err().to_string().contains("others can write to it"));
    std::fs::set_permissions(&root, PermissionsExt::from_mode(0o755)).unwrap();
    assert!(Places::new(&root).is_ok());
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&root, &link).unwrap();
    assert!(Places::new(&link).unwrap_err().to_string().contains("it is something else"));
}

#[test]
fn a_name_is_had_once_and_freed() {
    let dir = tempfile::tempdir().unwrap();
    let place = places(&dir).named("web").unwrap();
    assert!(place.find().is_none());
    let claim = Claim::take(&place).unwrap();
    assert!(place.find().unwrap().record.is_none(), "it starts");
    claim.describe(&record("web")).unwrap();
    let error = Claim::take(&place).unwrap_err().to_string();
    let expected = format!("a machine called `web` runs already (process {}, tiny)", std::process::id());
    assert_eq!(error, expected);
    let running = places(&dir).running();
    assert_eq!((running.len(), running[0].record.as_ref().unwrap()), (1, &record("web")));
    drop(claim);
    assert!(!place.directory().exists());
    assert!(places(&dir).running().is_empty());
    drop(Claim::take(&place).unwrap());
}

#[test]
fn what_a_killed_machine_leaves_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let place = places(&dir).named("web").unwrap();
    let leave = || {
        std::fs::create_dir(place.directory()).unwrap();
        for file in ["lock", "control.sock", "machine.json.new"] {
            std::fs::write(place.directory().join(file), "").unwrap();
        }
        std::fs::write(place.directory().join("machine.json"), serde_json::to_vec(&record("old")).unwrap()).unwrap();
    };
    leave();
    let claim = Claim::take(&place).unwrap();
    assert!(place.record().is_none(), "not the old one's");
    drop(claim);
    leave();
    assert!(places(&dir).running().is_empty());
    assert!(!place.directory().exists());
}

#[test]
fn many_want_a_name_and_one_gets_it() {
    let dir = tempfile::tempdir().unwrap();
    let place = places(&dir).named("web").unwrap();
    for _ in 0..20 {
        let start = std::sync::Barrier::new(4);
        let claims: Vec<_> = std::thread::scope(|s| {
            let try_it = || {
                start.wait();
                let claim = Claim::take(&place);
                claim.iter().for_each(|c| c.describe(&record("web")).unwrap());
                claim
            };
            let threads: Vec<_> = (0..4).map(|_| s.spawn(try_it)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(claims.iter().filter(|c| c.is_ok()).count(), 1, "{claims:?}");
    }
}

#[test]
fn verbs_are_called_with_their_arguments() {
    let running = Running::start();
    let mut client = running.client();
    assert_eq!(client.call::<String>("test.twice", &json!({ "text": "ab" })).unwrap(), "abab");
    let (value, png): (Value, _) = client.call_with_payload("test.picture", &Value::Null).unwrap();
    assert_eq!((value, png), (json!({ "width": 7 }), b"line\nline\n".repeat(10_000)));
    assert_eq!(client.call::<String>("test.twice", &json!({ "text": "" })).unwrap(), "", "after a payload");
    let verbs: Vec<String> = client.call("verbs", &()).unwrap();
    assert_eq!(verbs.len(), DOMAIN.len());
    let socket = std::fs::metadata(running.claim.place().socket()).unwrap();
    let directory = std::fs::metadata(running.claim.place().directory()).unwrap();
    assert_eq!((socket.mode() & 0o777, directory.mode() & 0o777), (0o600, 0o700));
}

#[test]
fn refusals_say_what_to_do() {
    let running = Running::start();
    let mut client = running.client();
    let mut refused = |verb: &str, args: Value| match client.call::<Value>(verb, &args) {
        Err(CallError::Refused(r)) => r,
        other => panic!("{other:?}"),
    };
    let r = refused("test.refuse", Value::Null);
    assert_eq!(
        (r.kind, r.message.as_str(), r.hints[0].as_str()),
        (RefusalKind::Missing, "no screen", "start it with --display")
    );
    let r = refused("test.twise", Value::Null);
    assert_eq!((r.kind, r.hints[0].as_str()), (RefusalKind::UnknownVerb, "did you mean `test.twice`?"));
    let r = refused("test.twice", json!({ "text": "a", "times": 3 }));
    assert!(r.kind == RefusalKind::Arguments && r.message.contains("times"), "{r}");
    assert_eq!(refused("test.twice", json!([])).kind, RefusalKind::Arguments);
}

#[test]
fn a_verb_can_make_a_stream_of_its_connection() {
    let running = Running::start();
    let (value, _, mut stream) = running.client().stream("test.echo", &()).unwrap();
    assert_eq!(value, json!("go"));
    stream.write_all(b"hello").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut back = String::new();
    stream.read_to_string(&mut back).unwrap();
    assert_eq!(back, "hello");
}

#[test]
fn garbage_is_refused_and_others_are_served_meanwhile() {
    let running = Running::start();
    let silent = running.raw();
    let mut half = running.raw();
    half.write_all(b"{\"v\":1,").unwrap();
    for (bytes, kind) in [
        (&b"hello\n"[..], "malformed"),
        (b"\xff\xfe\x00\n", "malformed"),
        (b"[1,2]\n", "malformed"),
        (b"{\"v\":1}\n", "malformed"),
        (b"{\"v\":2,\"verb\":\"x\"}\n", "version"),
        (b"{\"v\":1,\"verb\":\"\"}\n", "unknown-verb"),
    ] {
        assert_eq!(running.ask_raw(bytes)["error"]["kind"], kind, "{}", String::from_utf8_lossy(bytes));
    }
    let deep = [&b"{\"v\":1,\"verb\":\"verbs\",\"args\":"[..], &vec![b'['; 100_000], b"\n"].concat();
    assert_eq!(running.ask_raw(&deep)["error"]["kind"], "malformed");
    let long = vec![b'x'; MAX_REQUEST + 2];
    assert_eq!(running.ask_raw(&long)["error"]["kind"], "malformed");
    assert!(matches!(running.client().call::<Value>("test.panic", &()), Err(CallError::Gone)));
    assert!(running.client().call::<Value>("verbs", &()).is_ok());
    drop((silent, half));
}

#[test]
fn one_client_too_many_is_told_so() {
    let running = Running::start();
    let mut clients: Vec<Client> = (0..MAX_CLIENTS).map(|_| running.client()).collect();
    // Each has been accepted once it is answered.
    clients.iter_mut().for_each(|c| _ = c.call::<Value>("verbs", &()).unwrap());
    match running.client().call::<Value>("verbs", &()) {
        Err(CallError::Refused(r)) => assert_eq!(r.kind, RefusalKind::Busy),
        other => panic!("{other:?}"),
    }
    drop(clients);
    let end = std::time::Instant::now() + Duration::from_secs(30);
    while running.client().call::<Value>("verbs", &()).is_err() {
        assert!(std::time::Instant::now() < end, "room is never made");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_answer_under_way_is_given_before_the_end() {
    let mut running = Running::start();
    let mut client = running.client();
    let idle = running.client();
    let asked = std::thread::spawn(move || client.call::<Value>("test.slow", &()));
    std::thread::sleep(Duration::from_millis(100));
    drop(running.server.take());
    assert_eq!(asked.join().unwrap().unwrap(), json!({}));
    drop(idle);
    assert!(matches!(Client::connect(running.claim.place()), Err(CallError::Unreachable(_))));
}

/// A machine that answers `answer` to whatever it is asked.
fn liar(dir: &tempfile::TempDir, answer: &'static [u8]) -> Client {
    let place = places(dir).named("liar").unwrap();
    std::fs::create_dir_all(place.directory()).unwrap();
    let _ = std::fs::remove_file(place.socket());
    let listener = UnixListener::bind(place.socket()).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 1000]);
        let _ = stream.write_all(answer);
        if answer.is_empty() {
            std::thread::sleep(Duration::from_secs(2));
        }
    });
    Client::connect(&place).unwrap().patient(Duration::from_millis(200))
}

#[test]
fn machines_that_lie_are_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let ask = |answer: &'static [u8]| liar(&dir, answer).call::<Value>("verbs", &()).unwrap_err();
    assert!(matches!(ask(b"hello\n"), CallError::Protocol(_)));
    assert!(matches!(ask(b"{\"v\":9,\"ok\":1}\n"), CallError::Protocol(_)));
    assert!(matches!(ask(b"{\"v\":1,\"ok\":1,\"payload\":99999999999}\n"), CallError::Protocol(_)));
    assert!(matches!(ask(b"{\"v\":1,\"ok\":1,\"payload\":100}\nabc"), CallError::Gone));
    assert!(matches!(ask(b"{\"v\":1,"), CallError::Gone));
    assert!(matches!(ask(b""), CallError::TimedOut(_)));
    let long: &'static [u8] = vec![b' '; MAX_ANSWER + 100_000].leak();
    assert!(matches!(ask(long), CallError::Protocol(_)));
}

#[test]
fn paths_that_are_too_long_for_a_socket_work() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("x".repeat(120)).join("visor");
    let claim = Claim::take(&Places::new(&root).unwrap().named("web").unwrap()).unwrap();
    let _server = Server::start(claim.place(), Arc::new(Verbs::new(7, &[DOMAIN]))).unwrap();
    assert!(Client::connect(claim.place()).unwrap().call::<Value>("verbs", &()).is_ok());
}

#[test]
fn frames_come_back_as_they_were() {
    let mut wire = Vec::new();
    write_frame(&mut wire, 1, b"").unwrap();
    write_frame(&mut wire, 2, &vec![7; MAX_FRAME + 3]).unwrap();
    let mut from = &wire[..];
    assert_eq!(read_frame(&mut from).unwrap(), Some((1, Vec::new())));
    assert_eq!(read_frame(&mut from).unwrap(), Some((2, vec![7; MAX_FRAME])));
    assert_eq!(read_frame(&mut from).unwrap(), Some((2, vec![7; 3])));
    assert_eq!(read_frame(&mut from).unwrap(), None);
    assert!(read_frame(&mut &wire[..wire.len() - 1][MAX_FRAME + 10..]).is_err(), "cut off");
    assert!(read_frame(&mut &b"\x01\xff\xff\xff\xff"[..]).is_err(), "too long");
}
