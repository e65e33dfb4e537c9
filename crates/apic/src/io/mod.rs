//! The I/O APIC (Intel 82093AA data sheet §3; version 20h with the EOI register of later chip sets).
//!
//! ```text
//! page  00h IOREGSEL   10h IOWIN   40h EOI
//! index 0 id   1 version   2 arbitration id   10h+2n, 11h+2n redirection entry n
//!
//! entry 63    56 55    17  16    15    14     13     12     11   10   8 7      0
//!      [ dest  |  0     |mask|level|rem.IRR|pol.|status|logic.| mode  | vector ]
//! ```
//!
//! Inputs carry their logical state: `true` is asserted, whatever the entry's polarity says (the bit is stored and read
//! back). An edge on a masked input is lost, as the data sheet says; a level is not.

mod device;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use visor_engine::MsiSink;

use crate::{BROADCAST, DeliveryMode, Message, Trigger};

/// Where a PC has its (first) I/O APIC.
pub const IOAPIC_BASE: u64 = 0xfec0_0000;
/// Bytes of its page.
pub const IOAPIC_LEN: u64 = 0x1000;
/// Its inputs.
pub const IOAPIC_INPUTS: usize = 24;

const REG_ID: u8 = 0;
const REG_VERSION: u8 = 1;
const REG_ARBITRATION: u8 = 2;
const REG_REDIRECTION: u8 = 0x10;
const VERSION: u32 = (IOAPIC_INPUTS as u32 - 1) << 16 | 0x20;

const LOGICAL: u64 = 1 << 11;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
/// The entry is an index into an interrupt remapping table.
const REMAPPABLE: u64 = 1 << 48;
/// Delivery status (12, always idle) and remote IRR are read-only, the reserved bits zero.
const WRITABLE: u64 = 0xff00_0000_0001_afff;

/// The I/O APIC. Interrupts leave through the sink given to [`IoApic::new`].
pub struct IoApic {
    sink: Arc<dyn MsiSink>,
    state: IoApicState,
    /// Bits of an entry that software can write.
    writable: u64,
}

/// The state of an I/O APIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoApicState {
    /// The id register, bits 3:0.
    pub id: u8,
    /// IOREGSEL.
    pub select: u8,
    /// The redirection entries.
    pub entries: [u64; IOAPIC_INPUTS],
    /// The level of each input, a bit each.
    pub levels: u32,
}

impl IoApic {
    /// An I/O APIC after power-on: every input masked.
    pub fn new(sink: Arc<dyn MsiSink>) -> Self {
        IoApic { sink, state: power_on(), writable: WRITABLE }
    }

    /// An I/O APIC in front of an interrupt remapping unit: entries may be in its format (VT-d §5.1.2.1), in which bit 48 is set,
    /// bits 63:49 and 11 are an index that `sink` looks up, and the vector is that of the interrupt as the CPU sees it.
    pub fn with_remapping(sink: Arc<dyn MsiSink>) -> Self {
        IoApic { sink, state: power_on(), writable: WRITABLE | 0x00ff_0000_0000_0000 }
    }

    /// Sets input `gsi` (0 to 23; others do not exist and are ignored) asserted or not.
    pub fn set(&mut self, gsi: u32, level: bool) {
        let n = gsi as usize;
        let Some(entry) = self.state.entries.get(n).copied() else { return };
        let rise = level && self.state.levels & 1 << n == 0;
        self.state.levels = self.state.levels & !(1 << n) | u32::from(level) << n;
        if entry & LEVEL != 0 {
            self.service_level(n);
        } else if rise && entry & MASKED == 0 {
            self.send(n);
        }
    }

    /// A local APIC (or the EOI register) says that level-triggered interrupt `vector` has ended: entries that still have
    /// their input asserted are delivered again.
    pub fn end_of_interrupt(&mut self, vector: u8) {
        for n in 0..IOAPIC_INPUTS {
            let entry = self.state.entries[n];
            if entry & (LEVEL | REMOTE_IRR) == LEVEL | REMOTE_IRR && entry as u8 == vector {
                self.state.entries[n] &= !REMOTE_IRR;
                self.service_level(n);
            }
        }
    }

    /// The state, to be kept.
    pub fn save(&self) -> IoApicState {
        self.state.clone()
    }

    /// Takes over a state that was kept; delivers nothing. Bits that no I/O APIC can hold are dropped.
    pub fn restore(&mut self, state: &IoApicState) {
        self.state = state.clone();
        self.state.id &= 0xf;
        self.state.levels &= (1 << IOAPIC_INPUTS) - 1;
        self.state.entries.iter_mut().for_each(|e| *e &= self.writable | REMOTE_IRR);
    }

    fn service_level(&mut self, n: usize) {
        let entry = self.state.entries[n];
        if self.state.levels & 1 << n == 0 || entry & (MASKED | REMOTE_IRR) != 0 {
            return;
        }
        // Remote IRR stands for an interrupt that a local APIC has accepted: NMI and the like never set it, nor does an
        // illegal vector, which no EOI could ever end.
        let remapped = entry & self.writable & REMAPPABLE != 0;
        let vectored = remapped || DeliveryMode::from_bits((entry >> 8) as u32).is_some_and(DeliveryMode::is_vectored);
        if vectored && entry as u8 >= 16 {
            self.state.entries[n] |= REMOTE_IRR;
        }
        self.send(n);
    }

    fn send(&self, n: usize) {
        let entry = self.state.entries[n];
        if entry & self.writable & REMAPPABLE != 0 {
            let (low, high) = ((entry >> 49 & 0x7fff) << 5, (entry >> 11 & 1) << 2);
            return self.sink.send(0xfee0_0000 | low | 1 << 4 | high, 0);
        }
        let Some(mode) = DeliveryMode::from_bits((entry >> 8) as u32) else { return };
        let destination = (entry >> 56) as u32;
        let message = Message {
            destination: if destination == 0xff { BROADCAST } else { destination },
            logical: entry & LOGICAL != 0,
            mode,
            vector: entry as u8,
            // §3.2.4: NMI, SMI, INIT and ExtINT are edge-triggered whatever the entry says.
            trigger: if entry & LEVEL != 0 && mode.is_vectored() { Trigger::Level } else { Trigger::Edge },
        };
        let (address, data) = message.encode();
        self.sink.send(address, data);
    }
}

fn power_on() -> IoApicState {
    IoApicState { id: 0, select: 0, entries: [MASKED; IOAPIC_INPUTS], levels: 0 }
}
