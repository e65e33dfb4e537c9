//! One connection: handshake, messages, updates.

use std::collections::VecDeque;

use crate::canvas::{Canvas, Rect};
use crate::encode::{self, Encoding, Zrle};
use crate::format::{self, Format, NATIVE};
use crate::message::{self, Message, Part};
use crate::{Error, Event, MAX_EVENTS, MAX_INPUT, MAX_OUTPUT, auth};

/// Pseudo-encodings.
const DESKTOP_SIZE: i32 = -223;
const CURSOR: i32 = -239;
const QEMU_KEYS: i32 = -258;
const FENCE: i32 = -312;
const CONTINUOUS: i32 = -313;

/// Flag of a fence: the other side answers it.
const FENCE_REQUEST: u32 = 1 << 31;

/// What a server tells its clients.
#[derive(Clone, Debug)]
pub struct Config {
    /// The desktop's name.
    pub name: String,
    /// The password, of which eight bytes count. `None`: no authentication.
    pub password: Option<String>,
    /// 16 random bytes for this connection.
    pub challenge: [u8; 16],
}

/// The shape of the pointer, for clients that draw it themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Pixels in a row, at most 256.
    pub width: u32,
    /// Rows, at most 256.
    pub height: u32,
    /// The pixel that points, from the left and from the top.
    pub hot: (u32, u32),
    /// AARRGGBBh, row by row; half opaque and more is shown.
    pub pixels: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Version,
    SecurityType,
    Response,
    Init,
    Running,
    Over(Error),
}

/// What the client can do.
#[derive(Clone, Debug, Default)]
struct Abilities {
    encoding: Option<Encoding>,
    desktop_size: bool,
    cursor: bool,
    qemu_keys: bool,
    fence: bool,
    continuous: bool,
}

/// See the crate's documentation.
pub struct Session {
    config: Config,
    state: State,
    /// 3, 7 or 8 of protocol 3.x.
    minor: u8,
    input: Vec<u8>,
    /// Bytes to be thrown away before the next message.
    skip: usize,
    output: Vec<u8>,
    sent: usize,
    events: VecDeque<Event>,
    canvas: Canvas,
    format: Format,
    can: Abilities,
    /// What has been announced once.
    announced: Abilities,
    /// The client waits for news of this part.
    request: Option<Rect>,
    /// The client gets news of this part without asking.
    continuous: Option<Rect>,
    cursor: Option<Cursor>,
    stale: bool,
    zrle: Zrle,
}

impl Session {
    /// A new connection: the server speaks first.
    pub fn new(config: Config) -> Self {
        let format = Format::parse(&NATIVE);
        Session {
            config,
            state: if format.is_some() { State::Version } else { State::Over(Error::Version) },
            minor: 8,
            input: Vec::new(),
            skip: 0,
            output: b"RFB 003.008\n".to_vec(),
            sent: 0,
            events: VecDeque::new(),
            canvas: Canvas::default(),
            format: format.unwrap_or_else(|| unreachable!("the server's own format is possible")),
            can: Abilities::default(),
            announced: Abilities::default(),
            request: None,
            continuous: None,
            cursor: None,
            stale: false,
            zrle: Zrle::default(),
        }
    }

    /// The picture, to be brought up to date before [`Session::update`].
    pub fn canvas(&mut self) -> &mut Canvas {
        &mut self.canvas
    }

    /// The handshake is over: pictures and input flow.
    pub fn is_running(&self) -> bool {
        self.state == State::Running
    }

    /// The client waits for a picture, and has taken what was sent before: now it is worth bringing the canvas up to date.
    pub fn wants_update(&self) -> bool {
        self.is_running() && self.waiting() == 0 && self.wanted().is_some()
    }

    /// The canvas must be filled anew with the whole picture: its size has changed on the client's account. Tells once.
    pub fn take_stale(&mut self) -> bool {
        std::mem::take(&mut self.stale)
    }

    /// Changes the shape of the pointer; clients that cannot draw it do without.
    pub fn set_cursor(&mut self, cursor: Cursor) {
        let fits = cursor.width <= 256 && cursor.height <= 256;
        if fits && cursor.pixels.len() == cursor.width as usize * cursor.height as usize {
            self.cursor = Some(cursor);
        }
    }

