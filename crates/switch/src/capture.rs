//! Packet capture in the pcap format (draft-ietf-opsawg-pcap), with nanoseconds.
//!
//! What a capture shows is what passes between device and port: large segments undivided, checksums not filled in where the
//! receiver does not need them. Analysers call that offloading.

use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use visor_net::{Frame, FrameSink, MAX_FRAME, NetPort, Sent, leave_to};

/// Magic number of a file with nanoseconds.
const MAGIC: u32 = 0xa1b2_3c4d;
const ETHERNET: u32 = 1;

/// A capture being written.
pub struct Capture {
    out: Box<dyn Write + Send>,
    packets: u64,
    /// Bytes that may still be written.
    room: u64,
    failed: Option<std::io::Error>,
}

impl Capture {
    /// Begins a capture into `out`, of at most `limit` bytes.
    ///
    /// # Errors
    /// What writing the file header gives.
    pub fn begin(mut out: impl Write + Send + 'static, limit: u64) -> std::io::Result<Self> {
        let mut h = Vec::with_capacity(24);
        h.extend(MAGIC.to_le_bytes());
        h.extend([2, 0, 4, 0]); // version 2.4
        h.extend([0; 8]);
        h.extend((MAX_FRAME as u32).to_le_bytes());
        h.extend(ETHERNET.to_le_bytes());
        out.write_all(&h)?;
        let room = limit.saturating_sub(h.len() as u64);
        Ok(Capture { out: Box::new(out), packets: 0, room, failed: None })
    }

    /// Writes a packet that passed `at` after 1970. After the limit or an error nothing more is written.
    pub fn packet(&mut self, at: Duration, data: &[u8]) {
        let len = data.len().min(MAX_FRAME) as u32;
        let record = 16 + u64::from(len);
        if self.failed.is_some() || record > self.room {
            self.room = 0;
            return;
        }
        let mut p = Vec::with_capacity(16 + data.len());
        for word in [at.as_secs() as u32, at.subsec_nanos(), len, data.len() as u32] {
            p.extend(word.to_le_bytes());
        }
        p.extend(&data[..len as usize]);
        match self.out.write_all(&p) {
            Ok(()) => {
                self.room -= record;
                self.packets += 1;
            }
            Err(e) => {
                tracing::warn!(error = %e, "the packet capture ends: it cannot be written");
                self.failed = Some(e);
            }
        }
    }

    /// Packets written.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    /// The first error that happened, from then or now.
    pub fn finish(mut self) -> std::io::Result<u64> {
        match self.failed.take() {
            Some(e) => Err(e),
            None => self.out.flush().map(|()| self.packets),
        }
    }
}

/// Where a capture is plugged in and out while frames pass; clones are the same slot.
#[derive(Clone, Default)]
pub struct CaptureSlot(Arc<Mutex<Option<Capture>>>);

impl CaptureSlot {
    /// Begins; gives the capture that was under way.
    pub fn start(&self, capture: Capture) -> Option<Capture> {
        self.lock().replace(capture)
    }

    /// Ends; gives the capture that was under way.
    pub fn stop(&self) -> Option<Capture> {
        self.lock().take()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Capture>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn saw(&self, data: &[u8]) {
        if let Some(capture) = self.lock().as_mut() {
            capture.packet(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(), data);
        }
    }
}

/// A port whose frames are captured.
pub struct Captured<P> {
    port: P,
    slot: CaptureSlot,
}

impl<P: NetPort> Captured<P> {
    /// Wraps `port`; nothing is captured while `slot` is empty.
    pub fn new(port: P, slot: CaptureSlot) -> Self {
        Captured { port, slot }
    }
}

impl<P: NetPort> NetPort for Captured<P> {
    fn send(&mut self, frame: Frame<'_>) -> Sent {
        let sent = self.port.send(frame);
        // What was refused shows too, since that is what captures are made for; what waits will come again.
        if sent != Sent::Full {
            self.slot.saw(frame.data);
        }
        sent
    }

    fn receive(&mut self, sink: &mut dyn FrameSink) -> usize {
        let slot = &self.slot;
        self.port.receive(&mut |frame: Frame<'_>| {
            let sent = sink.frame(frame);
            if sent != Sent::Full {
                slot.saw(frame.data);
            }
            sent
        })
    }

    leave_to!(self => self.port);
}
