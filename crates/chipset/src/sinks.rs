//! What devices need from the machine beyond the contracts of `visor-device`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Takes the level of the 8259's INTR output.
pub trait IntrSink: Send + Sync {
    /// Sets it. Called with the PIC's lock held, on changes only; must not call back.
    fn set_intr(&self, level: bool);
}

/// Takes the characters that a device puts out.
pub trait CharSink: Send {
    /// Takes `bytes`, all of them, without waiting. Called with the device's lock held; must not call back.
    fn write(&mut self, bytes: &[u8]);

    /// A device that had refused input takes some again.
    fn ready(&mut self) {}
}

/// What a guest, or its user, can do to the machine's power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerEvent {
    /// Switch off.
    PowerOff,
    /// Suspend to RAM (S3): everything but memory, the RTC and the wake logic goes off until something wakes the machine.
    Sleep,
    /// Reset everything.
    Reset,
    /// End the virtual machine with this exit status.
    Exit(u8),
}

/// Takes power requests.
pub trait PowerSink: Send + Sync {
    /// Asks for `event` soon; returns at once. Called with a device's lock held; must not call back.
    fn request(&self, event: PowerEvent);
}

/// Whether the HPET has taken over IRQ 0 and IRQ 8 (HPET 1.0a §2.3.5). Clones share the flag: the HPET sets it, PIT and RTC
/// keep their interrupts to themselves while it is set.
#[derive(Clone, Debug, Default)]
pub struct LegacyReplacement(Arc<AtomicBool>);

impl LegacyReplacement {
    /// True while the HPET drives IRQ 0 and IRQ 8.
    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    pub(crate) fn set(&self, on: bool) {
        self.0.store(on, Ordering::SeqCst);
    }
}
