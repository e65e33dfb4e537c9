//! A web server that says what the input says.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use visor_qcow2::Storage;
use visor_webfile::{WebFile, WebOptions};

use crate::{Input, Script};

/// Connections that are answered for one input.
const CONNECTIONS: usize = 8;

pub(super) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut answers = Vec::new();
    while !input.is_empty() && answers.len() < CONNECTIONS {
        answers.push(input.bytes().to_vec());
    }
    let Ok(listener) = TcpListener::bind("127.0.0.1:0") else { return };
    let Ok(address) = listener.local_addr() else { return };
    let over = Arc::new(AtomicBool::new(false));
    let answers = Arc::new(Mutex::new(answers));
    let (stop, left) = (over.clone(), answers.clone());
    let server = std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            answer(stream, &left);
        }
    });
    let second = Duration::from_secs(1);
    let options = WebOptions { attempts: 1, wait: Duration::from_millis(1), timeout: second, ..WebOptions::default() };
    if let Ok(file) = WebFile::open(&format!("http://{address}/disk"), &options) {
        let _ = (file.identity(), file.fetched(), file.cached());
        let mut data = vec![0; 70_000];
        for at in [0, 65_000, 1 << 40] {
            let _ = file.read_at(&mut data, at);
        }
    }
    over.store(true, Ordering::SeqCst);
    let _ = std::net::TcpStream::connect(address);
    let _ = server.join();
}

/// Reads a request's head, answers with the next answer, and closes.
fn answer(mut stream: std::net::TcpStream, left: &Mutex<Vec<Vec<u8>>>) {
    let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
    let (mut head, mut byte) = (Vec::new(), [0; 512]);
    while !head.ends_with(b"\r\n\r\n") && head.len() < 4096 {
        match stream.read(&mut byte) {
            Ok(n) if n > 0 => head.extend_from_slice(&byte[..n]),
            _ => break,
        }
    }
    let next = left.lock().ok().and_then(|mut l| (!l.is_empty()).then(|| l.remove(0)));
    let _ = stream.write_all(&next.unwrap_or_default());
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let part = |range: &str, len: usize, more: &str| {
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {range}\r\nContent-Length: {len}\r\n{more}\r\n"
        );
        [head.as_bytes(), &vec![7; len]].concat()
    };
    let whole = part("0-65535/70000", 2000, "ETag: \"a\"\r\n");
    let small = part("0-999/1000", 1000, "Last-Modified: Sat, 21 Nov 2020 00:00:00 GMT\r\n");
    let chunked = b"HTTP/1.1 206 x\r\nContent-Range: bytes 0-9/10\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\n\r\n";
    let huge = part("0-65535/9223372036854775807", 10, "");
    vec![
        Script::new().bytes(&small).bytes(&small).end(),
        Script::new().bytes(&whole).bytes(&whole).end(),
        Script::new().bytes(chunked).end(),
        Script::new().bytes(&huge).end(),
        Script::new()
            .bytes(b"HTTP/1.1 302 Found\r\nLocation: /disk\r\n\r\n")
            .bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
            .end(),
        Script::new().bytes(b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\n\r\n").end(),
    ]
}
