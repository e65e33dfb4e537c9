use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use visor_qcow2::{Source, Storage};

use crate::client::parse_range;
use crate::*;

/// What the server does wrong with a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    None,
    /// The body ends early.
    Short,
    /// The connection is reset in the middle.
    Reset,
    /// Another range than asked for.
    WrongRange,
    /// A range outside the file.
    Nonsense,
    /// Only a part of the range.
    Part,
    /// "Come back later".
    Busy,
    /// Nothing is said for a while.
    Slow,
    /// No answer at all.
    Silent,
    /// The whole file.
    Whole,
    Forbidden,
    /// A redirect to the same file without end.
    Loop,
}

struct Shared {
    content: Mutex<Vec<u8>>,
    etag: Mutex<Option<String>>,
    /// Faults of the next requests; none afterwards.
    faults: Mutex<Vec<Fault>>,
    requests: AtomicUsize,
    /// Headers that were sent to it.
    seen: Mutex<String>,
    stop: AtomicBool,
}

/// A web server on loopback.
struct Server {
    shared: Arc<Shared>,
    port: u16,
}

impl Server {
    fn new(content: Vec<u8>) -> Self {
        let shared = Arc::new(Shared {
            content: Mutex::new(content),
            etag: Mutex::new(Some("\"v1\"".into())),
            faults: Mutex::default(),
            requests: AtomicUsize::new(0),
            seen: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let kept = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if kept.stop.load(Ordering::Relaxed) {
                    break;
                }
                let shared = kept.clone();
                thread::spawn(move || {
                    let _ = serve(stream, &shared);
                });
            }
        });
        Server { shared, port }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/disk.img", self.port)
    }

    fn fail(&self, faults: &[Fault]) {
        *self.shared.faults.lock().unwrap() = faults.to_vec();
    }

    fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// Serves one request.
fn serve(stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut head, mut line) = (String::new(), String::new());
    while reader.read_line(&mut line)? > 0 && line.trim() != "" {
        head.push_str(&line.to_ascii_lowercase());
        line.clear();
    }
    shared.requests.fetch_add(1, Ordering::Relaxed);
    shared.seen.lock().unwrap().clone_from(&head);
    let range = head.lines().find_map(|l| l.strip_prefix("range: bytes=")).unwrap_or("0-0").trim();
    let (first, last) = range.split_once('-').unwrap();
    answer(stream, shared, first.parse().unwrap(), last.parse().unwrap())
}

/// Answers a request for a range.
fn answer(stream: TcpStream, shared: &Shared, first: usize, last: usize) -> std::io::Result<()> {
    let fault = {
        let mut faults = shared.faults.lock().unwrap();
        if faults.is_empty() { Fault::None } else { faults.remove(0) }
    };
    let content = shared.content.lock().unwrap().clone();
    let mut last = last.min(content.len().saturating_sub(1));
    let etag = shared.etag.lock().unwrap().clone().map_or(String::new(), |t| format!("ETag: {t}\r\n"));
    let mut out = stream.try_clone()?;
    let simple = |status: &str| format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    match fault {
        Fault::Busy => return out.write_all(simple("503 Busy").as_bytes()),
        Fault::Forbidden => return out.write_all(simple("403 Forbidden").as_bytes()),
        Fault::Silent => return Ok(()),
        Fault::Loop => {
            let text = "HTTP/1.1 302 Found\r\nLocation: /disk.img\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            shared.faults.lock().unwrap().push(Fault::Loop);
            return out.write_all(text.as_bytes());
        }
        Fault::Slow => thread::sleep(Duration::from_millis(1500)),
        Fault::Part => last = first + (last - first) / 2,
        _ => {}
    }
    if first >= content.len() {
        return out.write_all(simple("416 Range Not Satisfiable").as_bytes());
    }
    if fault == Fault::Whole {
        write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{etag}Connection: close\r\n\r\n", content.len())?;
        return out.write_all(&content);
    }
    let body = &content[first..=last];
    let said = match fault {
        Fault::WrongRange => format!("{}-{}/{}", first + 512, last + 512, content.len() + 1024),
        Fault::Nonsense => format!("{first}-18446744073709551615/99999999999999999999"),
        _ => format!("{first}-{last}/{}", content.len()),
    };
    // A range that is not the right one is not the fault of the file's version.
    let said = if fault == Fault::WrongRange {
        said.replace(&format!("/{}", content.len() + 1024), &format!("/{}", content.len()))
    } else {
        said
    };
    write!(
        out,
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {said}\r\nContent-Length: {}\r\n{etag}\
         Last-Modified: Sat, 21 Nov 2026 10:00:00 GMT\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    match fault {
        Fault::Short => out.write_all(&body[..body.len() / 3]),
        Fault::Reset => {
            out.write_all(&body[..body.len() / 2])?;
            // Unread data makes closing a reset.
            stream.shutdown(Shutdown::Both)
        }
        _ => out.write_all(body),
    }
}

fn content(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn options() -> WebOptions {
    WebOptions { wait: Duration::from_millis(5), timeout: Duration::from_secs(20), ..WebOptions::default() }
}

fn cached(dir: &TempDir) -> WebOptions {
    WebOptions { cache: Some(dir.path().to_owned()), ..options() }
}

fn read(file: &WebFile, at: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0xcc; len];
    Source::read(file, at, &mut data).unwrap();
    data
}

#[test]
fn ranges_are_read_and_kept() {
    let data = content(1_000_100);
    let server = Server::new(data.clone());
    let dir = TempDir::new().unwrap();
    let file = WebFile::open(&server.url(), &cached(&dir)).unwrap();
    assert_eq!((Source::size(&file), Storage::size(&file).unwrap()), (1_000_448, 1_000_100));
    let mut seed = 77u64;
    for _ in 0..300 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let at = (seed >> 20) % 1_000_000;
        let len = ((seed >> 50) as usize * 13).min(1_000_448 - at as usize);
        let mut expected = data[at as usize..(at as usize + len).min(data.len())].to_vec();
        expected.resize(len, 0);
        assert!(read(&file, at, len) == expected, "{at}+{len}");
    }
    assert!(file.fetched() <= 1_000_100, "nothing is fetched twice: {}", file.fetched());
    assert!(server.requests() < 20, "{}", server.requests());
    // Another process, or the same tomorrow.
    drop(file);
    let before = server.requests();
    let file = WebFile::open(&server.url(), &cached(&dir)).unwrap();
    assert!(read(&file, 0, 1_000_448)[..1_000_100] == data);
    assert!(server.requests() - before <= 2, "all of it is on this host");
    // Without a cache.
    let file = WebFile::open(&server.url(), &options()).unwrap();
    assert!(read(&file, 0, 1_000_448)[..1_000_100] == data);
}

