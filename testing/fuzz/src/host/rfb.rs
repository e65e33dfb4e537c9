//! VNC clients.

use visor_rfb::{Config, Cursor, MAX_INPUT, MAX_OUTPUT, Session};

use crate::{Input, Script};

/// Picture of the first session, in pixels.
const SIZE: (u32, u32) = (200, 100);

/// The client's bytes come in pieces; it takes what it is sent, or lets it wait.
pub(super) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let how = input.u8();
    let password = (how & 1 != 0).then(|| "secret".to_owned());
    let mut session = Session::new(Config { name: "vm".into(), password, challenge: *b"0123456789abcdef" });
    session.canvas().resize(SIZE.0, SIZE.1);
    let mut line = vec![0; SIZE.0 as usize];
    let mut updates = 0;
    while !input.is_empty() {
        match input.u8() % 8 {
            0..4 => {
                if session.receive(input.bytes()).is_err() {
                    return;
                }
                while let Ok(Some(_)) = session.next_event() {}
            }
            4 => {
                let taken = session.output().len().min(input.u16().into());
                session.sent(taken);
            }
            5 if updates < 32 => {
                updates += 1;
                line.fill(input.u32());
                for y in 0..SIZE.1 {
                    session.canvas().row(y, 0, &line);
                }
                while session.update() && updates < 64 {
                    updates += 1;
                    if how & 2 == 0 {
                        session.sent(session.output().len());
                    }
                }
            }
            6 => session.canvas().resize(u32::from(input.u16()) % 2000, u32::from(input.u16()) % 2000),
            _ => {
                let (width, height) = (u32::from(input.u8()), u32::from(input.u8()));
                let pixels = vec![0xff00_00ff; (width * height) as usize];
                session.set_cursor(Cursor { width, height, hot: (0, 0), pixels });
            }
        }
        // Pictures are made only when nothing waits, so one of them at most comes on top of the answers.
        let picture = 2000 * 2000 * 5;
        assert!(session.output().len() <= MAX_OUTPUT + picture, "{} bytes wait", session.output().len());
        let _ = (session.is_running(), session.wants_update(), session.wants_input(), session.take_stale());
    }
    assert!(data.len() <= MAX_INPUT || !session.wants_input() || session.is_running());
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let encodings = |numbers: &[i32]| {
        let all = numbers.iter().flat_map(|n| n.to_be_bytes()).collect::<Vec<_>>();
        [&[2, 0][..], &(numbers.len() as u16).to_be_bytes(), &all].concat()
    };
    let ask = |incremental: u8| vec![3, incremental, 0, 0, 0, 0, 0, 200, 0, 100];
    let format = |bits: u8, depth: u8, colour: u8| {
        [&[0, 0, 0, 0, bits, depth, 0, colour][..], &[0, 31, 0, 63, 0, 31, 11, 5, 0, 0, 0, 0]].concat()
    };
    let start = |version: &[u8], how: u8| {
        let s = Script::new().raw(&[how, 0]).bytes(version);
        if version[10] < b'7' { s.raw(&[0]).bytes(&[1]) } else { s.raw(&[0]).bytes(&[1]).raw(&[0]).bytes(&[1]) }
    };
    let picture = |s: Script, n: i32| {
        let s = s
            .raw(&[0])
            .bytes(&encodings(&[n, -223, -239, -258, -312, -313]))
            .raw(&[0])
            .bytes(&ask(0))
            .raw(&[5, 1, 2, 3, 0]);
        s.raw(&[0]).bytes(&ask(1)).raw(&[5, 9, 9, 9, 0, 4, 0xff, 0xff])
    };
    let new = || start(b"RFB 003.008\n", 0);
    let events = [
        &[4, 1, 0, 0, 0, 0, 0xff, 0x0d][..],
        &[5, 1, 0, 10, 0, 20],
        &[255, 0, 0, 1, 0, 0, 0, 65, 0, 0, 0, 30],
        &[6, 0, 0, 0, 0, 0, 0, 4, b't', b'e', b'x', b't'],
    ]
    .concat();
    let more = [&[150, 1, 0, 0, 0, 0, 0, 200, 0, 100][..], &[248, 0, 0, 0, 0x80, 0, 0, 1, 4, 1, 2, 3, 4]].concat();
    vec![
        picture(new(), 0).end(),
        picture(new(), 5).end(),
        picture(new(), 16).end(),
        picture(new().raw(&[0]).bytes(&format(16, 16, 1)), 16).end(),
        picture(new().raw(&[0]).bytes(&format(8, 8, 0)), 5).end(),
        new().raw(&[0]).bytes(&events).end(),
        picture(new(), 16).raw(&[0]).bytes(&more).raw(&[5, 1, 1, 1, 1, 6, 0, 4, 0, 3, 7, 16, 16]).end(),
        start(b"RFB 003.003\n", 0).end(),
        Script::new().raw(&[1, 0]).bytes(b"RFB 003.008\n").raw(&[0]).bytes(&[2]).raw(&[0]).bytes(&[7; 16]).end(),
    ]
}
