use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use visor_net::Frame;

use super::{BootFile, BootFiles, MOST, TRIES};
use crate::tests::sim::SimHost;
use crate::tests::{Random, ask, drain, engine, frames};
use crate::{NatConfig, NatEngine, Time};

/// Files in memory.
struct Shelf(BTreeMap<&'static str, Vec<u8>>);

impl BootFiles for Shelf {
    fn open(&self, name: &str) -> io::Result<Box<dyn BootFile>> {
        let found = self.0.get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(Bytes(found)))
    }
}

struct Bytes(Vec<u8>);

impl BootFile for Bytes {
    fn size(&self) -> u64 {
        // One that shrinks while it is read.
        if self.0.first() == Some(&b'!') { 4096 } else { self.0.len() as u64 }
    }

    fn read_at(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let from = self.0.get(offset as usize..).and_then(|d| d.get(..data.len()));
        data.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

fn server() -> NatEngine<SimHost> {
    let mut engine = engine(NatConfig::default());
    let long: Vec<u8> = (0..3000u32).map(|i| i as u8).collect();
    let files = [("long", long), ("whole", vec![7; 1024]), ("empty", vec![]), ("shrinks", b"!".repeat(600))];
    engine.set_boot_files(Some(Box::new(Shelf(files.into()))));
    engine
}

/// The datagrams in answers: port and bytes.
fn datagrams(answers: &[Vec<u8>]) -> Vec<(u16, Vec<u8>)> {
    answers.iter().map(|f| (u16::from_be_bytes([f[34], f[35]]), f[42..].to_vec())).collect()
}

fn send(engine: &mut NatEngine<SimHost>, port: u16, data: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let frame = frames::udp("10.0.2.15:2000", &format!("10.0.2.2:{port}"), data);
    datagrams(&ask(engine, Time(1), &frame))
}

fn request(name: &str, options: &str) -> Vec<u8> {
    [b"\x00\x01", name.as_bytes(), b"\0OCTET\0", options.as_bytes()].concat()
}

fn ack(block: u16) -> [u8; 4] {
    let [a, b] = block.to_be_bytes();
    [0, 4, a, b]
}

/// Fetches a file as a client does; the options that were accepted, and the contents.
fn fetch(engine: &mut NatEngine<SimHost>, name: &str, options: &str) -> (String, Vec<u8>) {
    let (mut accepted, mut contents, mut block) = (String::new(), Vec::new(), 0);
    let mut answer = send(engine, 69, &request(name, options));
    loop {
        let (port, packet) = answer.pop().unwrap();
        assert!(answer.is_empty() && port >= 0xc000);
        match packet[1] {
            6 => accepted = String::from_utf8(packet[2..].to_vec()).unwrap(),
            3 => {
                block += 1;
                assert_eq!(packet[2..4], u16::to_be_bytes(block));
                contents.extend(&packet[4..]);
            }
            other => panic!("message {other}: {packet:?}"),
        }
        answer = send(engine, port, &ack(block));
        if answer.is_empty() {
            return (accepted, contents);
        }
    }
}

#[test]
fn files_arrive_whole() {
    let mut engine = server();
    for (options, accepted) in
        [("", ""), ("blksize\x001000\0tsize\x000\0other\0x\0", "blksize\x001000\0tsize\x003000\0")]
    {
        let (got, contents) = fetch(&mut engine, "long", options);
        assert_eq!(got, accepted);
        assert!(contents.len() == 3000 && contents.iter().enumerate().all(|(i, b)| *b == i as u8));
    }
    assert_eq!(fetch(&mut engine, "whole", "").1.len(), 1024, "ends with an empty block");
    assert_eq!(fetch(&mut engine, "empty", "tsize\x000\0"), ("tsize\x000\0".into(), vec![]));
    let (accepted, _) = fetch(&mut engine, "long", "blksize\x0060000\0timeout\x009\0");
    assert_eq!(accepted, "blksize\x001468\0timeout\x009\0", "blocks fit into frames");
    assert_eq!(fetch(&mut engine, "long", "blksize\x003\0").0, "", "out of range");
    assert_eq!(engine.tftp.transfers.len(), 0);
}

#[test]
fn refusals_say_why() {
    let mut engine = server();
    let code = |answers: Vec<(u16, Vec<u8>)>| (answers[0].1[1], answers[0].1[3]);
    assert_eq!(code(send(&mut engine, 69, &request("nothing", ""))), (5, 1));
    assert_eq!(code(send(&mut engine, 69, b"\x00\x02long\0octet\0")), (5, 2));
    assert_eq!(code(send(&mut engine, 69, b"\x00\x01long\0netascii\0")), (5, 0));
    assert_eq!(code(send(&mut engine, 69, &request("shrinks", "blksize\x001024\0"))).0, 6);
    assert_eq!(code(send(&mut engine, 0xc000, &ack(0))), (5, 0), "it has become shorter");
    // A stranger cannot disturb a transfer.
    let (port, _) = send(&mut engine, 69, &request("long", "")).remove(0);
    let stranger = frames::udp("10.0.2.15:2001", &format!("10.0.2.2:{port}"), &ack(1));
    assert_eq!(code(datagrams(&ask(&mut engine, Time(1), &stranger))), (5, 5));
    assert_eq!(send(&mut engine, port, &ack(1)).len(), 1);
    assert!(send(&mut engine, port, &ack(1)).is_empty(), "an old acknowledgement is passed by");
    assert!(send(&mut engine, port, b"\x00\x05\x00\x00\0").is_empty() && engine.tftp.transfers.is_empty());
    // Without files nobody listens.
    engine.set_boot_files(None);
    assert!(!engine.tftp.serves(69));
}

#[test]
fn silence_is_answered_by_repetition_and_then_by_giving_up() {
    let mut engine = server();
    let (_, first) = send(&mut engine, 69, &request("long", "")).remove(0);
    let mut now = Time(1);
    for _ in 0..TRIES {
        assert!(drain(&mut engine, now).is_empty());
        now = now + Duration::from_secs(1);
        assert_eq!(datagrams(&drain(&mut engine, now))[0].1, first);
    }
    assert!(drain(&mut engine, now + Duration::from_secs(1)).is_empty());
    assert_eq!(engine.tftp.next_timer(), None);
}

#[test]
fn nonsense_is_bounded() {
    let mut engine = server();
    let mut random = Random::new(5);
    for i in 0..20_000u64 {
        let mut data: Vec<u8> = match random.below(3) {
            0 => request(["long", "whole", "x"][random.below(3) as usize], "blksize\x0099\0"),
            1 => ack(random.below(4) as u16).to_vec(),
            _ => (0..random.below(600)).map(|_| random.next() as u8).collect(),
        };
        if random.below(4) == 0 && !data.is_empty() {
            let at = random.below(data.len() as u64) as usize;
            data[at] = random.next() as u8;
        }
        let port = if random.below(2) == 0 { 69 } else { 0xc000 + random.below(64) };
        let frame = frames::udp(&format!("10.0.2.15:{}", 1 + random.below(200)), &format!("10.0.2.2:{port}"), &data);
        engine.ingress(Time(i * 1000), Frame::plain(&frame));
        drain(&mut engine, Time(i * 1000));
        assert!(engine.tftp.transfers.len() <= MOST);
    }
    assert_eq!(fetch(&mut engine, "long", "").1.len(), 3000);
}
