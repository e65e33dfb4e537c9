//! A channel: its two drives, the selection among them, interrupts and resets.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use visor_block::{BlockBackend, BlockError, BlockRequest};
use visor_device::IrqLine;
use visor_pci::DmaMemory;

use super::dma::{BusMaster, Dma};
use super::pio::{PioIn, PioOut};
use super::transfer::After;
use crate::Unit;
use crate::buffer::Lease;
use crate::step::status::{BSY, DRQ};
use crate::step::{Mode, Registers};

/// Bytes of a command packet.
pub(super) const PACKET: usize = 12;

pub(super) mod control {
    /// No interrupts.
    pub(crate) const NIEN: u8 = 0x02;
    /// Reset both drives.
    pub(crate) const SRST: u8 = 0x04;
    /// Reads give the high bytes of two-byte registers.
    pub(crate) const HOB: u8 = 0x80;
}

/// A channel, shared by its ports, the PCI function and requests under way.
pub(super) struct Shared {
    state: Mutex<Channel>,
}

/// A request for a back end.
pub(super) struct Submission {
    pub(super) backend: Arc<dyn BlockBackend>,
    pub(super) request: BlockRequest,
}

pub(super) struct Channel {
    pub(super) me: Weak<Shared>,
    irq: IrqLine,
    pub(super) memory: DmaMemory,
    pub(super) drives: [Option<Drive>; 2],
    selected: usize,
    control: u8,
    level: bool,
    pub(super) bus_master: BusMaster,
    /// The timing register has the channel decoded.
    pub(super) decoded: bool,
    /// To be submitted when the lock is released.
    pub(super) outbox: Vec<Submission>,
    /// To be dropped then.
    trash: Vec<Submission>,
}

pub(super) struct Drive {
    pub(super) unit: Unit,
    pub(super) r: Registers,
    pub(super) phase: Phase,
    pub(super) mode: Mode,
    /// Most bytes of a block of a packet command, at least 2.
    pub(super) limit: usize,
    /// Wants to interrupt.
    pub(super) interrupt: bool,
    /// Of the command in hand.
    pub(super) lease: Lease,
    /// Counts aborted commands: completions of older ones mean nothing.
    pub(super) epoch: u64,
    /// Requests that have not completed, [`Drive::held`] among them.
    pub(super) under_way: usize,
    /// Waits until the request of an aborted command has left the medium.
    pub(super) held: Option<Submission>,
}

/// What the command in hand waits for.
pub(super) enum Phase {
    /// There is none.
    Idle,
    /// The guest writes a command packet.
    Packet(Vec<u8>),
    /// The guest reads the data register.
    In(PioIn),
    /// The guest writes the data register.
    Out(PioOut),
    /// The guest starts the bus master.
    Dma(Dma),
    /// The medium.
    Medium(After),
}

impl Shared {
    pub(super) fn new(irq: IrqLine, memory: DmaMemory, units: [Option<Unit>; 2]) -> Arc<Self> {
        let shared = Arc::new_cyclic(|me| {
            let drives = units.map(|u| u.map(Drive::new));
            let bus_master = BusMaster::new(drives.each_ref().map(Option::is_some));
            let state = Channel {
                me: me.clone(),
                irq,
                memory,
                drives,
                selected: 0,
                control: 0,
                level: false,
                bus_master,
                decoded: true,
                outbox: Vec::new(),
                trash: Vec::new(),
            };
            Shared { state: Mutex::new(state) }
        });
        shared.with(Channel::reset);
        shared
    }

    /// Works on the channel, then submits what that has brought forth.
    pub(super) fn with<R>(&self, f: impl FnOnce(&mut Channel) -> R) -> R {
        let (result, outbox, trash) = {
            let mut c = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let result = f(&mut c);
            (result, std::mem::take(&mut c.outbox), std::mem::take(&mut c.trash))
        };
        // Either may complete at once, and come back here.
        drop(trash);
        for s in outbox {
            s.backend.submit(s.request);
        }
        result
    }

    /// A request of drive `index` has completed.
    pub(super) fn completed(&self, index: usize, epoch: u64, result: Result<(), BlockError>) {
        self.with(|c| c.completed(index, epoch, result));
    }
}

