//! Interrupt messages: what travels between I/O APICs, PCI devices and local APICs (SDM 3A §11.6.1, §11.11).
//!
//! ```text
//! address  63        40 39 32 31      20 19      12 11    4  3   2   1 0
//!         [ dest 31:8  | 0    | FEEh     | dest 7:0 | 0     | RH| DM| 0  ]
//! data     31   16  15     14    13 11 10     8 7        0
//!         [ 0     | trig | assert| 0  | mode   | vector   ]
//! ```
//! Devices write to addresses below 4 GiB; only an interrupt remapping unit puts the upper 24 bits of a wide destination into
//! bits 63:40, which is also where KVM expects them (KVM_CAP_X2APIC_API).

/// The destination that means every local APIC.
pub const BROADCAST: u32 = u32::MAX;

/// What an interrupt message does at its target (SDM 3A §11.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryMode {
    /// The vector, to every target.
    Fixed,
    /// The vector, to the one target with the lowest priority.
    LowestPriority,
    /// A system management interrupt.
    Smi,
    /// A non-maskable interrupt.
    Nmi,
    /// INIT.
    Init,
    /// A start-up IPI; the vector is the page number of the entry point.
    StartUp,
    /// An interrupt whose vector the 8259 supplies.
    ExtInt,
}

/// How an interrupt is signalled; level-triggered ones are told to the I/O APIC when they end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// By a rise.
    Edge,
    /// By being active.
    Level,
}

/// One interrupt message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Physical APIC id or logical destination; [`BROADCAST`] for all.
    pub destination: u32,
    /// `destination` is logical.
    pub logical: bool,
    /// What it does at the target.
    pub mode: DeliveryMode,
    /// The vector; 0 to 255, of which 0 to 15 are illegal for interrupts.
    pub vector: u8,
    /// How it was signalled.
    pub trigger: Trigger,
}

impl DeliveryMode {
    /// The mode of the three-bit field of MSI data, redirection entries, LVT entries and the ICR; `None` for reserved 3.
    pub fn from_bits(bits: u32) -> Option<Self> {
        Some(match bits & 7 {
            0 => DeliveryMode::Fixed,
            1 => DeliveryMode::LowestPriority,
            2 => DeliveryMode::Smi,
            4 => DeliveryMode::Nmi,
            5 => DeliveryMode::Init,
            6 => DeliveryMode::StartUp,
            7 => DeliveryMode::ExtInt,
            _ => return None,
        })
    }

    /// The three-bit field.
    pub fn bits(self) -> u32 {
        match self {
            DeliveryMode::Fixed => 0,
            DeliveryMode::LowestPriority => 1,
            DeliveryMode::Smi => 2,
            DeliveryMode::Nmi => 4,
            DeliveryMode::Init => 5,
            DeliveryMode::StartUp => 6,
            DeliveryMode::ExtInt => 7,
        }
    }

    /// True for the modes that deliver `vector` through IRR.
    pub fn is_vectored(self) -> bool {
        matches!(self, DeliveryMode::Fixed | DeliveryMode::LowestPriority)
    }
}

impl Message {
    /// Decodes an MSI. `None` for an address outside FEExxxxxh, a reserved mode, or the de-assertion of a level, which
    /// local APICs ignore.
    ///
    /// A redirection hint (RH) asks for one target, so it turns a fixed interrupt into a lowest-priority one. The
    /// destination mode bit is honoured with and without RH, as processors do. The eight-bit destination FFh means all.
    pub fn decode(address: u64, data: u32) -> Option<Self> {
        if address >> 20 & 0xf_ffff != 0xfee {
            return None;
        }
        let trigger = if data & 1 << 15 != 0 { Trigger::Level } else { Trigger::Edge };
        if trigger == Trigger::Level && data & 1 << 14 == 0 {
            return None;
        }
        let mut mode = DeliveryMode::from_bits(data >> 8)?;
        if mode == DeliveryMode::Fixed && address & 1 << 3 != 0 {
            mode = DeliveryMode::LowestPriority;
        }
        let destination = (address >> 40) as u32 & 0x00ff_ffff;
        let destination = destination << 8 | (address >> 12) as u32 & 0xff;
        Some(Message {
            destination: if destination == 0xff { BROADCAST } else { destination },
            logical: address & 1 << 2 != 0,
            mode,
            vector: data as u8,
            trigger,
        })
    }

    /// The MSI address and data that mean this message.
    pub fn encode(&self) -> (u64, u32) {
        let id = if self.destination == BROADCAST { 0xff } else { self.destination };
        let address =
            u64::from(id >> 8) << 40 | 0xfee0_0000 | u64::from(id & 0xff) << 12 | u64::from(self.logical) << 2;
        let trigger = if self.trigger == Trigger::Level { 0xc000 } else { 0 };
        (address, trigger | self.mode.bits() << 8 | u32::from(self.vector))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_msi_is_decoded_by_its_fields() {
        let m = Message::decode(0xfee0_3004, 0x0000_0141).unwrap();
        assert_eq!(m.destination, 3);
        assert!(m.logical);
        assert_eq!(m.mode, DeliveryMode::LowestPriority);
        assert_eq!((m.vector, m.trigger), (0x41, Trigger::Edge));
    }

    #[test]
    fn malformed_messages_are_refused() {
        assert_eq!(Message::decode(0xfed0_0000, 0x41), None, "not FEEh");
        assert_eq!(Message::decode(0x1_fee0_0000, 0x41), None, "above 4 GiB");
        assert_eq!(Message::decode(0xfee0_0000, 0x341), None, "reserved mode");
        assert_eq!(Message::decode(0xfee0_0000, 0x8041), None, "a level that is de-asserted");
    }

    #[test]
    fn the_redirection_hint_picks_one_target() {
        assert_eq!(Message::decode(0xfee0_100c, 0x41).unwrap().mode, DeliveryMode::LowestPriority);
        assert_eq!(Message::decode(0xfee0_100c, 0x441).unwrap().mode, DeliveryMode::Nmi);
    }

    #[test]
    fn encoding_round_trips() {
        for mode in (0..8).filter_map(DeliveryMode::from_bits) {
            for trigger in [Trigger::Edge, Trigger::Level] {
                for (destination, logical) in
                    [(0, false), (7, true), (0x1234, false), (0xffff_ff00, false), (BROADCAST, false)]
                {
                    let m = Message { destination, logical, mode, vector: 0x9c, trigger };
                    let (address, data) = m.encode();
                    assert_eq!(Message::decode(address, data), Some(m));
                }
            }
        }
    }
}
