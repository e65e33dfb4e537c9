//! Sessions with a client that decodes what it gets, and with clients that lie.

use crate::format::NATIVE;
use crate::testing::*;
use crate::*;

/// Pictures of several kinds in one: plain, text-like, stripes, noise, gradients.
fn paint(canvas: &mut Canvas, seed: u64) {
    let mut r = Random(seed);
    let (w, h) = canvas.size();
    for y in 0..h {
        let row: Vec<u32> = (0..w)
            .map(|x| match (x / 64 + y / 64 + seed as u32) % 6 {
                0 => 0x20_4060,
                1 => [0, 0xaa_aaaa][(r.next() & 1) as usize],
                2 => [0xff, 0xff00, 0xff_0000, 7, 9][(x / 3 % 5) as usize],
                3 => r.next() as u32 & 0xff_ffff,
                4 => (x & 0xff) << 16 | y << 8 | 3,
                _ => ((x / 20 + y) * 0x01_0305) & 0xff_ffff,
            })
            .collect();
        canvas.row(y, 0, &row);
    }
}

#[test]
fn every_encoding_in_every_format_gives_the_picture() {
    let formats = [
        NATIVE,
        [32, 24, 1, 1, 0, 255, 0, 255, 0, 255, 24, 16, 8, 0, 0, 0],
        [32, 32, 0, 1, 3, 255, 3, 255, 3, 255, 20, 10, 0, 0, 0, 0],
        [16, 16, 1, 1, 0, 31, 0, 63, 0, 31, 11, 5, 0, 0, 0, 0],
        [8, 8, 0, 1, 0, 7, 0, 7, 0, 3, 0, 3, 6, 0, 0, 0],
        [8, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ];
    for encoding in [0, 5, 16] {
        for format in formats {
            let mut c = Client::new(333, 140, &[7, encoding, 0], format);
            for seed in 1..4 {
                paint(c.session.canvas(), seed);
                assert!(c.ask(seed > 1));
                let whole = crate::canvas::Rect { x: 0, y: 0, width: 333, height: 140 };
                let mut bytes = Vec::new();
                for y in 0..140 {
                    c.session
                        .canvas()
                        .pixels(&whole, y)
                        .to_vec()
                        .iter()
                        .for_each(|p| c.format.put(c.format.convert(*p), &mut bytes));
                }
                let mut at = 0;
                let want: Vec<u32> = (0..333 * 140).map(|_| pixel(&c.format, &bytes, &mut at)).collect();
                let wrong = want.iter().zip(&c.pixels).position(|(a, b)| a != b);
                assert_eq!(wrong.map(|i| (i % 333, i / 333)), None, "encoding {encoding}, {format:?}");
            }
        }
    }
}

#[test]
fn updates_come_when_asked_for_and_only_with_news() {
    let mut c = Client::new(64, 32, &[0], NATIVE);
    assert!(!c.pull(), "nobody asked");
    assert!(c.ask(true), "all is news at first");
    assert!(!c.ask(true), "nothing new: the request waits");
    c.session.canvas().row(3, 5, &[1, 2, 3]);
    assert!(c.pull());
    assert_eq!(c.pixels[3 * 64 + 5..][..3], [1, 2, 3]);
    c.session.canvas().row(3, 5, &[4]);
    assert!(!c.pull(), "one request, one update");
    assert!(c.ask(false), "a whole picture on demand");
    c.session.receive(&request(true, 40, 0, 24, 32)).unwrap();
    c.session.canvas().row(0, 0, &[9]);
    assert!(!c.pull(), "news elsewhere");
    c.session.receive(&request(true, 0, 0, 1, 1)).unwrap();
    c.session.receive(&request(true, 0, 0, 1, 1)).unwrap();
    assert!(c.pull());
    assert!(c.ask(false));
    c.session.canvas().row(0, 0, &[8]);
    c.session.receive(&request(true, 0, 0, 64, 32)).unwrap();
    assert!(c.session.update());
    c.session.receive(&request(true, 0, 0, 64, 32)).unwrap();
    c.session.canvas().row(0, 0, &[7]);
    assert!(!c.session.update(), "the client has not taken the last one");
}

#[test]
fn continuous_updates_need_no_requests() {
    let mut c = Client::new(32, 32, &[16, -312, -313], NATIVE);
    c.ask(true);
    assert_eq!(c.others, [vec![248, 0, 0, 0, 0x80, 0, 0, 0, 0], vec![150]], "announced");
    c.session.receive(&[150, 1, 0, 0, 0, 0, 0, 32, 0, 32]).unwrap();
    for v in 1..5 {
        c.session.canvas().row(9, 9, &[v]);
        assert!(c.pull());
        assert_eq!(c.pixels[9 * 32 + 9], v);
    }
    assert!(!c.pull());
    c.session.receive(&[150, 0, 0, 0, 0, 0, 0, 32, 0, 32]).unwrap();
    c.session.canvas().row(9, 9, &[77]);
    assert!(!c.pull());
    assert_eq!(c.others.pop(), Some(vec![150]), "the end is confirmed");
    c.session.receive(&[248, 0, 0, 0, 0x80, 0, 0, 3, 2, 5, 6]).unwrap();
    c.pull();
    assert_eq!(c.others.pop(), Some(vec![248, 0, 0, 0, 0, 0, 0, 3, 2, 5, 6]), "a fence comes back");
}

#[test]
fn sizes_change_for_those_who_can_follow() {
    let mut c = Client::new(32, 32, &[0, -223], NATIVE);
    c.ask(true);
    c.session.canvas().resize(48, 20);
    c.session.canvas().row(19, 47, &[5]);
    assert!(c.ask(true));
    assert_eq!((c.width, c.height), (48, 20));
    assert!(c.ask(true));
    assert_eq!(c.pixels[48 * 20 - 1], 5);

    let mut c = Client::new(32, 32, &[0], NATIVE);
    c.ask(true);
    c.session.canvas().resize(48, 20);
    c.session.canvas().row(19, 0, &[6; 48]);
    assert!(c.ask(true));
    assert_eq!((c.pixels[19 * 32 + 31], c.pixels[20 * 32]), (6, 0), "cut, and black below");
    c.session.receive(&encodings(&[0, -223])).unwrap();
    assert!(c.session.take_stale() && !c.session.take_stale());
    assert_eq!(c.session.canvas().size(), (48, 20));
}

#[test]
fn keys_pointers_and_cursors() {
    let mut c = Client::new(32, 32, &[0, -258, -239], NATIVE);
    c.session.set_cursor(Cursor { width: 2, height: 1, hot: (1, 0), pixels: vec![0xff12_3456, 0] });
    assert!(c.ask(true));
    assert_eq!(c.others[0][8..12], (-258i32).to_be_bytes());
    assert_eq!(c.others[1][12..21], [0x56, 0x34, 0x12, 0, 0, 0, 0, 0, 0x80]);
    c.session.receive(&[4, 1, 0, 0, 0, 0, 0xff, 0x0d, 255, 0, 0, 0, 0, 0, 0xff, 0x52, 0, 0, 0, 0xc8]).unwrap();
    c.session.receive(&[6, 0, 0, 0, 0, 0, 0, 5, b'h', b'e']).unwrap();
    c.session.receive(&[b'l', b'l', b'o', 5, 1, 0, 7, 0, 9]).unwrap();
    let mut next = || c.session.next_event().unwrap();
    assert_eq!(next(), Some(Event::Key { symbol: 0xff0d, scan_code: None, down: true }));
    assert_eq!(next(), Some(Event::Key { symbol: 0xff52, scan_code: Some(0xc8), down: false }));
    assert_eq!(next(), Some(Event::Pointer { x: 7, y: 9, buttons: 1 }), "after text that nobody wants");
    assert_eq!(next(), None);
    for x in 0..1000u16 {
        let [a, b] = x.to_be_bytes();
        c.session.receive(&[5, 0, a, b, 0, 0]).unwrap();
    }
    c.session.receive(&[5, 4, 0, 1, 0, 0]).unwrap();
    let mut events = Vec::new();
    while let Some(e) = c.session.next_event().unwrap() {
        events.push(e);
    }
    assert_eq!(events.len(), 3, "of a movement its start and its end: {events:?}");
    assert_eq!(events[1], Event::Pointer { x: 999, y: 0, buttons: 0 });
}

#[test]
fn passwords_are_asked_for() {
    for (version, word, good) in
        [("003.008", "secret", true), ("003.003", "secret", true), ("003.007", "wrong", false), ("003.889", "", false)]
    {
        let mut s = Session::new(config(Some("secret")));
        take(&mut s);
        s.receive(format!("RFB {version}\n").as_bytes()).unwrap();
        let challenge = if version == "003.003" {
            let out = take(&mut s);
            assert_eq!(out[..4], [0, 0, 0, 2]);
            out[4..].to_vec()
        } else {
            assert_eq!(take(&mut s), [1, 2]);
            s.receive(&[2]).unwrap();
            take(&mut s)
        };
        let challenge: [u8; 16] = challenge.try_into().unwrap();
        let done = s.receive(&crate::auth::encrypt(word.as_bytes(), &challenge));
        assert_eq!(done, if good { Ok(()) } else { Err(Error::Password) });
        let reason = if version == "003.889" { &b"\0\0\0\x01\0\0\0\x0ewrong password"[..] } else { &[0, 0, 0, 1] };
        assert_eq!(take(&mut s), if good { &[0; 4][..] } else { reason });
        assert_eq!(s.receive(&[1]).is_ok(), good, "a session that is over stays so");
    }
    let mut s = Session::new(config(Some("secret")));
    s.receive(b"RFB 003.008\n").unwrap();
    assert_eq!(s.receive(&[1]), Err(Error::Security), "none was not offered");
}

#[test]
fn what_is_no_client_is_refused() {
    for hello in [&b"GET / HTTP/1.1\r\n"[..], b"RFB 004.000\n", b"RFB 003.xyz\n", b"\0"] {
        assert_eq!(Session::new(config(None)).receive(hello), Err(Error::Version), "{hello:?}");
    }
    let mut c = Client::new(8, 8, &[0], NATIVE);
    assert_eq!(c.session.receive(&[77]), Err(Error::Message(77)));
    let mut c = Client::new(8, 8, &[0], NATIVE);
    assert_eq!(
        c.session.receive(&[0, 0, 0, 0, 24, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0]),
        Err(Error::Message(0))
    );
    let mut c = Client::new(8, 8, &[0], NATIVE);
    assert_eq!(c.session.receive(&[248, 0, 0, 0, 0, 0, 0, 0, 65]), Err(Error::Message(248)));
    let mut c = Client::new(8, 8, &[0], NATIVE);
    assert_eq!(c.session.receive(&[255, 1]), Err(Error::Message(255)));
}

#[test]
fn floods_are_bounded() {
    let mut c = Client::new(8, 8, &[0, -312], NATIVE);
    let keys = [4, 1, 0, 0, 0, 0, 0, 65].repeat(5000);
    c.session.receive(&keys).unwrap();
    assert!(!c.session.wants_input());
    let mut n = 0;
    while c.session.next_event().unwrap().is_some() {
        n += 1;
    }
    assert_eq!(n, 5000, "none is lost; they wait in the input");
    let fence = [&[248, 0, 0, 0, 0x80, 0, 0, 0, 64][..], &[7; 64]].concat().repeat(500);
    let mut flooded = false;
    for _ in 0..200 {
        flooded |= c.session.receive(&fence) == Err(Error::Flood);
    }
    assert!(flooded && c.session.output().len() < 3 * MAX_OUTPUT);
    let mut c = Client::new(8, 8, &[0], NATIVE);
    let endless = vec![2, 0, 0xff, 0xff];
    c.session.receive(&endless).unwrap();
    let r = (0..40).map(|_| c.session.receive(&[0; 65536])).find(Result::is_err);
    assert!(r.is_none() || r == Some(Err(Error::Message(0))), "{r:?}");
    let mut c = Client::new(8, 8, &[0], NATIVE);
    c.session.receive(&[6, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff]).unwrap();
    (0..100).for_each(|_| c.session.receive(&[0; 65536]).unwrap());
    assert!(c.session.wants_input(), "two gigabytes of clipboard are thrown away as they come");
}

#[test]
fn random_clients_do_no_harm() {
    let mut r = Random(0x1234_5678_9abc_def1);
    for round in 0..400 {
        let mut c = Client::new(
            1 + round % 90,
            1 + round % 70,
            &[[0, 5, 16][round as usize % 3], -223, -239, -258, -312, -313],
            NATIVE,
        );
        for _ in 0..60 {
            let mut m: Vec<u8> = (0..r.next() % 40).map(|_| r.next() as u8).collect();
            if let Some(first) = m.first_mut().filter(|_| !r.next().is_multiple_of(8)) {
                *first = [0, 2, 3, 3, 3, 4, 5, 6, 150, 248, 251, 255][r.next() as usize % 12];
            }
            if m.first() == Some(&2) && m.len() > 3 {
                m[2] = 0;
            }
            if c.session.receive(&m).is_err() {
                break;
            }
            paint(c.session.canvas(), r.next() % 100);
            if r.next().is_multiple_of(8) {
                c.session.canvas().resize(r.next() as u32 % 100, r.next() as u32 % 100);
            }
            c.session.update();
            let n = r.next() as usize % 5000;
            c.session.sent(n);
            assert!(c.session.output().len() < 3 * MAX_OUTPUT);
            while c.session.next_event().is_ok_and(|e| e.is_some()) {}
        }
    }
}
