//! The agent in the guest, and who pretends to be the host.

use visor_guest::host::HostSession;
use visor_guest::protocol::{ExecSpec, ExitStatus, FrameReader, HEADER_LEN, Ready, SYNC, Stream, ToGuest, ToHost};

use crate::{Input, Script};

/// First byte of a frame.
const MARK: u8 = 0x56;

/// The bytes come in pieces, or as frames whose header is right; each frame is read as a message of either direction, and what was read is
/// written, and read again.
pub(super) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut reader = FrameReader::new();
    let mut host = HostSession::new(7);
    while !input.is_empty() {
        let bytes = match input.u8() & 3 {
            0 => input.bytes().to_vec(),
            1 => SYNC.to_vec(),
            _ => framed(input.u8(), u32::from(input.u8()), input.bytes()),
        };
        session(&mut host, &bytes);
        reader.push(&bytes);
        for _ in 0..64 {
            match reader.next_frame() {
                Ok(Some(frame)) => messages(frame),
                Ok(None) => break,
                Err(_) => {
                    reader.reset();
                    break;
                }
            }
        }
    }
}

/// A frame with the header that its payload needs.
fn framed(kind: u8, channel: u32, payload: &[u8]) -> Vec<u8> {
    let len = payload.len() as u32;
    let mixed = channel.wrapping_mul(0x9e37_79b1).rotate_left(7).wrapping_add(len.wrapping_mul(0x85eb_ca6b));
    let mixed = mixed.wrapping_add(u32::from(kind) << 3);
    let check = (((mixed >> 16) ^ mixed) as u16 ^ 0x5a5a).to_le_bytes();
    [&[MARK, kind][..], &check, &channel.to_le_bytes(), &len.to_le_bytes(), payload].concat()
}

/// The host's side, which has commands run as soon as the agent is ready, and takes what they say.
fn session(host: &mut HostSession, bytes: &[u8]) {
    let was = host.ready().is_some();
    if host.feed(bytes).is_err() {
        *host = HostSession::new(7);
        return;
    }
    if !was && host.ready().is_some() {
        let id = host.exec(&ExecSpec::new(["cat"]));
        let _ = id.map(|id| host.write_stdin(id, b"input"));
    }
    let mut events = 0;
    while host.poll_event().is_some() {
        events += 1;
    }
    assert!(events <= bytes.len() + 64, "{events} events of {} bytes", bytes.len());
    assert!(host.output().len() <= 1 << 20, "{} bytes wait for the guest", host.output().len());
    host.consume_output(host.output().len());
}

fn messages(frame: visor_guest::protocol::Frame) {
    let mut out = Vec::new();
    if let Ok(m) = ToHost::parse(frame.clone())
        && m.emit(&mut out).is_ok()
    {
        again(&out, |f| ToHost::parse(f).ok() == Some(m));
    }
    out.clear();
    if let Ok(m) = ToGuest::parse(frame)
        && m.emit(&mut out).is_ok()
    {
        again(&out, |f| ToGuest::parse(f).ok() == Some(m));
    }
}

fn again(bytes: &[u8], same: impl FnOnce(visor_guest::protocol::Frame) -> bool) {
    let mut reader = FrameReader::new();
    reader.push(&SYNC);
    reader.push(bytes);
    let frame = reader.next_frame().ok().flatten().expect("what was written is a frame");
    assert!(same(frame), "another message comes back");
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let mut all = Vec::new();
    let ready = Ready { version: 1, nonce: 7, uptime_ms: 9, agent: "visor".into(), kernel: "6.1".into() };
    let spec = ExecSpec { tty: Some((80, 25)), ..ExecSpec::new(["sh", "-c", "exit 7"]) };
    let host = [
        ToHost::Ready(ready),
        ToHost::Stdout { id: 1, bytes: b"out".to_vec() },
        ToHost::Exit { id: 1, status: ExitStatus::Signal(9) },
        ToHost::Credit { id: 1, bytes: 100 },
        ToHost::Pong { token: 5 },
    ];
    let guest = [
        ToGuest::Hello { version: 1, nonce: 7 },
        ToGuest::Exec { id: 1, spec },
        ToGuest::Stdin { id: 1, bytes: b"in".to_vec() },
        ToGuest::Credit { id: 1, stream: Stream::Stderr, bytes: 9 },
        ToGuest::SetClock { secs: 1, nanos: 2 },
        ToGuest::Resize { id: 1, cols: 80, rows: 25 },
    ];
    let mut add = |emit: &dyn Fn(&mut Vec<u8>) -> bool| {
        let mut one = Vec::new();
        if emit(&mut one) {
            all.extend_from_slice(&one);
            // As it is, and with its header made anew.
            let sync = Script::new().raw(&[1]);
            let (kind, payload) = (one[1], &one[HEADER_LEN..]);
            seeds.push(sync.clone().raw(&[2, kind, one[4]]).bytes(payload).end());
            seeds.push(sync.raw(&[0]).bytes(&one).end());
        }
    };
    host.iter().for_each(|m| add(&|out| m.emit(out).is_ok()));
    guest.iter().for_each(|m| add(&|out| m.emit(out).is_ok()));
    seeds.push(Script::new().raw(&[1, 0]).bytes(&all).end());
    let session = |s: Script, m: &[u8]| s.raw(&[2, m[1], 1]).bytes(&m[HEADER_LEN..]);
    let mut told = Script::new().raw(&[1]);
    for message in &host {
        let mut one = Vec::new();
        if message.emit(&mut one).is_ok() {
            told = session(told, &one);
        }
    }
    seeds.push(told.end());
    seeds
}
