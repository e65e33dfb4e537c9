//! Host session and agent together, over a socket pair on this machine.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::*;
use crate::host::{ExecId, HostEvent, HostSession};
use crate::protocol::{ExitStatus, Stream};

#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<String>>>);

impl Recorder {
    fn note(&self, words: String) -> io::Result<()> {
        self.0.lock().unwrap().push(words);
        Ok(())
    }
}

impl Platform for Recorder {
    fn shutdown(&mut self, kind: ShutdownKind) -> io::Result<()> {
        self.note(format!("{kind:?}"))
    }
    fn set_clock(&mut self, secs: i64, nanos: u32) -> io::Result<()> {
        self.note(format!("clock {secs}.{nanos}"))
    }
    fn resize_console(&mut self, cols: u16, rows: u16) -> io::Result<()> {
        self.note(format!("console {cols}x{rows}"))
    }
}

/// A host that drives a session with an agent in another thread.
struct Rig {
    session: HostSession,
    socket: UnixStream,
    agent: Option<JoinHandle<()>>,
    notes: Recorder,
}

impl Rig {
    fn new() -> Self {
        let (host, guest) = UnixStream::pair().unwrap();
        guest.set_nonblocking(true).unwrap();
        host.set_nonblocking(true).unwrap();
        let notes = Recorder::default();
        let platform = notes.clone();
        let agent = std::thread::spawn(move || {
            // The agent reads some signals from a descriptor, and so did PID 1, which started it.
            let _signals = sys::SignalFd::new(&[libc::SIGINT, libc::SIGTERM, libc::SIGIO]).unwrap();
            let mut port = File::from(OwnedFd::from(guest));
            Agent::new(platform).serve(&mut port).unwrap();
        });
        let mut rig = Self { session: HostSession::new(77), socket: host, agent: Some(agent), notes };
        assert!(matches!(rig.event(), HostEvent::Ready(_)));
        rig
    }

