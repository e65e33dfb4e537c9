//! A web server for one file, with TLS or without.
#![allow(dead_code, reason = "each test uses its part")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Serves a file, with ranges or without; the port on the loopback interface.
pub(crate) fn web(content: Arc<Mutex<Vec<u8>>>, ranges: bool) -> u16 {
    listen(move |mut stream| answer(&mut stream, &content.lock().unwrap().clone(), ranges))
}

/// The same with TLS, with ranges: the certificate for `localhost` and its key are made in `folder`, with the authority `ca.pem`.
pub(crate) fn web_tls(folder: &Path, content: Arc<Mutex<Vec<u8>>>) -> u16 {
    let script = "
set -e
openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 30 -subj /CN=authority -addext keyUsage=critical,keyCertSign 2>/dev/null
openssl req -newkey rsa:2048 -nodes -keyout web.key -out web.csr -subj /CN=localhost 2>/dev/null
printf 'subjectAltName=DNS:localhost\nkeyUsage=digitalSignature\n' > ext
openssl x509 -req -in web.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out web.pem -days 30 -extfile ext 2>/dev/null";
    assert!(Command::new("sh").args(["-c", script]).current_dir(folder).status().unwrap().success(), "openssl");
    let chain = vec![CertificateDer::from_pem_file(folder.join("web.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(folder.join("web.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap());
    listen(move |stream| {
        let session = ServerConnection::new(config.clone()).unwrap();
        let mut stream = StreamOwned::new(session, stream);
        answer(&mut stream, &content.lock().unwrap().clone(), true);
        stream.conn.send_close_notify();
        let _ = stream.flush();
    })
}

fn listen(serve: impl Fn(TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || listener.incoming().flatten().for_each(serve));
    port
}

/// Answers one request. A client that gives up, as one that does not trust the certificate, is none of the server's business.
fn answer(stream: &mut (impl Read + Write), content: &[u8], ranges: bool) {
    let mut request = vec![0; 4096];
    let n = stream.read(&mut request).unwrap_or(0);
    let text = String::from_utf8_lossy(&request[..n]).to_lowercase();
    let range = text.lines().find_map(|l| l.strip_prefix("range: bytes=")).and_then(|r| r.trim().split_once('-'));
    let tag = content.iter().fold(content.len() as u64, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(*b)));
    let (head, body) = match range {
        Some((a, b)) if ranges => {
            let (a, b): (usize, usize) = (a.parse().unwrap(), b.parse().unwrap());
            let b = b.min(content.len() - 1);
            (format!("206 Partial Content\r\nContent-Range: bytes {a}-{b}/{}", content.len()), &content[a..=b])
        }
        _ => ("200 OK".to_owned(), content),
    };
    let head =
        format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\nETag: \"{tag}\"\r\nConnection: close\r\n\r\n", body.len());
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}
