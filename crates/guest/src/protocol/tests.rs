//! The codec: every message there and back, cut anywhere, behind any rubbish; and rubbish alone.

use super::*;

/// xorshift64*: repeatable noise without a dependency.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn bytes(&mut self, max: u64) -> Vec<u8> {
        (0..self.below(max)).map(|_| self.next() as u8).collect()
    }
}

fn to_guest_samples(noise: &mut Noise) -> Vec<ToGuest> {
    let id = noise.next() as u32;
    let spec = ExecSpec {
        argv: (0..=noise.below(5)).map(|_| noise.bytes(20)).collect(),
        env: (0..noise.below(5)).map(|_| noise.bytes(20)).collect(),
        cwd: noise.bytes(30),
        tty: (noise.below(2) == 0).then_some((80, 25)),
    };
    vec![
        ToGuest::Hello { version: 7, nonce: noise.next() },
        ToGuest::Exec { id, spec },
        ToGuest::Stdin { id, bytes: noise.bytes(3000) },
        ToGuest::StdinEof { id },
        ToGuest::Resize { id, cols: 132, rows: 43 },
        ToGuest::Signal { id, signo: 15 },
        ToGuest::Credit { id, stream: Stream::Stdout, bytes: 9 },
        ToGuest::Credit { id, stream: Stream::Stderr, bytes: u32::MAX },
        ToGuest::Shutdown(ShutdownKind::PowerOff),
        ToGuest::Shutdown(ShutdownKind::Reboot),
        ToGuest::SetClock { secs: -5, nanos: 999_999_999 },
        ToGuest::Ping { token: noise.next() },
    ]
}

fn to_host_samples(noise: &mut Noise) -> Vec<ToHost> {
    let id = noise.next() as u32;
    let ready =
        Ready { version: VERSION, nonce: noise.next(), uptime_ms: 1234, agent: "0.1.0".into(), kernel: "6.1".into() };
    let kinds = [
        ErrorKind::NotFound,
        ErrorKind::NotPermitted,
        ErrorKind::BadRequest,
        ErrorKind::Busy,
        ErrorKind::Version,
        ErrorKind::Other,
    ];
    let mut all = vec![
        ToHost::Ready(ready),
        ToHost::Stdout { id, bytes: noise.bytes(3000) },
        ToHost::Stderr { id, bytes: noise.bytes(3000) },
        ToHost::Exit { id, status: ExitStatus::Code(7) },
        ToHost::Exit { id, status: ExitStatus::Signal(9) },
        ToHost::Credit { id, bytes: 4096 },
        ToHost::Pong { token: noise.next() },
    ];
    all.extend(kinds.map(|kind| ToHost::Error { id, failure: Failure { kind, message: "no".into() } }));
    all
}

fn frames(bytes: &[u8], mut cut: impl FnMut() -> usize) -> Vec<Frame> {
    let mut reader = FrameReader::new();
    let mut got = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let n = cut().clamp(1, rest.len());
        reader.push(&rest[..n]);
        rest = &rest[n..];
        while let Some(frame) = reader.next_frame().unwrap() {
            got.push(frame);
        }
    }
    got
}

#[test]
fn every_message_survives_any_cut() {
    let mut noise = Noise(11);
    for round in 0..40 {
        let guest = to_guest_samples(&mut noise);
        let host = to_host_samples(&mut noise);
        let mut a = SYNC.to_vec();
        let mut b = SYNC.to_vec();
        guest.iter().for_each(|m| m.emit(&mut a).unwrap());
        host.iter().for_each(|m| m.emit(&mut b).unwrap());
        let got_a: Vec<_> = frames(&a, || noise.below(1 + round * 50) as usize)
            .into_iter()
            .map(|f| ToGuest::parse(f).unwrap())
            .collect();
        let got_b: Vec<_> = frames(&b, || noise.below(1 + round * 50) as usize)
            .into_iter()
            .map(|f| ToHost::parse(f).unwrap())
            .collect();
        assert_eq!(got_a, guest);
        assert_eq!(got_b, host);
    }
}

