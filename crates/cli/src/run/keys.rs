//! Typing by script: what to press, and what to wait for on the screen.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use visor_machine::console::{Chord, Display, InputEvent, InputSink, Key, strokes};

/// Between two keys: firmware keeps fifteen and looks at them when it has time.
const PACE: Duration = Duration::from_millis(40);
/// How long to wait for a guest that does not read its keyboard before the next key is tried all the same.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between looks at the screen.
const LOOK: Duration = Duration::from_millis(200);

/// One step of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Until this text is on the screen.
    Wait(String),
    /// For some time.
    Sleep(Duration),
    /// Keys, one chord after the other.
    Press(Vec<Chord>),
    /// The machine is switched off, as by pulling the plug.
    End,
}

impl std::str::FromStr for Step {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        if s == "end" {
            return Ok(Step::End);
        }
        let (verb, rest) = s.split_once(':').ok_or("write wait:TEXT, type:TEXT, press:KEYS, sleep:TIME or end")?;
        match verb {
            "wait" if !rest.is_empty() => Ok(Step::Wait(rest.into())),
            "type" => match strokes(&unescape(rest)) {
                Ok(chords) => Ok(Step::Press(chords)),
                Err(c) => Err(format!("no key of a US keyboard types {c:?}")),
            },
            "press" => {
                let chord = Chord::parse(rest)
                    .map_err(|key| format!("no key is called {key:?}; try f12 or ctrl+alt+delete"))?;
                Ok(Step::Press(vec![chord]))
            }
            "sleep" => crate::values::parse_time(rest).map(Step::Sleep),
            _ => Err(format!("no step is called {verb:?}; steps are wait, type, press, sleep and end")),
        }
    }
}

/// `\n`, `\t`, `\e` and `\\`.
fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('e') => out.push('\x1b'),
                Some(other) => out.push(other),
                None => out.push('\\'),
            },
            (c, _) => out.push(c),
        }
    }
    out
}

/// A thread that follows a script; it ends when it is dropped.
pub(super) struct Typist {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Hands {
    screen: Arc<dyn Display>,
    input: Arc<dyn InputSink>,
    over: Box<dyn Fn() -> bool + Send>,
    end: Box<dyn Fn() + Send>,
}

/// Follows a script in this thread; false if `over` became true before its end. `end` switches the machine off.
pub(super) fn follow(
    steps: &[Step],
    screen: Arc<dyn Display>,
    input: Arc<dyn InputSink>,
    over: impl Fn() -> bool + Send + 'static,
    end: impl Fn() + Send + 'static,
) -> bool {
    let hands = Hands { screen, input, over: Box::new(over), end: Box::new(end) };
    steps.iter().all(|step| hands.follow(step))
}

impl Typist {
    pub(super) fn start(
        steps: Vec<Step>,
        screen: Arc<dyn Display>,
        input: Arc<dyn InputSink>,
        end: impl Fn() + Send + 'static,
    ) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let over = stop.clone();
        let hands = Hands { screen, input, over: Box::new(move || over.load(Ordering::SeqCst)), end: Box::new(end) };
        let thread = std::thread::Builder::new().name("typist".into()).spawn(move || {
            let _ = steps.iter().all(|step| hands.follow(step));
        })?;
        Ok(Typist { stop, thread: Some(thread) })
    }
}

impl Drop for Typist {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

impl Hands {
    /// Does a step; false if it was over before that was done.
    fn follow(&self, step: &Step) -> bool {
        match step {
            Step::Wait(text) => {
                while !self.shows(text) {
                    if !self.rest(LOOK) {
                        return false;
                    }
                }
                true
            }
            Step::Sleep(time) => {
                let end = Instant::now() + *time;
                while Instant::now() < end && self.rest(end.saturating_duration_since(Instant::now())) {}
                Instant::now() >= end
            }
            Step::End => {
                (self.end)();
                true
            }
            Step::Press(chords) => chords.iter().all(|chord| self.press(chord)),
        }
    }

    fn shows(&self, text: &str) -> bool {
        self.screen.text().is_some_and(|rows| rows.iter().any(|row| row.contains(text)))
    }

    fn press(&self, chord: &Chord) -> bool {
        let end = Instant::now() + PATIENCE;
        while !self.input.is_idle() && Instant::now() < end && self.rest(PACE / 4) {}
        if self.stopped() {
            return false;
        }
        // Modifiers first, so that a guest that counts time sees an order.
        let (down, up): (Vec<_>, Vec<_>) =
            chord.events().into_iter().partition(|e| matches!(e, InputEvent::Key { down: true, .. }));
        self.input.input(&down);
        self.rest(PACE / 2);
        self.input.input(&up);
        // Enter may start something that resets the keyboard.
        let slow = chord.0.contains(&Key::ENTER);
        self.rest(if slow { PACE * 4 } else { PACE / 2 });
        true
    }

    fn stopped(&self) -> bool {
        (self.over)()
    }

    /// Sleeps; false if the machine has ended.
    fn rest(&self, time: Duration) -> bool {
        if !self.stopped() {
            std::thread::park_timeout(time);
        }
        !self.stopped()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read() {
        let parse = |s: &str| s.parse::<Step>();
        assert_eq!(parse("wait:boot: "), Ok(Step::Wait("boot: ".into())));
        assert_eq!(parse("sleep:1500ms"), Ok(Step::Sleep(Duration::from_millis(1500))));
        assert_eq!(parse("press:Ctrl+C"), Ok(Step::Press(vec![Chord(vec![Key::LEFT_CTRL, Key::C])])));
        assert_eq!(parse("end"), Ok(Step::End));
        let Ok(Step::Press(chords)) = parse("type:a:\\\\\\n") else { panic!() };
        assert_eq!(chords.len(), 4);
        assert_eq!(chords[3].0, [Key::ENTER]);
        for bad in ["", "ls", "wait:", "type:é", "press:hyper", "jump:3", "sleep:x"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