#[test]
fn a_server_that_fails_for_a_while_is_asked_again() {
    let data = content(600_000);
    for fault in [
        Fault::Short,
        Fault::Reset,
        Fault::WrongRange,
        Fault::Nonsense,
        Fault::Part,
        Fault::Busy,
        Fault::Silent,
        Fault::Slow,
    ] {
        let server = Server::new(data.clone());
        let file = WebFile::open(&server.url(), &options()).unwrap();
        server.fail(&[fault, fault, fault]);
        assert!(read(&file, 100_000, 400_000) == data[100_000..500_000], "{fault:?}");
        // And the first request of all.
        server.fail(&[fault, fault]);
        assert!(WebFile::open(&server.url(), &options()).is_ok(), "{fault:?}");
        // For ever.
        server.fail(&[fault; 50]);
        if fault != Fault::Slow {
            let mut some = [0; 512];
            let before = server.requests();
            assert!(Source::read(&file, 550_000, &mut some).is_err(), "{fault:?}");
            assert_eq!(server.requests() - before, 6, "{fault:?}");
        }
    }
}

#[test]
fn a_server_that_is_too_slow_is_given_up() {
    let server = Server::new(content(200_000));
    let slow = WebOptions { timeout: Duration::from_millis(300), attempts: 2, ..options() };
    server.fail(&[Fault::Slow; 10]);
    assert_eq!(WebFile::open(&server.url(), &slow).err().unwrap().kind, WebErrorKind::Failed);
}

#[test]
fn what_cannot_get_better_is_not_tried_again() {
    let server = Server::new(content(200_000));
    let kind = |fault| {
        server.fail(&[fault]);
        let before = server.requests();
        let e = WebFile::open(&server.url(), &options()).err().unwrap();
        (e.kind, server.requests() - before)
    };
    assert_eq!(kind(Fault::Whole), (WebErrorKind::NoRanges, 1));
    assert_eq!(kind(Fault::Forbidden), (WebErrorKind::Refused, 1));
    let (kind, requests) = kind(Fault::Loop);
    assert!(kind == WebErrorKind::Failed && requests <= 7, "{kind:?} after {requests}");
    for bad in ["ftp://x/y", "http://", "https:///x", "http://user:secret@127.0.0.1/x", "http://a b/", "x"] {
        let e = WebFile::open(bad, &options()).err().unwrap();
        assert_eq!(e.kind, WebErrorKind::Address, "{bad}");
        assert!(!e.to_string().contains("secret"));
    }
    let empty = Server::new(Vec::new());
    assert_eq!(WebFile::open(&empty.url(), &options()).err().unwrap().kind, WebErrorKind::Changed);
}

