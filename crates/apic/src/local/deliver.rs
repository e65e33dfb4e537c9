//! What comes in: messages, pins and local sources (SDM 3A §11.5, §11.8).

use super::regs::*;
use super::{ApicMode, LocalApic};
use crate::{BROADCAST, DeliveryMode, Message, Trigger};

/// What the CPU must do about an interrupt that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "NMI, SMI, INIT and start-up are the engine's to deliver"]
pub enum Delivery {
    /// Nothing: it was masked, illegal or for a disabled APIC.
    Ignored,
    /// [`LocalApic::has_pending`] may have changed.
    Interrupt,
    /// Raise an NMI.
    Nmi,
    /// Raise an SMI.
    Smi,
    /// Do an INIT, which includes [`LocalApic::init`].
    Init,
    /// Start at page `vector`, if waiting for a start-up IPI.
    StartUp(u8),
}

impl LocalApic {
    /// Whether this APIC is addressed by `destination` (SDM 3A §11.6.2, §11.12.9, §11.12.10).
    pub fn matches(&self, destination: u32, logical: bool) -> bool {
        match self.mode() {
            // Only INIT, NMI and SMI pins reach the CPU; no message does.
            ApicMode::Disabled => false,
            _ if destination == BROADCAST => true,
            ApicMode::XApic if logical => self.matches_logical_xapic(destination),
            ApicMode::XApic => destination == self.config.id & 0xff,
            ApicMode::X2Apic if logical => {
                let own = self.x2apic_ldr();
                destination >> 16 == own >> 16 && destination & own & 0xffff != 0
            }
            ApicMode::X2Apic => destination == self.config.id,
        }
    }

    /// Delivers a message that is for this APIC (`Message::destination` is not looked at again).
    pub fn deliver(&mut self, message: &Message) -> Delivery {
        if self.mode() == ApicMode::Disabled {
            return Delivery::Ignored;
        }
        match message.mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => self.accept(message.vector, message.trigger),
            // §11.4.7.2: a software-disabled APIC still takes INIT, NMI, SMI and start-up.
            DeliveryMode::Smi => Delivery::Smi,
            DeliveryMode::Nmi => Delivery::Nmi,
            DeliveryMode::Init => Delivery::Init,
            DeliveryMode::StartUp => Delivery::StartUp(message.vector),
            DeliveryMode::ExtInt if self.software_enabled() => {
                self.ext_int_latched = true;
                self.refresh();
                Delivery::Interrupt
            }
            DeliveryMode::ExtInt => Delivery::Ignored,
        }
    }

    /// LDR in x2APIC mode: cluster in the high half, one bit in the low half (SDM 3A §11.12.10.2).
    pub(super) fn x2apic_ldr(&self) -> u32 {
        (self.config.id >> 4) << 16 | 1 << (self.config.id & 0xf)
    }

    pub(super) fn set_lint(&mut self, pin: usize, level: bool) -> Delivery {
        let rise = level && !self.lint[pin];
        self.lint[pin] = level;
        if self.mode() == ApicMode::Disabled {
            self.refresh();
            return match (pin, rise) {
                (0, _) => Delivery::Interrupt,
                (_, true) => Delivery::Nmi,
                (_, false) => Delivery::Ignored,
            };
        }
        let index = LVT_LINT0 + pin;
        let lvt = self.lvt[index];
        match DeliveryMode::from_bits(lvt >> 8) {
            Some(DeliveryMode::ExtInt) => {
                self.refresh();
                Delivery::Interrupt
            }
            Some(DeliveryMode::Fixed) if self.is_level(index) => self.sample_level(pin),
            _ if rise => self.local(index),
            _ => Delivery::Ignored,
        }
    }

    /// Delivers what entry `index` of the local vector table says.
    pub(super) fn local(&mut self, index: usize) -> Delivery {
        let lvt = self.lvt[index];
        if lvt & LVT_MASKED != 0 || self.mode() == ApicMode::Disabled {
            return Delivery::Ignored;
        }
        match DeliveryMode::from_bits(lvt >> 8) {
            Some(DeliveryMode::Fixed) => self.accept_local(lvt as u8),
            Some(DeliveryMode::Nmi) => Delivery::Nmi,
            Some(DeliveryMode::Smi) => Delivery::Smi,
            Some(DeliveryMode::Init) => Delivery::Init,
            _ => Delivery::Ignored,
        }
    }

    /// An edge-triggered interrupt from within.
    pub(super) fn accept_local(&mut self, vector: u8) -> Delivery {
        self.accept(vector, Trigger::Edge)
    }

    /// Raises a level-triggered LINT interrupt if its pin is active and it is not already under way.
    pub(super) fn sample_level(&mut self, pin: usize) -> Delivery {
        let index = LVT_LINT0 + pin;
        if !self.lint[pin] || !self.is_level(index) || self.lvt[index] & (LVT_MASKED | LVT_REMOTE_IRR) != 0 {
            return Delivery::Ignored;
        }
        let delivery = self.accept(self.lvt[index] as u8, Trigger::Level);
        if delivery == Delivery::Interrupt {
            self.lvt[index] |= LVT_REMOTE_IRR;
        }
        delivery
    }

    /// LINT0 in fixed mode with level trigger; a fixed LINT1 is always edge-triggered (SDM 3A §11.5.1).
    pub(super) fn is_level(&self, index: usize) -> bool {
        let fixed = DeliveryMode::from_bits(self.lvt[index] >> 8) == Some(DeliveryMode::Fixed);
        index == LVT_LINT0 && fixed && self.lvt[index] & LVT_LEVEL != 0
    }

    /// Records an error and raises the error interrupt for it (SDM 3A §11.5.3).
    pub(super) fn error(&mut self, bit: u32) {
        self.esr_new |= bit;
        let lvt = self.lvt[LVT_ERROR];
        // An illegal vector here would be an error about an error: it is only recorded.
        if lvt & LVT_MASKED != 0 || !self.software_enabled() {
            return;
        }
        if (lvt as u8) < 16 {
            self.esr_new |= ESR_RECEIVE_ILLEGAL;
            return;
        }
        self.irr.insert(lvt as u8);
        self.tmr.remove(lvt as u8);
        self.refresh();
    }

    fn accept(&mut self, vector: u8, trigger: Trigger) -> Delivery {
        if !self.software_enabled() {
            return Delivery::Ignored;
        }
        if vector < 16 {
            self.error(ESR_RECEIVE_ILLEGAL);
            return Delivery::Ignored;
        }
        self.irr.insert(vector);
        match trigger {
            Trigger::Edge => self.tmr.remove(vector),
            Trigger::Level => self.tmr.insert(vector),
        }
        self.refresh();
        Delivery::Interrupt
    }

    fn matches_logical_xapic(&self, destination: u32) -> bool {
        let own = self.ldr >> 24;
        match (destination, self.dfr >> 28) {
            (0x100.., _) => false,
            (_, 0xf) => destination & own != 0,
            (0xff, _) => true,
            (_, 0) => destination >> 4 == own >> 4 && destination & own & 0xf != 0,
            // Reserved models address nobody.
            _ => false,
        }
    }
}