    /// Whether more bytes should be read from the client.
    pub fn wants_input(&self) -> bool {
        self.input.len() < MAX_INPUT && self.events.len() < MAX_EVENTS && self.waiting() < MAX_OUTPUT
    }

    /// Takes bytes from the client; at most 64 KiB at a time, while [`Session::wants_input`].
    ///
    /// # Errors
    /// [`Error`]: send what is in [`Session::output`], then close.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if self.input.len() + bytes.len() > 2 * MAX_INPUT {
            self.state = State::Over(Error::Flood);
        }
        let bytes = self.throw_away(bytes);
        self.input.extend_from_slice(bytes);
        self.work()
    }

    /// The next thing that the client did.
    ///
    /// # Errors
    /// As [`Session::receive`].
    pub fn next_event(&mut self) -> Result<Option<Event>, Error> {
        if self.events.is_empty() {
            self.work()?;
        }
        Ok(self.events.pop_front())
    }

    /// Bytes for the client.
    pub fn output(&self) -> &[u8] {
        &self.output[self.sent..]
    }

    /// The first `n` bytes of the output have been sent.
    pub fn sent(&mut self, n: usize) {
        self.sent = (self.sent + n).min(self.output.len());
        if self.sent == self.output.len() {
            self.output.clear();
            self.sent = 0;
        }
    }

    /// Encodes news if the client wants them; true if there is something to send.
    pub fn update(&mut self) -> bool {
        if !self.wants_update() {
            return false;
        }
        let Some(part) = self.wanted() else { return false };
        if std::mem::take(&mut self.canvas.resized) && self.can.desktop_size {
            let (width, height) = self.canvas.size();
            self.begin(1);
            encode::header(&Rect { x: 0, y: 0, width, height }, DESKTOP_SIZE, &mut self.output);
            self.request = None;
            return true;
        }
        let cursor = self.cursor.take_if(|_| self.can.cursor);
        let mut news = self.canvas.take_news(&part);
        // The count has 16 bits; what is more waits for the next time.
        for late in news.split_off(news.len().min(0xfff0)) {
            self.canvas.touch(&late);
        }
        if news.is_empty() && cursor.is_none() {
            return false;
        }
        self.begin(news.len() + usize::from(cursor.is_some()));
        if let Some(cursor) = cursor {
            put_cursor(&cursor, &self.format, &mut self.output);
        }
        let encoding = self.can.encoding.unwrap_or(Encoding::Raw);
        for rect in &news {
            encode::rect(&self.canvas, rect, encoding, &self.format, &mut self.zrle, &mut self.output);
        }
        self.request = None;
        true
    }

    fn begin(&mut self, rects: usize) {
        self.output.extend_from_slice(&[0, 0]);
        self.output.extend_from_slice(&(rects as u16).to_be_bytes());
    }

    fn waiting(&self) -> usize {
        self.output.len() - self.sent
    }

    fn wanted(&self) -> Option<Rect> {
        self.request.or(self.continuous)
    }

    fn throw_away<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let n = self.skip.min(bytes.len());
        self.skip -= n;
        &bytes[n..]
    }

    /// Works on the input until it is used up, incomplete, or there are enough events.
    fn work(&mut self) -> Result<(), Error> {
        let mut done = 0;
        let result = loop {
            if let State::Over(error) = self.state {
                break Err(error);
            }
            let n = self.skip.min(self.input.len() - done);
            self.skip -= n;
            done += n;
            if self.events.len() >= MAX_EVENTS {
                break Ok(());
            }
            match self.step(done) {
                Ok(0) => break Ok(()),
                Ok(n) => done += n,
                Err(error) => self.state = State::Over(error),
            }
            if self.waiting() > 2 * MAX_OUTPUT && self.request.is_none() {
                self.state = State::Over(Error::Flood);
            }
        };
        self.input.drain(..done.min(self.input.len()));
        result
    }

    /// Handles what begins at `at` of the input; the bytes used, zero if more must come.
    fn step(&mut self, at: usize) -> Result<usize, Error> {
        let input = &self.input[at..];
        let first = input.first().copied();
        match self.state {
            State::Version => match input.get(..12) {
                Some(version) => {
                    let version = <[u8; 12]>::try_from(version).unwrap_or_default();
                    self.version(&version).map(|()| 12)
                }
                None if b"RFB ".starts_with(&input[..input.len().min(4)]) => Ok(0),
                None => Err(Error::Version),
            },
            State::SecurityType => first.map_or(Ok(0), |t| self.security_type(t).map(|()| 1)),
            State::Response => match input.get(..16).map(<[u8]>::to_vec) {
                Some(response) => self.response(&response).map(|()| 16),
                None => Ok(0),
            },
            State::Init => Ok(first.map_or(0, |_| {
                self.initialise();
                1
            })),
            State::Running => match message::parse(input)? {
                Some((message, len)) => self.message(message).map(|()| len),
                None => Ok(0),
            },
            State::Over(error) => Err(error),
        }
    }

    fn version(&mut self, version: &[u8; 12]) -> Result<(), Error> {
        let good = version.starts_with(b"RFB 003.") && version[11] == b'\n';
        let minor = std::str::from_utf8(&version[8..11]).ok().and_then(|m| m.parse::<u16>().ok());
        // Of others the RFC (§7.1.1) says to take them for 3.3.
        self.minor = match minor.filter(|_| good).ok_or(Error::Version)? {
            7 => 7,
            m if m >= 8 => 8,
            _ => 3,
        };
        let kind = if self.config.password.is_some() { 2 } else { 1 };
        if self.minor == 3 {
            self.output.extend_from_slice(&[0, 0, 0, kind]);
            return self.begin_security(kind);
        }
        self.output.extend_from_slice(&[1, kind]);
        self.state = State::SecurityType;
        Ok(())
    }

    fn security_type(&mut self, kind: u8) -> Result<(), Error> {
        let offered = if self.config.password.is_some() { 2 } else { 1 };
        if kind != offered { Err(Error::Security) } else { self.begin_security(kind) }
    }

    fn begin_security(&mut self, kind: u8) -> Result<(), Error> {
        if kind == 2 {
            self.output.extend_from_slice(&self.config.challenge);
            self.state = State::Response;
        } else {
            // Before 3.8 there is no result where there is no authentication.
            if self.minor == 8 {
                self.output.extend_from_slice(&[0; 4]);
            }
            self.state = State::Init;
        }
        Ok(())
    }

    fn response(&mut self, response: &[u8]) -> Result<(), Error> {
        let password = self.config.password.as_deref().unwrap_or_default();
        if auth::accepts(password.as_bytes(), &self.config.challenge, response) {
            self.output.extend_from_slice(&[0; 4]);
            self.state = State::Init;
            return Ok(());
        }
        self.output.extend_from_slice(&[0, 0, 0, 1]);
        if self.minor == 8 {
            let reason = b"wrong password";
            self.output.extend_from_slice(&(reason.len() as u32).to_be_bytes());
            self.output.extend_from_slice(reason);
        }
        Err(Error::Password)
    }

    fn initialise(&mut self) {
        if self.canvas.size() == (0, 0) {
            self.canvas.resize(640, 480);
            self.stale = true;
        }
        let (width, height) = self.canvas.size();
        self.output.extend_from_slice(&(width as u16).to_be_bytes());
        self.output.extend_from_slice(&(height as u16).to_be_bytes());
        self.output.extend_from_slice(&NATIVE);
        let name: Vec<u8> = self.config.name.bytes().take(1024).collect();
        self.output.extend_from_slice(&(name.len() as u32).to_be_bytes());
        self.output.extend_from_slice(&name);
        self.canvas.resized = false;
        self.canvas.fix();
        self.state = State::Running;
    }

    fn message(&mut self, message: Message) -> Result<(), Error> {
        match message {
            Message::SetPixelFormat(bytes) => {
                self.format = Format::parse(&bytes).ok_or(Error::Message(0))?;
                if self.format.mapped {
                    self.output.extend_from_slice(&format::colour_map());
                }
            }
            Message::SetEncodings(numbers) => self.set_encodings(&numbers),
            Message::Request { incremental, part } => {
                let part = rect(part);
                if !incremental {
                    self.canvas.touch(&part);
                }
                // Of several requests that wait the union is answered.
                self.request = Some(self.request.map_or(part, |r| union(&r, &part)));
            }
            Message::Key { down, symbol, scan_code } => self.events.push_back(Event::Key { symbol, scan_code, down }),
            Message::Pointer { buttons, x, y } => self.pointer(Event::Pointer { x, y, buttons }),
            Message::CutText(len) => self.skip = len,
            Message::ContinuousUpdates { on, part } => {
                self.continuous = on.then(|| rect(part));
                if !on {
                    self.output.push(150);
                }
            }
            Message::Fence { flags, payload } => {
                if flags & FENCE_REQUEST != 0 {
                    // Everything here happens in order, so all kinds of fences are the same.
                    self.put_fence(flags & 7, &payload);
                }
            }
            Message::SetDesktopSize => {}
        }
        Ok(())
    }

    /// Of movements without a change of buttons the last one counts.
    fn pointer(&mut self, event: Event) {
        let buttons = |e: &Event| match e {
            Event::Pointer { buttons, .. } => Some(*buttons),
            Event::Key { .. } => None,
        };
        let same = |back: &Event| buttons(back) == buttons(&event);
        let before = self.events.len().checked_sub(2).and_then(|i| self.events.get(i));
        if before.is_some_and(same)
            && let Some(back) = self.events.back_mut().filter(|back| same(back))
        {
            *back = event;
            return;
        }
        self.events.push_back(event);
    }

    fn set_encodings(&mut self, numbers: &[i32]) {
        let has = |n: i32| numbers.contains(&n);
        self.can = Abilities {
            encoding: numbers.iter().find_map(|n| Encoding::from_number(*n)),
            desktop_size: has(DESKTOP_SIZE),
            cursor: has(CURSOR),
            qemu_keys: has(QEMU_KEYS),
            fence: has(FENCE),
            continuous: has(CONTINUOUS),
        };
        if self.can.desktop_size {
            self.stale |= self.canvas.unfix();
        } else {
            self.canvas.fix();
        }
        if self.can.qemu_keys && !std::mem::replace(&mut self.announced.qemu_keys, true) {
            self.begin(1);
            encode::header(&Rect { x: 0, y: 0, width: 0, height: 0 }, QEMU_KEYS, &mut self.output);
        }
        if self.can.fence && !std::mem::replace(&mut self.announced.fence, true) {
            self.put_fence(FENCE_REQUEST, &[]);
        }
        if self.can.fence && self.can.continuous && !std::mem::replace(&mut self.announced.continuous, true) {
            self.output.push(150);
        }
    }

    fn put_fence(&mut self, flags: u32, payload: &[u8]) {
        self.output.extend_from_slice(&[248, 0, 0, 0]);
        self.output.extend_from_slice(&flags.to_be_bytes());
        self.output.push(payload.len() as u8);
        self.output.extend_from_slice(payload);
    }
}

fn rect(p: Part) -> Rect {
    Rect { x: p.x.into(), y: p.y.into(), width: p.width.into(), height: p.height.into() }
}

fn union(a: &Rect, b: &Rect) -> Rect {
    let (x, y) = (a.x.min(b.x), a.y.min(b.y));
    let width = (a.x + a.width).max(b.x + b.width) - x;
    let height = (a.y + a.height).max(b.y + b.height) - y;
    Rect { x, y, width, height }
}

/// The pointer's shape as a rectangle: pixels, then a bit for each that is shown.
fn put_cursor(c: &Cursor, format: &Format, out: &mut Vec<u8>) {
    encode::header(&Rect { x: c.hot.0, y: c.hot.1, width: c.width, height: c.height }, CURSOR, out);
    c.pixels.iter().for_each(|p| format.put(format.convert(p & 0xff_ffff), out));
    for row in c.pixels.chunks(c.width.max(1) as usize) {
        for group in row.chunks(8) {
            out.push(group.iter().enumerate().fold(0, |b, (i, p)| b | ((p >> 31) as u8) << (7 - i)));
        }
    }
}
