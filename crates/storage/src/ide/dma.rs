//! The bus master: moves a command's data to and from the regions of memory that a table of the guest's lists.
//!
//! ```text
//! entry of the table (8 bytes)   31:1 address | 63 last entry | 47:33 bytes, 0 stands for 64 KiB
//! ```
//! The table does not cross a 64 KiB boundary, so it has at most 8192 entries. A table too short for the command leaves drive and
//! host waiting for each other, as on a PC: active falls, no interrupt comes ("Programming Interface for Bus Master IDE
//! Controller" §3.1). A table too long leaves active set.

use visor_block::{BlockBuffer, BlockOp};
use vm_memory::{Bytes, GuestAddress};

use super::channel::{Channel, Drive, Phase};
use super::transfer::After;
use crate::buffer::Scatter;
use crate::step::status::{DRDY, DRQ, DSC};
use crate::step::{Transfer, Way, error};

const START: u8 = 0x01;
const TO_MEMORY: u8 = 0x08;

const ACTIVE: u8 = 0x01;
const ERROR: u8 = 0x02;
const INTERRUPT: u8 = 0x04;
/// The drives can DMA; for software to set.
const CAPABLE: u8 = 0x60;

/// Entries of a table that fills 64 KiB.
const MAX_ENTRIES: usize = 8192;

/// What a drive wants moved.
pub(super) enum Dma {
    Transfer(Transfer),
    In(Vec<u8>),
    Out(usize),
}

/// The registers of one channel.
pub(super) struct BusMaster {
    command: u8,
    status: u8,
    table: u32,
    /// The function may access memory.
    pub(super) enabled: bool,
    /// The table ended with the transfer.
    exact: bool,
    /// As firmware would set the capability bits.
    present: u8,
}

impl BusMaster {
    pub(super) fn new(present: [bool; 2]) -> Self {
        let present = u8::from(present[0]) << 5 | u8::from(present[1]) << 6;
        BusMaster { command: 0, status: present, table: 0, enabled: false, exact: false, present }
    }

    pub(super) fn reset(&mut self) {
        (self.command, self.status, self.table) = (0, self.present, 0);
    }

    pub(super) fn read(&self, offset: u8) -> u8 {
        match offset {
            0 => self.command,
            2 => self.status,
            4..=7 => self.table.to_le_bytes()[usize::from(offset - 4)],
            _ => 0,
        }
    }

    /// A drive of the channel interrupts.
    pub(super) fn noticed_interrupt(&mut self) {
        self.status |= INTERRUPT;
    }

    /// The transfer is over.
    pub(super) fn finished(&mut self) {
        if self.exact {
            self.status &= !ACTIVE;
        }
    }

    /// The transfer has failed, on the host's side of it or on the drive's.
    pub(super) fn failed(&mut self, host: bool) {
        self.status &= !ACTIVE;
        if host {
            self.status |= ERROR;
        }
    }
}

impl Channel {
    /// A drive is ready for DMA; it begins when the guest has started the bus master, or now if it has.
    pub(super) fn offer_dma(&mut self, index: usize, dma: Dma) {
        if let Some(d) = &mut self.drives[index] {
            d.phase = Phase::Dma(dma);
            d.r.status = DRDY | DRQ | if d.unit.is_packet() { 0 } else { DSC };
        }
        self.try_dma();
    }

    /// A byte of the bus master's registers.
    pub(super) fn write_bus_master(&mut self, offset: u8, value: u8) {
        let b = &mut self.bus_master;
        match offset {
            0 => {
                let before = std::mem::replace(&mut b.command, value & (START | TO_MEMORY));
                if value & !before & START != 0 {
                    b.status |= ACTIVE;
                    self.try_dma();
                } else if before & !value & START != 0 {
                    b.status &= !ACTIVE;
                    self.stop_dma();
                }
            }
            2 => {
                b.status &= !(value & (ERROR | INTERRUPT));
                b.status = b.status & !CAPABLE | value & CAPABLE;
            }
            4..=7 => {
                let mut bytes = b.table.to_le_bytes();
                bytes[usize::from(offset - 4)] = value;
                b.table = u32::from_le_bytes(bytes) & !3;
            }
            _ => {}
        }
    }

