//! Inter-processor interrupts: the ICR and the choice of targets (SDM 3A §11.6).

use super::regs::*;
use super::{ApicMode, Effect, LocalApic};
use crate::{BROADCAST, DeliveryMode, Message, Trigger};

/// Whom an IPI goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shorthand {
    /// To the message's destination.
    None,
    /// To the sender.
    Myself,
    /// To all, the sender too.
    All,
    /// To all but the sender.
    AllButSelf,
}

/// An inter-processor interrupt on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipi {
    /// What is sent.
    pub message: Message,
    /// Whom it goes to.
    pub shorthand: Shorthand,
    /// APIC id of the sender.
    pub source: u32,
}

/// Finds the target of a lowest-priority interrupt: the software-enabled APIC with the lowest arbitration priority, and of
/// those the first offered.
#[derive(Clone, Copy, Debug)]
pub struct Lowest<T> {
    best: Option<(u8, T)>,
}

impl<T> Default for Lowest<T> {
    fn default() -> Self {
        Lowest { best: None }
    }
}

impl<T> Lowest<T> {
    /// Offers `apic`, which the message addresses, under the name `key`.
    pub fn offer(&mut self, key: T, apic: &LocalApic) {
        let priority = apic.apr() >> 4;
        if apic.software_enabled() && self.best.as_ref().is_none_or(|(p, _)| priority < *p) {
            self.best = Some((priority, key));
        }
    }

    /// The name of the APIC chosen.
    pub fn winner(self) -> Option<T> {
        self.best.map(|(_, key)| key)
    }
}

impl LocalApic {
    /// Whether `ipi` is for this APIC. With [`DeliveryMode::LowestPriority`] it then goes only to one of those it is for.
    pub fn takes(&self, ipi: &Ipi) -> bool {
        match ipi.shorthand {
            Shorthand::None => self.matches(ipi.message.destination, ipi.message.logical),
            Shorthand::Myself => ipi.source == self.config.id,
            Shorthand::All => self.mode() != ApicMode::Disabled,
            Shorthand::AllButSelf => self.mode() != ApicMode::Disabled && ipi.source != self.config.id,
        }
    }

    /// Acts on the ICR as it stands.
    pub(super) fn send(&mut self) -> Effect {
        let low = self.icr as u32;
        let Some(mode) = DeliveryMode::from_bits(low >> 8) else { return Effect::None };
        let shorthand = match low >> 18 & 3 {
            0 => Shorthand::None,
            1 => Shorthand::Myself,
            2 => Shorthand::All,
            _ => Shorthand::AllButSelf,
        };
        // Table 11-1: an INIT level de-assert only synchronised the arbitration ids of old processors.
        let deassert = mode == DeliveryMode::Init && low & (ICR_LEVEL | ICR_ASSERT) == ICR_LEVEL;
        let to_self = matches!(shorthand, Shorthand::Myself | Shorthand::All);
        // Table 11-3: a CPU cannot reset or start itself, and ExtINT is no IPI.
        let invalid = mode == DeliveryMode::ExtInt
            || to_self && matches!(mode, DeliveryMode::Init | DeliveryMode::StartUp | DeliveryMode::Smi);
        if deassert || invalid {
            return Effect::None;
        }
        let vector = low as u8;
        if mode.is_vectored() && vector < 16 {
            self.error(ESR_SEND_ILLEGAL);
            return Effect::None;
        }
        if mode.is_vectored() && shorthand == Shorthand::Myself {
            self.self_ipi(vector);
            return Effect::None;
        }
        let message = Message {
            destination: self.icr_destination(),
            logical: low & ICR_LOGICAL != 0,
            mode,
            vector,
            trigger: Trigger::Edge,
        };
        Effect::Ipi(Ipi { message, shorthand, source: self.config.id })
    }

    pub(super) fn self_ipi(&mut self, vector: u8) {
        // An illegal vector sets both the send and the receive error.
        if vector < 16 {
            self.error(ESR_SEND_ILLEGAL);
        }
        let _ = self.accept_local(vector);
    }

    fn icr_destination(&self) -> u32 {
        match (self.mode(), (self.icr >> 32) as u32) {
            (ApicMode::X2Apic, destination) => destination,
            // FFh is all in physical mode and in both logical models.
            (_, high) if high >> 24 == 0xff && self.icr as u32 & ICR_LOGICAL == 0 => BROADCAST,
            (_, high) => high >> 24,
        }
    }
}
