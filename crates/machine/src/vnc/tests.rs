use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use visor_console::{Button, FrameBufferSink, Generation, InputEvent, Key, Picture, Size};

use super::keys;
use super::*;

/// A screen of one colour that counts how often it is looked at.
#[derive(Default)]
struct Plain {
    colour: AtomicU32,
    generation: AtomicU64,
    looks: AtomicU32,
}

impl Plain {
    fn paint(&self, colour: u32) {
        self.colour.store(colour, Ordering::SeqCst);
        self.generation.fetch_add(1, Ordering::SeqCst);
    }
}

impl visor_console::Display for Plain {
    fn changes(&self, since: Generation, out: &mut dyn FrameBufferSink) -> Generation {
        self.looks.fetch_add(1, Ordering::SeqCst);
        let now = self.generation.load(Ordering::SeqCst) + 1;
        if since.0 == 0 {
            out.resize(Size { width: 64, height: 32 });
        }
        if since.0 < now {
            (0..32).for_each(|y| out.row(y, 0, &[self.colour.load(Ordering::SeqCst); 64]));
        }
        Generation(now)
    }
    fn text(&self) -> Option<Vec<String>> {
        None
    }
    fn size(&self) -> (u32, u32) {
        (64, 32)
    }
    fn picture(&self) -> Picture {
        Picture::default()
    }
}

#[derive(Default)]
struct Log(Mutex<Vec<InputEvent>>);

impl visor_console::InputSink for Log {
    fn input(&self, events: &[InputEvent]) {
        self.0.lock().unwrap().extend(events);
    }
    fn is_idle(&self) -> bool {
        true
    }
}

struct Rig {
    screen: std::sync::Arc<Plain>,
    input: std::sync::Arc<Log>,
    server: VncServer,
    path: std::path::PathBuf,
    _directory: tempfile::TempDir,
}

fn rig(password: Option<&str>) -> Rig {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vnc");
    let (screen, input) = (std::sync::Arc::<Plain>::default(), std::sync::Arc::<Log>::default());
    let options = VncOptions { name: "vm".into(), password: password.map(Into::into) };
    let address = VncAddress::Unix(path.clone());
    let server = VncServer::start(&address, options, screen.clone(), input.clone()).unwrap();
    Rig { screen, input, server, path, _directory: directory }
}

fn read(s: &mut UnixStream, n: usize) -> Vec<u8> {
    let mut bytes = vec![0; n];
    s.read_exact(&mut bytes).unwrap();
    bytes
}

/// A client past its introduction.
fn client(rig: &Rig) -> UnixStream {
    let mut s = UnixStream::connect(&rig.path).unwrap();
    s.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(read(&mut s, 12), b"RFB 003.008\n");
    s.write_all(b"RFB 003.008\n\x01\x01").unwrap();
    assert_eq!(read(&mut s, 2 + 4), [1, 1, 0, 0, 0, 0]);
    let init = read(&mut s, 24 + 2);
    assert_eq!((&init[..4], &init[24..]), (&[0, 64, 0, 32][..], &b"vm"[..]));
    s
}

/// The first pixel of an update of the whole picture in raw pixels.
fn picture(s: &mut UnixStream) -> u32 {
    let head = read(s, 4 + 12);
    assert_eq!(head[..4], [0, 0, 0, 1]);
    let pixels = read(s, 64 * 32 * 4);
    u32::from_le_bytes([pixels[0], pixels[1], pixels[2], pixels[3]])
}

const ASK: [u8; 10] = [3, 1, 0, 0, 0, 0, 0, 64, 0, 32];