    /// Moves bytes once, both ways.
    fn pump(&mut self) {
        let mut set = PollSet::new();
        set.add(&self.socket, true, !self.session.output().is_empty());
        set.wait(Some(Duration::from_secs(10))).unwrap();
        while !self.session.output().is_empty() {
            match self.socket.write(self.session.output()) {
                Ok(n) => self.session.consume_output(n),
                Err(e) => {
                    assert_eq!(e.kind(), io::ErrorKind::WouldBlock);
                    break;
                }
            }
        }
        let mut buffer = [0; 10_000];
        match self.socket.read(&mut buffer) {
            Ok(0) => panic!("the agent hung up"),
            Ok(n) => self.session.feed(&buffer[..n]).unwrap(),
            Err(e) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock),
        }
    }

    fn event(&mut self) -> HostEvent {
        let end = Instant::now() + Duration::from_secs(300);
        loop {
            if let Some(event) = self.session.poll_event() {
                return event;
            }
            assert!(Instant::now() < end, "nothing happens");
            self.pump();
        }
    }

    /// Feeds `input`, collects stdout and stderr until the command ends.
    fn finish(&mut self, id: ExecId, mut input: &[u8]) -> (Vec<u8>, Vec<u8>, ExitStatus) {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            let n = self.session.write_stdin(id, input);
            input = &input[n..];
            if input.is_empty() {
                self.session.close_stdin(id);
            }
            match self.event() {
                HostEvent::Output { id: of, stream, bytes } => {
                    assert_eq!(of, id);
                    self.session.consumed(id, stream, bytes.len());
                    if stream == Stream::Stdout { &mut stdout } else { &mut stderr }.extend(bytes);
                }
                HostEvent::Exited { status, .. } => return (stdout, stderr, status),
                HostEvent::StdinRoom(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn run(&mut self, argv: &[&str], input: &[u8]) -> (Vec<u8>, Vec<u8>, ExitStatus) {
        let id = self.session.exec(&ExecSpec::new(argv.iter().copied())).unwrap();
        self.finish(id, input)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        let joined = self.agent.take().unwrap().join();
        assert!(std::thread::panicking() || joined.is_ok());
    }
}

#[test]
fn output_errors_and_status_come_back() {
    let mut rig = Rig::new();
    let (out, err, status) = rig.run(&["sh", "-c", "echo out; echo err >&2; exit 7"], b"");
    assert_eq!((&out[..], &err[..], status), (&b"out\n"[..], &b"err\n"[..], ExitStatus::Code(7)));
    let (_, _, status) = rig.run(&["sh", "-c", "kill -9 $$"], b"");
    assert_eq!(status, ExitStatus::Signal(9));
}

#[test]
fn ten_megabytes_go_through_cat_unharmed() {
    let mut rig = Rig::new();
    let data: Vec<u8> = (0..10_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let (out, _, status) = rig.run(&["cat"], &data);
    assert_eq!(status, ExitStatus::Code(0));
    assert!(out == data, "got {} bytes", out.len());
}

#[test]
fn a_command_that_does_not_read_does_not_block() {
    let mut rig = Rig::new();
    let (out, _, status) = rig.run(&["head", "-c", "5"], &vec![b'a'; 3_000_000]);
    assert_eq!((&out[..], status), (&b"aaaaa"[..], ExitStatus::Code(0)));
}

#[test]
fn output_nobody_consumes_stops_the_command_not_the_session() {
    let mut rig = Rig::new();
    let id = rig.session.exec(&ExecSpec::new(["yes"])).unwrap();
    let mut got = 0;
    while got < crate::protocol::WINDOW {
        if let HostEvent::Output { bytes, .. } = rig.event() {
            got += bytes.len();
        }
    }
    rig.session.ping(5);
    assert_eq!(rig.event(), HostEvent::Pong(5), "no output beyond the window, and others are served");
    rig.session.signal(id, 15).unwrap();
    rig.session.consumed(id, Stream::Stdout, got);
    let (_, _, status) = rig.finish(id, b"");
    assert_eq!(status, ExitStatus::Signal(15));
}

#[test]
fn environment_directory_and_refusals() {
    let mut rig = Rig::new();
    let mut spec = ExecSpec::new(["sh", "-c", "echo $A $HOME; pwd"]);
    spec.env = vec![b"A=b=c".to_vec(), b"HOME=/x".to_vec()];
    spec.cwd = b"/usr".to_vec();
    let id = rig.session.exec(&spec).unwrap();
    assert_eq!(rig.finish(id, b"").0, b"b=c /x\n/usr\n");

    for (program, kind) in [("/no/such", ErrorKind::NotFound), ("/etc/passwd", ErrorKind::NotPermitted)] {
        let id = rig.session.exec(&ExecSpec::new([program])).unwrap();
        match rig.event() {
            HostEvent::Refused { id: of, failure } => assert_eq!((of, failure.kind), (id, kind)),
            other => panic!("{other:?}"),
        }
    }
    spec.cwd = b"/no/such".to_vec();
    rig.session.exec(&spec).unwrap();
    assert!(matches!(rig.event(), HostEvent::Refused { .. }));
}

#[test]
fn a_terminal_is_a_terminal() {
    let mut rig = Rig::new();
    let mut spec = ExecSpec::new(["sh", "-c", "test -t 0 && test -t 2 && stty size; read x; echo got $x; stty size"]);
    spec.tty = Some((123, 45));
    let id = rig.session.exec(&spec).unwrap();
    let mut seen = String::new();
    loop {
        match rig.event() {
            HostEvent::Output { bytes, stream, .. } => {
                assert_eq!(stream, Stream::Stdout);
                rig.session.consumed(id, stream, bytes.len());
                seen.push_str(&String::from_utf8(bytes).unwrap());
                if seen.ends_with("45 123\r\n") && !seen.contains("got") {
                    rig.session.resize(id, 80, 24).unwrap();
                    rig.session.write_stdin(id, b"hello\n");
                }
            }
            HostEvent::Exited { status, .. } => {
                assert_eq!(status, ExitStatus::Code(0));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(seen.ends_with("got hello\r\n24 80\r\n"), "{seen:?}");
}

#[test]
fn end_of_input_and_interrupt_reach_a_terminal() {
    let mut rig = Rig::new();
    let mut spec = ExecSpec::new(["cat"]);
    spec.tty = Some((80, 24));
    let id = rig.session.exec(&spec).unwrap();
    assert_eq!(rig.finish(id, b"").2, ExitStatus::Code(0));

    let id = rig.session.exec(&spec).unwrap();
    // The shell's ctrl-c; sent when cat certainly runs.
    rig.session.write_stdin(id, b"x\n");
    while !matches!(rig.event(), HostEvent::Output { .. }) {}
    rig.session.write_stdin(id, b"\x03");
    loop {
        if let HostEvent::Exited { status, .. } = rig.event() {
            assert_eq!(status, ExitStatus::Signal(2));
            break;
        }
    }
}

#[test]
fn commands_begin_with_no_signal_blocked_or_ignored() {
    // As the shell does for what it starts in the background.
    // SAFETY: nothing here waits for the signal.
    unsafe { libc::signal(libc::SIGQUIT, libc::SIG_IGN) };
    let (out, _, _) = Rig::new().run(&["grep", "SigIgn", "/proc/self/status"], b"");
    let ignored =
        u64::from_str_radix(String::from_utf8(out).unwrap().trim_start_matches("SigIgn:").trim(), 16).unwrap();
    // 32 and 33 are the C library's own: it leaves them as they were when the test was started.
    assert_eq!(ignored & !(3 << 31), 0, "{ignored:x}");
    let (out, _, _) = Rig::new().run(&["grep", "SigBlk", "/proc/self/status"], b"");
    assert_eq!(String::from_utf8(out).unwrap(), "SigBlk:\t0000000000000000\n");
    let (out, _, status) = Rig::new().run(&["sh", "-c", "kill -TERM $$; echo deaf"], b"");
    assert_eq!((out, status), (Vec::new(), ExitStatus::Signal(15)));
}

#[test]
fn a_process_left_behind_does_not_hold_the_host() {
    let mut rig = Rig::new();
    let begin = Instant::now();
    let (out, _, status) = rig.run(&["sh", "-c", "sleep 20 & echo started"], b"");
    assert_eq!((&out[..], status), (&b"started\n"[..], ExitStatus::Code(0)));
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[test]
fn commands_run_side_by_side() {
    let mut rig = Rig::new();
    let slow = rig.session.exec(&ExecSpec::new(["cat"])).unwrap();
    let (out, ..) = rig.run(&["echo", "quick"], b"");
    assert_eq!(out, b"quick\n");
    assert_eq!(rig.finish(slow, b"late").0, b"late");
}

#[test]
fn the_platform_is_asked() {
    let mut rig = Rig::new();
    rig.session.set_clock(1_700_000_000, 5);
    rig.session.resize_console(100, 30);
    rig.session.shutdown(ShutdownKind::Reboot);
    rig.session.ping(1);
    assert_eq!(rig.event(), HostEvent::Pong(1));
    assert_eq!(*rig.notes.0.lock().unwrap(), ["clock 1700000000.5", "console 100x30", "Reboot"]);
}

#[test]
fn a_new_session_ends_the_old_one() {
    let mut rig = Rig::new();
    let id = rig.session.exec(&ExecSpec::new(["sh", "-c", "echo $$; sleep 30"])).unwrap();
    let HostEvent::Output { bytes, .. } = rig.event() else { panic!() };
    let pid: u32 = String::from_utf8(bytes).unwrap().trim().parse().unwrap();
    let _ = id;
    rig.session = HostSession::new(78);
    assert!(matches!(rig.event(), HostEvent::Ready(_)));
    // Killed and reaped before the greeting was answered, so the number is free.
    assert!(sys::kill(pid, 0).is_err());
    assert_eq!(rig.run(&["echo", "new"], b"").0, b"new\n");
}
