//! One client: its connection, its session, and what it holds down.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use visor_console::{Button, Display, FrameBufferSink, Generation, InputEvent, InputSink, Key, POINTER_RANGE, Size};
use visor_rfb::{Canvas, Config, Event, Session};

use super::address::Stream;
use super::keys;

/// How long a client may take to introduce itself.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// Between looks at the screen while it changes, and at most when nothing does.
const FRAME: Duration = Duration::from_millis(33);
const IDLE_FRAME: Duration = Duration::from_millis(100);

/// Wheels among a client's buttons: the bit, right and away.
const WHEELS: [(u8, i32, i32); 4] = [(8, 0, 1), (16, 0, -1), (32, -1, 0), (64, 1, 0)];
const BUTTONS: [(u8, Button); 3] = [(1, Button::Left), (2, Button::Middle), (4, Button::Right)];

pub(super) struct Client {
    stream: Stream,
    session: Session,
    seen: Generation,
    born: Instant,
    /// When to look at the screen, while the client waits for news.
    look: Instant,
    pace: Duration,
    buttons: u8,
    keys: BTreeSet<Key>,
}

/// A canvas as the contract's sink.
struct Sink<'a>(&'a mut Canvas);

impl FrameBufferSink for Sink<'_> {
    fn resize(&mut self, size: Size) {
        self.0.resize(size.width, size.height);
    }

    fn row(&mut self, y: u32, x: u32, pixels: &[u32]) {
        self.0.row(y, x, pixels);
    }
}

impl Client {
    pub(super) fn new(stream: Stream, config: Config, screen: &dyn Display) -> Self {
        let mut session = Session::new(config);
        let seen = screen.changes(Generation::default(), &mut Sink(session.canvas()));
        let now = Instant::now();
        Client { stream, session, seen, born: now, look: now, pace: FRAME, buttons: 0, keys: BTreeSet::new() }
    }

    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    pub(super) fn wants_input(&self) -> bool {
        self.session.wants_input()
    }

    pub(super) fn wants_output(&self) -> bool {
        !self.session.output().is_empty()
    }

    /// When there is something to do for it without its help.
    pub(super) fn alarm(&self) -> Option<Instant> {
        if !self.session.is_running() {
            return Some(self.born + HANDSHAKE);
        }
        self.session.wants_update().then_some(self.look)
    }

    /// Reads what has come. False: the connection is over.
    pub(super) fn read(&mut self, screen: &dyn Display, input: &dyn InputSink) -> bool {
        let mut bytes = [0; 1 << 14];
        let alive = match self.stream.read(&mut bytes) {
            Ok(0) => false,
            Ok(n) => self.take(&bytes[..n], screen, input),
            Err(e) => matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
        };
        if !alive {
            self.release(input);
        }
        alive
    }

    fn take(&mut self, bytes: &[u8], screen: &dyn Display, input: &dyn InputSink) -> bool {
        let mut result = self.session.receive(bytes);
        while result.is_ok() {
            match self.session.next_event() {
                Ok(Some(event)) => self.event(event, screen, input),
                Ok(None) => return true,
                Err(error) => result = Err(error),
            }
        }
        if let Err(error) = result {
            tracing::info!(%error, "VNC client");
            // A refusal is told if the socket takes it at once.
            let _ = self.stream.write(self.session.output());
        }
        false
    }

    fn event(&mut self, event: Event, screen: &dyn Display, input: &dyn InputSink) {
        match event {
            Event::Key { symbol, scan_code, down } => {
                let by_code = scan_code.and_then(keys::of_scan_code).map(|key| (key, false));
                if let Some((key, shift)) = by_code.or_else(|| keys::of_symbol(symbol)) {
                    self.key(key, shift, down, input);
                }
            }
            Event::Pointer { x, y, buttons } => self.pointer((x, y), buttons, screen.size(), input),
        }
        // What a person does may show at once.
        self.pace = FRAME;
        self.look = self.look.min(Instant::now() + FRAME / 2);
    }

    fn key(&mut self, key: Key, shift: bool, down: bool, input: &dyn InputSink) {
        let event = |key, down| InputEvent::Key { key, down };
        let has_shift = [Key::LEFT_SHIFT, Key::RIGHT_SHIFT].iter().any(|k| self.keys.contains(k));
        if down {
            self.keys.insert(key);
        } else {
            self.keys.remove(&key);
        }
        // Some clients send the symbol alone.
        if shift && down && !has_shift {
            return input.input(&[event(Key::LEFT_SHIFT, true), event(key, true), event(Key::LEFT_SHIFT, false)]);
        }
        input.input(&[event(key, down)]);
    }

    fn pointer(&mut self, (x, y): (u16, u16), buttons: u8, size: (u32, u32), input: &dyn InputSink) {
        let scale = |v: u16, size: u32| {
            let last = size.saturating_sub(1).max(1);
            (u32::from(v).min(last) * u32::from(POINTER_RANGE) / last) as u16
        };
        let mut events = vec![InputEvent::Position { x: scale(x, size.0), y: scale(y, size.1) }];
        let changed = self.buttons ^ buttons;
        for (bit, button) in BUTTONS {
            if changed & bit != 0 {
                events.push(InputEvent::Button { button, down: buttons & bit != 0 });
            }
        }
        for (bit, dx, dy) in WHEELS {
            if changed & buttons & bit != 0 {
                events.push(InputEvent::Wheel { dx, dy });
            }
        }
        self.buttons = buttons;
        input.input(&events);
    }

    /// Lets go of everything that the client held down.
    pub(super) fn release(&mut self, input: &dyn InputSink) {
        let keys = std::mem::take(&mut self.keys).into_iter().map(|key| InputEvent::Key { key, down: false });
        let buttons = std::mem::take(&mut self.buttons);
        let held = BUTTONS.into_iter().filter(|(bit, _)| buttons & bit != 0);
        let events: Vec<InputEvent> =
            keys.chain(held.map(|(_, button)| InputEvent::Button { button, down: false })).collect();
        if !events.is_empty() {
            input.input(&events);
        }
    }

    /// Looks at the screen if it is time, and writes what waits. False: the connection is over.
    pub(super) fn work(&mut self, screen: &dyn Display) -> bool {
        let now = Instant::now();
        if !self.session.is_running() && now > self.born + HANDSHAKE {
            return false;
        }
        if self.session.wants_update() && now >= self.look {
            if self.session.take_stale() {
                self.seen = Generation::default();
            }
            let seen = screen.changes(self.seen, &mut Sink(self.session.canvas()));
            let news = std::mem::replace(&mut self.seen, seen) != seen;
            self.session.update();
            self.pace = if news { FRAME } else { (self.pace * 5 / 4).min(IDLE_FRAME) };
            self.look = now + self.pace;
        }
        self.write()
    }

    fn write(&mut self) -> bool {
        while self.wants_output() {
            match self.stream.write(self.session.output()) {
                Ok(0) => return false,
                Ok(n) => self.session.sent(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }
}