fn eventually(what: &str, mut f: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !f() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_client_sees_the_screen_change() {
    let rig = rig(None);
    rig.screen.paint(0x11_2233);
    let mut s = client(&rig);
    s.write_all(&ASK).unwrap();
    assert_eq!(picture(&mut s), 0x11_2233);
    s.write_all(&ASK).unwrap();
    rig.screen.paint(0x44_5566);
    assert_eq!(picture(&mut s), 0x44_5566);
    drop(s);
    let path = rig.path.clone();
    drop(rig.server);
    assert!(!path.exists(), "the socket goes with the server");
}

#[test]
fn nobody_looking_costs_nothing() {
    let rig = rig(None);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(rig.screen.looks.load(Ordering::SeqCst), 0);
    let mut s = client(&rig);
    s.write_all(&ASK).unwrap();
    picture(&mut s);
    let looks = rig.screen.looks.load(Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(rig.screen.looks.load(Ordering::SeqCst), looks, "a client that asks for nothing");
}

#[test]
fn what_a_client_holds_is_let_go_with_it() {
    let rig = rig(None);
    let mut s = client(&rig);
    let key = |down: u8, symbol: u32| [&[4, down, 0, 0][..], &symbol.to_be_bytes()].concat();
    s.write_all(&key(1, 'x'.into())).unwrap();
    s.write_all(&key(0, 'x'.into())).unwrap();
    s.write_all(&key(1, 'A'.into())).unwrap();
    s.write_all(&[255, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0x9d]).unwrap();
    s.write_all(&[5, 1 | 16, 0, 63, 0, 31]).unwrap();
    let log = || rig.input.0.lock().unwrap().clone();
    eventually("events arrive", || log().len() >= 9);
    let k = |key, down| InputEvent::Key { key, down };
    let (shift, a) = (Key::LEFT_SHIFT, Key::A);
    assert_eq!(
        log()[..6],
        [k(Key::X, true), k(Key::X, false), k(shift, true), k(a, true), k(shift, false), k(Key::RIGHT_CTRL, true)]
    );
    let left = |down| InputEvent::Button { button: Button::Left, down };
    let there = InputEvent::Position { x: 0x7fff, y: 0x7fff };
    assert_eq!(log()[6..], [there, left(true), InputEvent::Wheel { dx: 0, dy: -1 }]);
    drop(s);
    eventually("keys are let go", || log().len() >= 12);
    assert_eq!(log()[9..], [k(a, false), k(Key::RIGHT_CTRL, false), left(false)]);
}

#[test]
fn wrong_passwords_and_other_protocols_end_the_connection() {
    let rig = rig(Some("secret"));
    let mut s = UnixStream::connect(&rig.path).unwrap();
    s.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    s.write_all(b"RFB 003.008\n\x020123456789abcdef").unwrap();
    let mut all = Vec::new();
    s.read_to_end(&mut all).unwrap();
    assert_eq!((&all[12..14], &all[30..34]), (&[1, 2][..], &[0, 0, 0, 1][..]));
    assert!(all.ends_with(b"wrong password"));
    let mut s = UnixStream::connect(&rig.path).unwrap();
    s.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    all.clear();
    // A reset or an end.
    let _ = s.read_to_end(&mut all);
    assert!(all.is_empty() || all == b"RFB 003.008\n");
}

#[test]
fn addresses_are_local() {
    let parse = |s: &str| s.parse::<VncAddress>();
    assert_eq!(parse("unix:/x/y"), Ok(VncAddress::Unix("/x/y".into())));
    assert_eq!(parse("localhost:5901"), parse("127.0.0.1:5901"));
    assert!(parse("[::1]:5901").is_ok());
    for bad in ["0.0.0.0:5901", "10.0.0.1:5901", "unix:", "5901", ":1", "/x/y"] {
        assert!(parse(bad).is_err(), "{bad}");
    }
    let input = std::sync::Arc::<Log>::default();
    let screen = std::sync::Arc::<Plain>::default();
    let server = VncServer::start(&parse("127.0.0.1:0").unwrap(), VncOptions::default(), screen, input).unwrap();
    assert!(matches!(server.address(), VncAddress::Tcp(a) if a.port() != 0));
}

#[test]
fn symbols_and_scan_codes_are_keys() {
    for c in ' '..='~' {
        assert_eq!(keys::of_symbol(c.into()), visor_console::key_of(c));
    }
    assert_eq!(keys::of_symbol(0xffbe + 9), Some((Key::F10, false)));
    assert_eq!(keys::of_symbol(0xffc9), Some((Key::F12, false)));
    assert_eq!(keys::of_symbol(0x0100_20ac), None);
    assert_eq!((keys::of_scan_code(0x1e), keys::of_scan_code(0xcb)), (Some(Key::A), Some(Key::LEFT)));
    assert_eq!((keys::of_scan_code(0xb7), keys::of_scan_code(0)), (Some(Key::PRINT), None));
}
