//! A web server for one file.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

/// Serves a file, with ranges or without; the port on the loopback interface.
pub(crate) fn web(content: Arc<Mutex<Vec<u8>>>, ranges: bool) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let content = content.lock().unwrap().clone();
            let mut request = vec![0; 4096];
            let n = stream.read(&mut request).unwrap_or(0);
            let text = String::from_utf8_lossy(&request[..n]).to_lowercase();
            let range =
                text.lines().find_map(|l| l.strip_prefix("range: bytes=")).and_then(|r| r.trim().split_once('-'));
            let tag = content.iter().fold(content.len() as u64, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(*b)));
            let (head, body) = match range {
                Some((a, b)) if ranges => {
                    let (a, b): (usize, usize) = (a.parse().unwrap(), b.parse().unwrap());
                    let b = b.min(content.len() - 1);
                    (
                        format!("206 Partial Content\r\nContent-Range: bytes {a}-{b}/{}", content.len()),
                        content[a..=b].to_vec(),
                    )
                }
                _ => ("200 OK".to_owned(), content),
            };
            let head = format!(
                "HTTP/1.1 {head}\r\nContent-Length: {}\r\nETag: \"{tag}\"\r\nConnection: close\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(&[head.as_bytes(), &body].concat());
        }
    });
    port
}