    /// Begins what a drive has ready, if the bus master runs.
    pub(super) fn try_dma(&mut self) {
        let b = &self.bus_master;
        if b.command & START == 0 || b.status & ACTIVE == 0 || !b.enabled {
            return;
        }
        let ready = |d: &Option<Drive>| matches!(d, Some(Drive { phase: Phase::Dma(_), .. }));
        if let Some(index) = self.drives.iter().position(ready) {
            self.run_dma(index);
        }
    }

    /// The guest has stopped the bus master in the middle: the command is over.
    fn stop_dma(&mut self) {
        for index in 0..2 {
            let running = matches!(&self.drives[index], Some(Drive { phase: Phase::Medium(After::Dma { .. }), .. }));
            if running {
                self.abort(index);
                self.end(index, error::ABRT, false);
            }
        }
    }

    fn run_dma(&mut self, index: usize) {
        let Some(d) = &mut self.drives[index] else { return };
        let Phase::Dma(dma) = std::mem::replace(&mut d.phase, Phase::Idle) else { return };
        let len = match &dma {
            Dma::Transfer(t) => t.len,
            Dma::In(data) => data.len() as u64,
            Dma::Out(len) => *len as u64,
        };
        let Some((scatter, exact)) = self.gather(index, len) else {
            self.bus_master.failed(true);
            self.end(index, error::ICRC | error::ABRT, true);
            return;
        };
        self.bus_master.exact = exact;
        if (scatter.len() as u64) < len {
            self.bus_master.status &= !ACTIVE;
            if let Some(d) = &mut self.drives[index] {
                d.phase = Phase::Dma(dma);
            }
            return;
        }
        self.move_data(index, dma, scatter);
    }

    fn move_data(&mut self, index: usize, dma: Dma, mut scatter: Scatter) {
        let Some(d) = &mut self.drives[index] else { return };
        let step = match dma {
            Dma::Transfer(t) => {
                let op = if t.way == Way::In { BlockOp::Read } else { BlockOp::Write };
                let after = After::Dma { durable: t.durable.then(|| t.backend.clone()) };
                self.submit(index, t.backend, (op, t.sector, t.len), Box::new(scatter), after);
                return;
            }
            Dma::In(data) => scatter.put(0, &data).map(|()| None),
            Dma::Out(len) => {
                let mut data = vec![0; len];
                scatter.get(0, &mut data).map(|()| Some(d.unit.data(&mut d.r, &data)))
            }
        };
        match step {
            Ok(None) => {
                self.bus_master.finished();
                self.end(index, 0, true);
            }
            Ok(Some(step)) => {
                self.bus_master.finished();
                self.perform(index, step);
            }
            Err(_) => {
                self.bus_master.failed(true);
                self.end(index, error::ICRC | error::ABRT, true);
            }
        }
    }

    /// The regions of the table, up to `limit` bytes in all, and whether they end there. `None` where the table is not in RAM.
    fn gather(&self, index: usize, limit: u64) -> Option<(Scatter, bool)> {
        let lease = self.drives[index].as_ref()?.lease.clone();
        let mut scatter = Scatter::new(self.memory.clone(), lease);
        let start = self.bus_master.table;
        let mut total = 0u64;
        for n in 0..MAX_ENTRIES as u32 {
            // Within the 64 KiB, the address wraps.
            let at = start & !0xffff | start.wrapping_add(8 * n) & 0xfffc;
            let mut entry = [0; 8];
            self.memory.read_slice(&mut entry, GuestAddress(at.into())).ok()?;
            let [a, b, c, d, low, high, _, flags] = entry;
            let bytes = u32::from(u16::from_le_bytes([low, high]) & !1);
            let bytes = if bytes == 0 { 0x1_0000 } else { bytes };
            scatter.push(u64::from(u32::from_le_bytes([a, b, c, d]) & !1), bytes, limit);
            total += u64::from(bytes);
            if flags & 0x80 != 0 {
                return Some((scatter, total <= limit));
            }
            if total > limit {
                break;
            }
        }
        Some((scatter, false))
    }
}