impl Drive {
    fn new(unit: Unit) -> Self {
        Drive {
            unit,
            r: Registers::default(),
            phase: Phase::Idle,
            mode: Mode::Pio,
            limit: 2,
            interrupt: false,
            lease: Lease::default(),
            epoch: 0,
            under_way: 0,
            held: None,
        }
    }

    /// Whether a command is in hand.
    pub(super) fn is_busy(&self) -> bool {
        self.r.status & (BSY | DRQ) != 0
    }

    /// Whether the command in hand is a packet.
    pub(super) fn in_packet(&self) -> bool {
        self.unit.is_packet() && self.r.command == 0xa0
    }
}

impl Channel {
    /// The state after power-on.
    pub(super) fn reset(&mut self) {
        self.control = 0;
        self.selected = 0;
        self.bus_master.reset();
        self.reset_drives(true);
    }

    pub(super) fn selected(&self) -> usize {
        self.selected
    }

    /// The drive that answers, if there is one.
    pub(super) fn drive(&mut self) -> Option<&mut Drive> {
        self.drives[self.selected].as_mut()
    }

    pub(super) fn shows_high_bytes(&self) -> bool {
        self.control & control::HOB != 0
    }

    pub(super) fn hide_high_bytes(&mut self) {
        self.control &= !control::HOB;
    }

    /// Chooses a drive; both keep the register.
    pub(super) fn select(&mut self, value: u8) {
        self.selected = usize::from(value >> 4 & 1);
        for d in self.drives.iter_mut().flatten().filter(|d| !d.is_busy()) {
            d.r.device = value;
        }
        self.update_irq();
    }

    /// The control register.
    pub(super) fn set_control(&mut self, value: u8) {
        let before = std::mem::replace(&mut self.control, value);
        if value & !before & control::SRST != 0 {
            (0..2).for_each(|i| self.abort(i));
            for d in self.drives.iter_mut().flatten() {
                d.r.status = BSY;
            }
        }
        if before & !value & control::SRST != 0 {
            self.reset_drives(false);
        }
        self.update_irq();
    }

    /// Resets both drives; the master is selected.
    fn reset_drives(&mut self, hard: bool) {
        self.selected = 0;
        for i in 0..2 {
            self.abort(i);
            if let Some(d) = &mut self.drives[i] {
                d.unit.reset(&mut d.r, hard);
            }
        }
        self.update_irq();
    }

    /// EXECUTE DEVICE DIAGNOSTIC: both drives test themselves, successfully (ATA/ATAPI-5 §8.9).
    pub(super) fn diagnose(&mut self) {
        self.reset_drives(false);
        self.interrupt(0);
    }

    /// DEVICE RESET of a packet drive (ATA/ATAPI-5 §8.7).
    pub(super) fn reset_device(&mut self, index: usize) {
        self.abort(index);
        if let Some(d) = &mut self.drives[index] {
            let device = d.r.device;
            d.unit.reset(&mut d.r, false);
            d.r.device = device;
        }
    }

    /// Ends the command in hand without a trace; it will not touch guest memory any more.
    pub(super) fn abort(&mut self, index: usize) {
        let Some(d) = &mut self.drives[index] else { return };
        d.lease.end();
        d.lease = Lease::default();
        d.epoch += 1;
        d.phase = Phase::Idle;
        d.interrupt = false;
        self.trash.extend(d.held.take());
        self.update_irq();
    }

    /// Drive `index` wants attention.
    pub(super) fn interrupt(&mut self, index: usize) {
        if let Some(d) = &mut self.drives[index] {
            d.interrupt = true;
        }
        self.update_irq();
    }

    /// Reading the status register acknowledges.
    pub(super) fn acknowledge(&mut self) {
        if let Some(d) = self.drive() {
            d.interrupt = false;
        }
        self.update_irq();
    }

    /// The selected drive drives the line.
    pub(super) fn update_irq(&mut self) {
        let wanted = self.drives[self.selected].as_ref().is_some_and(|d| d.interrupt);
        let level = wanted && self.control & control::NIEN == 0;
        if level && !self.level {
            self.bus_master.noticed_interrupt();
        }
        self.level = level;
        self.irq.set(level);
    }
}
