//! What is on the screen: text and graphics through the video BIOS, keys, Linux on a frame buffer, a VNC client.
#![allow(missing_docs, clippy::unwrap_used, dead_code)]

#[path = "common/boot.rs"]
mod boot;
mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use boot::BootSector;
use common::{file, run, stderr, visor};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Where a test's output goes.
fn place(name: &str) -> PathBuf {
    let path = file(name, b"");
    std::fs::remove_file(&path).unwrap();
    path
}

/// Width, height and pixels of a PNG file.
fn picture(path: &Path) -> (u32, u32, Vec<[u8; 3]>) {
    let file = std::io::BufReader::new(std::fs::File::open(path).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut data = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut data).unwrap();
    assert_eq!(info.color_type, png::ColorType::Rgb);
    (info.width, info.height, data.chunks_exact(3).map(|p| [p[0], p[1], p[2]]).collect())
}

#[test]
fn text_of_a_boot_sector_is_on_the_screen() {
    let disk = file("screen-text.img", &BootSector::new().print("Hello, screen\r\n second line").power_off().disk(""));
    let (shot, words) = (place("screen-text.png"), place("screen-text.txt"));
    let out = run(&[
        "run",
        "--engine",
        "soft",
        "--timeout",
        "120s",
        "--disk",
        text(&disk),
        "--screenshot",
        text(&shot),
        "--screen-text",
        text(&words),
    ]);
    assert_eq!(out.status.code(), Some(0), "{}", stderr(&out));
    let said = std::fs::read_to_string(&words).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("SeaBIOS (version"), "{said}");
    let hello = lines.iter().position(|l| *l == "Hello, screen").unwrap_or_else(|| panic!("{said}"));
    assert_eq!(lines[hello + 1], " second line");
    let (width, height, pixels) = picture(&shot);
    assert_eq!((width, height), (720, 400));
    // The letter l of the font, grey on black: a stem of two dots.
    let row = |y: usize| &pixels[(hello * 16 + y) * 720 + 2 * 9..][..9];
    assert!(row(4).contains(&[0xaa; 3]) && row(0) == [[0; 3]; 9], "{:?}", row(4));
}

#[test]
fn graphics_of_a_boot_sector_are_the_picture() {
    // mov ax, 13h; int 10h; mov ax, 0A000h; mov es, ax; xor di, di; l: mov ax, di; stosb; cmp di, 64000; jne l
    let draw = [
        0xb8, 0x13, 0, 0xcd, 0x10, 0xb8, 0, 0xa0, 0x8e, 0xc0, 0x31, 0xff, 0x89, 0xf8, 0xaa, 0x81, 0xff, 0, 0xfa, 0x75,
        0xf7,
    ];
    let disk = file("screen-256.img", &BootSector::new().code(&draw).power_off().disk(""));
    let shot = place("screen-256.png");
    let out =
        run(&["run", "--engine", "soft", "--timeout", "120s", "--disk", text(&disk), "--screenshot", text(&shot)]);
    assert_eq!(out.status.code(), Some(0), "{}", stderr(&out));
    let (width, height, pixels) = picture(&shot);
    assert_eq!((width, height), (640, 400));
    // The palette as the first 256 pixels show it; its first sixteen colours are the CGA's.
    let palette: Vec<[u8; 3]> = (0..256).map(|i| pixels[2 * i]).collect();
    assert_eq!((palette[0], palette[1], palette[4]), ([0; 3], [0, 0, 0xaa], [0xaa, 0, 0]));
    assert_eq!((palette[6], palette[15], palette[16]), ([0xaa, 0x55, 0], [0xff; 3], [0; 3]));
    for (i, p) in pixels.iter().enumerate() {
        let (x, y) = (i % 640 / 2, i / 640 / 2);
        assert_eq!(*p, palette[(y * 320 + x) % 256], "pixel {x}, {y}");
    }
}

#[test]
fn keys_reach_a_program_in_their_order() {
    // k: mov ah, 0; int 16h; cmp al, 13; je out; mov ah, 0eh; mov bx, 7; int 10h; jmp k; out:
    let echo = [0xb4, 0, 0xcd, 0x16, 0x3c, 13, 0x74, 9, 0xb4, 0x0e, 0xbb, 7, 0, 0xcd, 0x10, 0xeb, 0xef];
    let disk = file("screen-keys.img", &BootSector::new().print("name? ").code(&echo).power_off().disk(""));
    let words = place("screen-keys.txt");
    let typed = "The quick brown fox (42) jumps_over: {lazy} \"dogs\"!";
    let step = format!("type:{typed}\\n");
    let out = run(&[
        "run",
        "--engine",
        "soft",
        "--timeout",
        "120s",
        "--disk",
        text(&disk),
        "--screen-text",
        text(&words),
        "--keys",
        "wait:name?",
        "--keys",
        &step,
    ]);
    assert_eq!(out.status.code(), Some(0), "{}", stderr(&out));
    let said = std::fs::read_to_string(&words).unwrap();
    assert!(said.contains(&format!("name? {typed}")), "{said}");
}

#[test]
fn linux_shows_its_console_on_the_frame_buffer() {
    let words = place("screen-linux.txt");
    let out = run(&[
        "-v",
        "run",
        "tiny",
        "--engine",
        "soft",
        "--timeout",
        "300s",
        "--append",
        "console=tty0",
        "--screen-text",
        text(&words),
        "--",
        "true",
    ]);
    assert_eq!(out.status.code(), Some(0), "{}", stderr(&out));
    let said = std::fs::read_to_string(&words).unwrap();
    assert!(said.contains("Run /init as init process"), "{said}");
    // A text mode has 25 rows of 80 columns, the frame buffer's console 48 of 128.
    assert!(said.lines().count() > 40 && said.lines().any(|line| line.chars().count() > 80), "{said}");
}