#[test]
fn a_reader_finds_the_session_behind_old_bytes() {
    let mut noise = Noise(5);
    for _ in 0..200 {
        let mut stream = noise.bytes(300);
        // The worst rubbish: a SYNC cut short.
        stream.extend_from_slice(&SYNC[..noise.below(16) as usize]);
        stream.extend_from_slice(&SYNC);
        let hello = ToGuest::Hello { version: 1, nonce: 3 };
        hello.emit(&mut stream).unwrap();
        let got = frames(&stream, || noise.below(20) as usize);
        assert_eq!(got.len(), 1);
        assert!(got[0].after_sync);
        assert_eq!(ToGuest::parse(got[0].clone()).unwrap(), hello);
    }
}

#[test]
fn a_second_sync_in_step_is_seen() {
    let mut stream = SYNC.to_vec();
    ToGuest::Ping { token: 1 }.emit(&mut stream).unwrap();
    stream.extend_from_slice(&SYNC);
    ToGuest::Ping { token: 2 }.emit(&mut stream).unwrap();
    ToGuest::Ping { token: 3 }.emit(&mut stream).unwrap();
    let flags: Vec<bool> = frames(&stream, || 5).iter().map(|f| f.after_sync).collect();
    assert_eq!(flags, [true, true, false]);
}

#[test]
fn rubbish_neither_panics_nor_grows() {
    let mut noise = Noise(99);
    for _ in 0..300 {
        let mut reader = FrameReader::new();
        reader.push(&SYNC);
        let mut errors = 0;
        for _ in 0..20 {
            reader.push(&noise.bytes(200));
            loop {
                match reader.next_frame() {
                    Ok(Some(frame)) => {
                        let _ = ToGuest::parse(frame.clone());
                        let _ = ToHost::parse(frame);
                    }
                    Ok(None) => break,
                    Err(_) => errors += 1,
                }
            }
        }
        assert!(errors >= 1);
        reader.push(&[]);
        assert!(reader.next_frame().is_ok_and(|f| f.is_none()));
    }
}

#[test]
fn damaged_payloads_are_errors_or_other_messages_never_panics() {
    let mut noise = Noise(1234);
    for _ in 0..60 {
        for message in to_guest_samples(&mut noise) {
            let mut bytes = SYNC.to_vec();
            message.emit(&mut bytes).unwrap();
            let mut frame = frames(&bytes, || 100_000).remove(0);
            for _ in 0..8 {
                match noise.below(3) {
                    0 => drop(frame.payload.pop()),
                    1 => frame.payload.push(noise.next() as u8),
                    _ => {
                        let n = frame.payload.len() as u64;
                        if n > 0 {
                            frame.payload[noise.below(n) as usize] = noise.next() as u8;
                        }
                    }
                }
                let _ = ToGuest::parse(frame.clone());
                frame.kind |= 0x80;
                let _ = ToHost::parse(frame.clone());
                frame.kind &= 0x7f;
            }
        }
    }
}

#[test]
fn limits_hold_on_both_sides() {
    let mut out = Vec::new();
    let long = ToGuest::Stdin { id: 1, bytes: vec![0; MAX_PAYLOAD + 1] };
    assert_eq!(long.emit(&mut out), Err(ProtocolError::TooLong(MAX_PAYLOAD + 1)));
    assert!(out.is_empty());

    // A list that claims 2^32-1 strings costs nothing.
    let frame = Frame {
        kind: 2,
        channel: 1,
        payload: [&[0, 0, 0, 0, 0, 0, 0, 0, 0][..], &u32::MAX.to_le_bytes()].concat(),
        after_sync: false,
    };
    assert_eq!(ToGuest::parse(frame), Err(ProtocolError::BadField("string count")));

    let empty = ToGuest::Exec { id: 1, spec: ExecSpec::default() };
    let mut bytes = SYNC.to_vec();
    empty.emit(&mut bytes).unwrap();
    let frame = frames(&bytes, || 1000).remove(0);
    assert_eq!(ToGuest::parse(frame), Err(ProtocolError::BadField("argv")));
}

#[test]
fn exit_status_reads_like_a_shell() {
    assert_eq!(ExitStatus::Code(7).shell_code(), 7);
    assert_eq!(ExitStatus::Signal(9).shell_code(), 137);
}
