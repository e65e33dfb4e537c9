//! What firmware writes to port 402h, line by line.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use visor_chipset::CharSink;

use crate::listener::Listener;
use crate::timeline::Timeline;

/// Bytes kept for a reader; older ones make room.
const CAPACITY: usize = 1 << 20;
/// Longest line.
const LINE: usize = 1 << 12;

/// Complete lines that firmware has written and nobody has taken yet. Clones are the same log.
#[derive(Clone, Default)]
pub struct FirmwareLog(Arc<Mutex<Lines>>);

#[derive(Default)]
struct Lines {
    line: Vec<u8>,
    done: VecDeque<String>,
    bytes: usize,
}

impl FirmwareLog {
    /// Takes the lines that have been completed since the last call; what exceeded 1 MiB is lost.
    pub fn take(&self) -> Vec<String> {
        let mut l = self.lock();
        l.bytes = 0;
        l.done.drain(..).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what firmware wrote; the lines that became complete.
    fn push(&self, data: &[u8]) -> Vec<String> {
        let mut l = self.lock();
        let mut complete = Vec::new();
        for byte in data {
            if *byte != b'\n' && l.line.len() < LINE {
                l.line.push(*byte);
                continue;
            }
            let text = String::from_utf8_lossy(&l.line).trim_end().to_owned();
            l.line.clear();
            l.bytes += text.len();
            l.done.push_back(text.clone());
            complete.push(text);
            while l.bytes > CAPACITY {
                let Some(oldest) = l.done.pop_front() else { break };
                l.bytes -= oldest.len();
            }
        }
        complete
    }
}

impl std::fmt::Debug for FirmwareLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FirmwareLog({} lines)", self.lock().done.len())
    }
}

/// The machine's end of the log.
#[derive(Clone)]
pub(crate) struct LogPort {
    pub(crate) log: FirmwareLog,
    pub(crate) listener: Listener,
    pub(crate) timeline: Timeline,
}

impl LogPort {
    /// An empty log.
    pub(crate) fn new(listener: &Listener, timeline: &Timeline) -> Self {
        LogPort { log: FirmwareLog::default(), listener: listener.clone(), timeline: timeline.clone() }
    }
}

impl CharSink for LogPort {
    fn write(&mut self, data: &[u8]) {
        for line in self.log.push(data) {
            tracing::debug!(target: "firmware", "{line}");
            self.timeline.line(&line);
            self.listener.tell();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_and_old_ones_make_room() {
        let log = FirmwareLog::default();
        assert!(log.push(b"SeaBIOS (ver").is_empty());
        assert_eq!(log.push(b"sion)\r\nBoot"), ["SeaBIOS (version)"]);
        assert_eq!(log.take(), ["SeaBIOS (version)"]);
        assert!(log.take().is_empty());
        log.push(&[b'x'; 3 << 20]);
        assert!(log.lock().bytes <= CAPACITY);
        assert!(log.take().iter().all(|l| l.len() <= LINE));
    }
}