#[test]
fn a_vnc_client_sees_and_types() {
    let echo = [0xb4, 0, 0xcd, 0x16, 0x3c, 13, 0x74, 9, 0xb4, 0x0e, 0xbb, 7, 0, 0xcd, 0x10, 0xeb, 0xef];
    let disk = file("screen-vnc.img", &BootSector::new().print("who? ").code(&echo).power_off().disk(""));
    let (socket, words) = (place("screen-vnc.socket"), place("screen-vnc.txt"));
    let address = format!("unix:{}", socket.display());
    let mut child = visor(&["run", "--engine", "soft", "--timeout", "120s", "--disk", text(&disk), "--vnc", &address])
        .args(["--screen-text", text(&words)])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let end = Instant::now() + Duration::from_secs(100);
    let mut client = loop {
        match UnixStream::connect(&socket) {
            Ok(s) => break s,
            Err(e) => assert!(Instant::now() < end, "{e}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    client.write_all(b"RFB 003.008\n\x01\x01").unwrap();
    // Raw pixels, and sizes that follow.
    client.write_all(&[&[2, 0, 0, 2, 0, 0, 0, 0][..], &(-223i32).to_be_bytes()].concat()).unwrap();
    let mut head = vec![0; 12 + 6 + 24];
    client.read_exact(&mut head).unwrap();
    assert_eq!((&head[..12], &head[12..18]), (&b"RFB 003.008\n"[..], &[1, 1, 0, 0, 0, 0][..]));
    let mut name = [0; 2];
    client.read_exact(&mut name).unwrap();
    assert_eq!(&name, b"vm");
    // The text mode's size comes when the BIOS sets it.
    let mut size = (0, 0);
    while size != (720, 400) {
        assert!(Instant::now() < end);
        size = update(&mut client).unwrap_or(size);
    }
    // Enter ends it, once the guest asks; keys before that are for nobody.
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < end, "the guest does not end");
        for symbol in [u32::from(b'o'), u32::from(b'k'), 0xff0d] {
            for down in [1, 0] {
                let _ = client.write_all(&[&[4, down, 0, 0][..], &symbol.to_be_bytes()].concat());
            }
            std::thread::sleep(Duration::from_millis(60));
        }
    }
    let said = std::fs::read_to_string(&words).unwrap();
    assert!(said.contains("who? "), "{said}");
}

#[test]
fn vnc_clients_that_lie_and_flood_disturb_nobody() {
    // sti; l: hlt; jmp l
    let disk = file("screen-liar.img", &BootSector::new().print("alive").code(&[0xfb, 0xf4, 0xeb, 0xfd]).disk(""));
    let socket = place("screen-liar.socket");
    let address = format!("unix:{}", socket.display());
    let mut child = visor(&["run", "--engine", "soft", "--timeout", "240s", "--disk", text(&disk), "--vnc", &address])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let end = Instant::now() + Duration::from_secs(200);
    let connect = || loop {
        match UnixStream::connect(&socket) {
            Ok(s) => break s,
            Err(e) => assert!(Instant::now() < end, "{e}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let hello = b"RFB 003.008\n\x01\x01";
    // A clipboard without end, requests without number, thousands of encodings, a format of nonsense, no protocol at all.
    let cut = [&hello[..], &[6, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]].concat();
    let requests = [&hello[..], &[3, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff].repeat(100_000)].concat();
    let encodings = [&hello[..], &[&[2, 0, 0xff, 0xff][..], &[0x7f; 0xffff * 4]].concat().repeat(4)].concat();
    let format = [&hello[..], &[0, 0, 0, 0, 255, 255, 7, 7, 0, 0, 0, 0, 0, 0, 255, 255, 255, 0, 0, 0]].concat();
    let lies: [&[u8]; 7] =
        [&[0xff; 1 << 20], b"GET / HTTP/1.1\r\n\r\n", b"RFB 999.999\n", &cut, &requests, &encodings, &format];
    let mut held = Vec::new();
    for lie in lies {
        let mut liar = connect();
        // It reads nothing; the server may hang up, or take no more.
        liar.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        let _ = liar.write_all(lie);
        held.push(liar);
    }
    let memory = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let anonymous = memory.lines().find_map(|l| l.strip_prefix("RssAnon:")).unwrap().trim().trim_end_matches(" kB");
    assert!(anonymous.parse::<u64>().unwrap() < 200 << 10, "{anonymous} KiB");
    let mut client = connect();
    client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    client.write_all(hello).unwrap();
    client.write_all(&[&[2, 0, 0, 2, 0, 0, 0, 0][..], &(-223i32).to_be_bytes()].concat()).unwrap();
    client.read_exact(&mut [0; 12 + 6 + 24 + 2]).unwrap();
    update(&mut client);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Asks for an update; the new size if there is one.
fn update(s: &mut UnixStream) -> Option<(u16, u16)> {
    s.write_all(&[3, 1, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]).unwrap();
    let mut head = [0; 4];
    s.read_exact(&mut head).unwrap();
    let mut size = None;
    for _ in 0..u16::from_be_bytes([head[2], head[3]]) {
        let mut rect = [0; 12];
        s.read_exact(&mut rect).unwrap();
        let v = |i: usize| u16::from_be_bytes([rect[i], rect[i + 1]]);
        match i32::from_be_bytes([rect[8], rect[9], rect[10], rect[11]]) {
            0 => s.read_exact(&mut vec![0; usize::from(v(4)) * usize::from(v(6)) * 4]).unwrap(),
            -223 => size = Some((v(4), v(6))),
            other => panic!("encoding {other} was not asked for"),
        }
    }
    size
}