#[test]
fn another_version_is_never_mixed_in() {
    let data = content(500_000);
    let server = Server::new(data.clone());
    let dir = TempDir::new().unwrap();
    let file = WebFile::open(&server.url(), &cached(&dir)).unwrap();
    let first = file.identity().clone();
    assert_eq!((first.length, first.etag.as_deref()), (500_000, Some("\"v1\"")));
    *server.shared.etag.lock().unwrap() = Some("\"v2\"".into());
    let mut some = [0; 512];
    let e = Source::read(&file, 400_000, &mut some).unwrap_err();
    assert!(e.what.contains("changed") && e.what.contains("v2"), "{e}");
    assert!(read(&file, 0, 1000) == data[..1000], "what was kept is still right");
    // Expected in one version, found in another.
    let expecting = WebOptions { expect: Some(first.clone()), ..cached(&dir) };
    assert_eq!(WebFile::open(&server.url(), &expecting).err().unwrap().kind, WebErrorKind::Changed);
    // The new version does not see the old one's blocks.
    *server.shared.content.lock().unwrap() = vec![9; 500_000];
    let new = WebFile::open(&server.url(), &cached(&dir)).unwrap();
    assert!(read(&new, 0, 1000) == vec![9; 1000]);
    *server.shared.etag.lock().unwrap() = Some("\"v1\"".into());
    *server.shared.content.lock().unwrap() = data[..400_000].to_vec();
    let e = WebFile::open(&server.url(), &expecting).err().unwrap();
    assert!(e.kind == WebErrorKind::Changed && e.what.contains("400000"), "{e}");
    // Without a tag the time counts, and that is the same here.
    *server.shared.etag.lock().unwrap() = None;
    *server.shared.content.lock().unwrap() = data.clone();
    let untagged = WebFile::open(&server.url(), &options()).unwrap();
    assert!(read(&untagged, 400_000, 1000) == data[400_000..401_000]);
}

#[test]
fn credentials_go_to_the_server_only() {
    let server = Server::new(content(70_000));
    let with = WebOptions { authorization: Some("Basic c2VjcmV0".into()), ..options() };
    let dir = TempDir::new().unwrap();
    let file = WebFile::open(&server.url(), &WebOptions { cache: Some(dir.path().into()), ..with }).unwrap();
    assert!(server.shared.seen.lock().unwrap().contains("authorization: basic c2vjcmv0"));
    let about = std::fs::read_to_string(dir.path().join(file.identity().key()).join("about.json")).unwrap();
    assert!(about.contains("disk.img") && !about.contains("c2Vj"), "{about}");
}

/// A server that says anything: errors, no panic, no endless reading.
#[test]
fn hostile_servers() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let stop = Arc::new(AtomicBool::new(false));
    let kept = stop.clone();
    let server = thread::spawn(move || {
        let mut seed = 0xdead_beef_1234_5677u64;
        let mut random = move |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        };
        let good =
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-65535/1000000\r\nContent-Length: 65536\r\n\r\n";
        for mut stream in listener.incoming().flatten() {
            if kept.load(Ordering::Relaxed) {
                return;
            }
            let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
            let _ = stream.read(&mut [0; 2048]);
            let mut answer = good.as_bytes().to_vec();
            for _ in 0..random(6) {
                let at = random(answer.len() as u64) as usize;
                match random(3) {
                    0 => answer[at] = random(256) as u8,
                    1 => _ = answer.remove(at),
                    _ => answer.insert(at, b"0123456789-/,\r\n: x"[random(18) as usize]),
                }
            }
            answer.resize(answer.len() + random(70_000) as usize, 7);
            let _ = stream.write_all(&answer);
        }
    });
    let quick = WebOptions { attempts: 1, timeout: Duration::from_secs(2), ..options() };
    let mut opened = 0;
    for _ in 0..150 {
        if let Ok(file) = WebFile::open(&format!("http://127.0.0.1:{port}/x"), &quick) {
            opened += 1;
            let _ = Source::read(&file, 65_536, &mut [0; 4096]);
        }
    }
    stop.store(true, Ordering::Relaxed);
    let _ = TcpStream::connect(("127.0.0.1", port));
    server.join().unwrap();
    assert!(opened < 150);
}

#[test]
fn content_ranges() {
    assert_eq!(parse_range("bytes 0-9/10"), Some((0, 9, 10)));
    for bad in [
        "",
        "bytes",
        "bytes */10",
        "bytes 0-9/*",
        "0-9/10",
        "bytes 9/10",
        "bytes -1-9/10",
        "bytes 0-99999999999999999999/5",
    ] {
        assert_eq!(parse_range(bad), None, "{bad}");
    }
}

#[test]
fn through_tls_with_an_authority() {
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let dir = TempDir::new().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, cert.pem()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let connection = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut tls = rustls::StreamOwned::new(connection, stream);
            let mut line = [0; 4096];
            if tls.read(&mut line).is_ok() {
                let text =
                    "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-999/1000\r\nContent-Length: 1000\r\n\r\n";
                let _ = tls.write_all(&[text.as_bytes(), &[5; 1000]].concat());
                tls.conn.send_close_notify();
                let _ = tls.flush();
            }
        }
    });
    let url = format!("https://localhost:{port}/x");
    let file = WebFile::open(&url, &WebOptions { ca: Some(ca), ..options() }).unwrap();
    assert_eq!(read(&file, 0, 1024)[..1000], [5; 1000]);
    let e = WebFile::open(&url, &options()).err().unwrap();
    assert!(matches!(e.kind, WebErrorKind::Failed | WebErrorKind::Host), "{e}");
}
