//! The host's half alone, against a guest that may lie.

use super::*;
use crate::protocol::ErrorKind;

fn ready(nonce: u64) -> ToHost {
    ToHost::Ready(Ready { version: VERSION, nonce, uptime_ms: 0, agent: "t".into(), kernel: "k".into() })
}

fn bytes(messages: &[ToHost]) -> Vec<u8> {
    let mut out = Vec::new();
    messages.iter().for_each(|m| m.emit(&mut out).unwrap());
    out
}

fn open_session() -> HostSession {
    let mut s = HostSession::new(42);
    let n = s.output().len();
    s.consume_output(n);
    s.feed(&SYNC).unwrap();
    s.feed(&bytes(&[ready(42)])).unwrap();
    assert!(matches!(s.poll_event(), Some(HostEvent::Ready(_))));
    s
}

#[test]
fn nothing_runs_before_the_greeting() {
    let mut s = HostSession::new(0);
    assert!(s.output().starts_with(&SYNC));
    assert_eq!(s.exec(&ExecSpec::new(["true"])), Err(RequestError::NotReady));
}

#[test]
fn an_old_session_is_not_mistaken_for_ours() {
    let mut s = HostSession::new(42);
    s.feed(b"tail of an old frame").unwrap();
    s.feed(&SYNC).unwrap();
    s.feed(&bytes(&[ready(41), ToHost::Stdout { id: 1, bytes: vec![1] }])).unwrap();
    assert_eq!(s.ready(), None);
    let before = s.output().len();
    s.feed(&bytes(&[ready(0)])).unwrap();
    assert!(s.output().len() > before, "an agent that announces itself is greeted again");
    s.feed(&bytes(&[ready(42)])).unwrap();
    assert!(s.ready().is_some());
}

#[test]
fn input_stops_at_the_window_and_goes_on_with_credit() {
    let mut s = open_session();
    let id = s.exec(&ExecSpec::new(["cat"])).unwrap();
    let data = vec![7; WINDOW + 1000];
    assert_eq!(s.write_stdin(id, &data), WINDOW);
    assert_eq!(s.write_stdin(id, &data), 0);
    s.feed(&bytes(&[ToHost::Credit { id: id.0, bytes: 500 }])).unwrap();
    assert_eq!(s.poll_event(), Some(HostEvent::StdinRoom(id)));
    assert_eq!(s.write_stdin(id, &data), 500);
    s.close_stdin(id);
    assert_eq!(s.stdin_room(id), 0);
}

#[test]
fn credit_is_returned_as_output_is_consumed() {
    let mut s = open_session();
    let id = s.exec(&ExecSpec::new(["yes"])).unwrap();
    let n = s.output().len();
    s.consume_output(n);
    for _ in 0..WINDOW / MAX_PAYLOAD {
        s.feed(&bytes(&[ToHost::Stdout { id: id.0, bytes: vec![0; MAX_PAYLOAD] }])).unwrap();
    }
    assert!(s.output().is_empty());
    s.consumed(id, Stream::Stdout, MAX_PAYLOAD);
    assert!(!s.output().is_empty());
    s.feed(&bytes(&[ToHost::Stdout { id: id.0, bytes: vec![0; MAX_PAYLOAD] }])).unwrap();
}

#[test]
fn a_guest_that_ignores_its_window_is_cut_off() {
    let mut s = open_session();
    let id = s.exec(&ExecSpec::new(["yes"])).unwrap();
    let chunk = bytes(&[ToHost::Stderr { id: id.0, bytes: vec![0; MAX_PAYLOAD] }]);
    for _ in 0..WINDOW / MAX_PAYLOAD {
        s.feed(&chunk).unwrap();
    }
    assert_eq!(s.feed(&chunk), Err(ProtocolError::FlowControl(id.0)));
    assert_eq!(s.feed(&[]), Err(ProtocolError::FlowControl(id.0)), "dead stays dead");
}

#[test]
fn a_guest_cannot_speak_of_commands_that_are_not_there() {
    let failure = Failure { kind: ErrorKind::Other, message: String::new() };
    for lie in [
        ToHost::Stdout { id: 9, bytes: vec![] },
        ToHost::Exit { id: 9, status: ExitStatus::Code(0) },
        ToHost::Credit { id: 9, bytes: 1 },
        ToHost::Error { id: 9, failure },
    ] {
        assert_eq!(open_session().feed(&bytes(&[lie])), Err(ProtocolError::FlowControl(9)));
    }
}

#[test]
fn too_much_credit_and_too_many_messages_are_errors() {
    let mut s = open_session();
    let id = s.exec(&ExecSpec::new(["cat"])).unwrap();
    assert!(s.feed(&bytes(&[ToHost::Credit { id: id.0, bytes: u32::MAX }])).is_err());

    let mut s = open_session();
    let flood = bytes(&vec![ToHost::Pong { token: 1 }; MAX_EVENTS + 1]);
    assert_eq!(s.feed(&flood), Err(ProtocolError::Flooded));
}

#[test]
fn ended_commands_free_their_channels() {
    let mut s = open_session();
    let ids: Vec<_> = (0..MAX_CHANNELS).map(|_| s.exec(&ExecSpec::new(["x"])).unwrap()).collect();
    assert_eq!(s.exec(&ExecSpec::new(["x"])), Err(RequestError::Busy));
    s.feed(&bytes(&[ToHost::Exit { id: ids[0].0, status: ExitStatus::Code(7) }])).unwrap();
    assert_eq!(s.poll_event(), Some(HostEvent::Exited { id: ids[0], status: ExitStatus::Code(7) }));
    assert_eq!(s.signal(ids[0], 15), Err(RequestError::Unknown));
    assert!(s.exec(&ExecSpec::new(["x"])).is_ok());
}

#[test]
fn a_command_that_does_not_fit_is_refused_here() {
    let mut s = open_session();
    let n = s.output().len();
    assert!(matches!(s.exec(&ExecSpec::new([vec![b'x'; MAX_PAYLOAD]])), Err(RequestError::Invalid(_))));
    assert!(matches!(s.exec(&ExecSpec::default()), Err(RequestError::Invalid(_))));
    assert_eq!(s.output().len(), n);
}
