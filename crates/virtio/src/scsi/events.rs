//! What the driver is told unasked (virtio 1.2 §5.6.6.3): units that come, go and change.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{EVENTS, F_CHANGE, F_HOTPLUG};
use crate::Queues;

/// Bytes of an event.
pub(super) const SIZE: usize = 16;
/// Events kept for a driver without buffers; what exceeds them is told of as missed.
const MOST: usize = 16;

const MISSED: u32 = 0x8000_0000;
/// Kinds of events.
const TRANSPORT_RESET: u32 = 1;
const PARAM_CHANGE: u32 = 3;
/// Reasons of a transport reset.
const RESCAN: u32 = 1;
const REMOVED: u32 = 2;
/// Reason of a changed parameter: sense code and qualifier of "capacity data has changed" (SPC-4 annex F).
const CAPACITY: u32 = 0x2a | 0x09 << 8;

/// An event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event {
    target: u8,
    kind: u32,
    reason: u32,
}

impl Event {
    pub(super) fn inserted(target: u8) -> Self {
        Event { target, kind: TRANSPORT_RESET, reason: RESCAN }
    }

    pub(super) fn removed(target: u8) -> Self {
        Event { target, kind: TRANSPORT_RESET, reason: REMOVED }
    }

    pub(super) fn resized(target: u8) -> Self {
        Event { target, kind: PARAM_CHANGE, reason: CAPACITY }
    }

    /// What a driver has taken that wishes to hear of it.
    pub(super) fn feature(self) -> u64 {
        if self.kind == PARAM_CHANGE { F_CHANGE } else { F_HOTPLUG }
    }
}

/// Events that wait for buffers.
#[derive(Default)]
pub(super) struct Events {
    waiting: VecDeque<Event>,
    missed: bool,
}

impl Events {
    pub(super) fn add(&mut self, event: Event) {
        if self.waiting.len() < MOST {
            self.waiting.push_back(event);
        } else {
            self.missed = true;
        }
    }

    /// Hands out what waits, as far as there are buffers.
    pub(super) fn deliver(&mut self, queues: Option<&Arc<Queues>>) {
        let Some(queues) = queues else { return };
        while let Some(event) = self.waiting.front().copied() {
            let Some(chain) = queues.next(EVENTS) else { return };
            self.waiting.pop_front();
            let kind = event.kind | if std::mem::take(&mut self.missed) { MISSED } else { 0 };
            let lun = [1, event.target, 0, 0, 0, 0, 0, 0];
            let bytes = [&kind.to_le_bytes()[..], &lun, &event.reason.to_le_bytes()].concat();
            if chain.writable.len() < SIZE {
                return queues.fail("SCSI event buffer without room");
            }
            // Fails for a stale chain only, which goes nowhere.
            let _ = chain.writable.put(0, &bytes);
            chain.complete(SIZE as u32);
        }
    }
}
