//! The world around a guest: servers of the test.
#![allow(dead_code, reason = "every test file uses its part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use sha2::{Digest, Sha256};

/// Bytes of [`big`].
pub(crate) const BIG: usize = 20 << 20;

/// What is sent or read between two pauses.
const PIECE: usize = 256 << 10;
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) fn big() -> Vec<u8> {
    let mut x = 1u64;
    let next = std::iter::from_fn(|| {
        x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        Some(x.to_le_bytes())
    });
    next.flatten().take(BIG).collect()
}

pub(crate) fn sha256(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|b| format!("{b:02x}")).collect()
}

/// A web server at an address of the host: `/big` is [`big`], `/paced` is the same in some seconds, everything else greets. POST gives
/// the checksum of what came; `/up/slowly` is read in some seconds. Gives its port.
pub(crate) fn serve(address: &str) -> u16 {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream));
        }
    });
    port
}

/// A TFTP server (RFC 1350) with a file of one block. Gives its port.
pub(crate) fn serve_tftp(address: &str) -> u16 {
    let socket = UdpSocket::bind((address, 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut data = [0; 2000];
        while let Ok((_, from)) = socket.recv_from(&mut data) {
            if data[1] == 1 {
                let _ = socket.send_to(b"\0\x03\0\x01a datagram\n", from);
            }
        }
    });
    port
}

fn answer(stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut first, mut length) = (String::new(), 0);
    let _ = reader.read_line(&mut first);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
            break;
        }
        if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = n.trim().parse().unwrap();
        }
    }
    let slowly = first.contains("/up/slowly");
    let body = if first.starts_with("GET /big") || first.starts_with("GET /paced") {
        big()
    } else if first.starts_with("P") {
        let mut data = vec![0; length];
        for part in data.chunks_mut(PIECE) {
            let _ = reader.read_exact(part);
            std::thread::sleep(if slowly { PAUSE } else { Duration::ZERO });
        }
        format!("{length} {}\n", sha256(&data)).into_bytes()
    } else {
        b"hello from the host\n".to_vec()
    };
    let mut stream = stream;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let mut sent = stream.write_all(head.as_bytes());
    for part in body.chunks(PIECE) {
        sent = sent.and_then(|()| stream.write_all(part));
        std::thread::sleep(if first.starts_with("GET /paced") { PAUSE } else { Duration::ZERO });
    }
}

/// A resolver at port 53 of `address`, over UDP and TCP, that knows one name: `world.test`, with `addresses`.
pub(crate) fn serve_dns(address: &str, addresses: Vec<IpAddr>) {
    let socket = UdpSocket::bind((address, 53)).unwrap();
    let listener = TcpListener::bind((address, 53)).unwrap();
    let over_tcp = addresses.clone();
    std::thread::spawn(move || {
        let mut data = [0; 2000];
        while let Ok((n, from)) = socket.recv_from(&mut data) {
            let _ = socket.send_to(&resolve(&data[..n], &addresses), from);
        }
    });
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut len = [0; 2];
            let _ = stream.read_exact(&mut len);
            let mut data = vec![0; usize::from(u16::from_be_bytes(len))];
            let _ = stream.read_exact(&mut data);
            let reply = resolve(&data, &over_tcp);
            let _ = stream.write_all(&[&(reply.len() as u16).to_be_bytes()[..], &reply].concat());
        }
    });
}

/// The answer to a question of one name (RFC 1035 §4.1).
fn resolve(asked: &[u8], addresses: &[IpAddr]) -> Vec<u8> {
    let name = b"\x05world\x04test\0";
    let question = &asked[12..];
    let end = question.iter().position(|b| *b == 0).unwrap() + 5;
    let known = question[..end - 4].eq_ignore_ascii_case(name);
    let kind = u16::from_be_bytes([question[end - 4], question[end - 3]]);
    let fits = |a: &&IpAddr| known && kind == if a.is_ipv4() { 1 } else { 28 };
    let found: Vec<&IpAddr> = addresses.iter().filter(fits).collect();
    let mut reply = asked[..2].to_vec();
    reply.extend([0x81, if known { 0x80 } else { 0x83 }, 0, 1, 0, found.len() as u8, 0, 0, 0, 0]);
    reply.extend(&question[..end]);
    for address in found {
        let octets = match address {
            IpAddr::V4(a) => a.octets().to_vec(),
            IpAddr::V6(a) => a.octets().to_vec(),
        };
        reply.extend([0xc0, 12]);
        reply.extend(kind.to_be_bytes());
        reply.extend([0, 1, 0, 0, 0, 60, 0, octets.len() as u8]);
        reply.extend(octets);
    }
    reply
}
