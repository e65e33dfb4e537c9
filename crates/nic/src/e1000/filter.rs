//! Which frames the driver wants (SDM §3.2.1, §13.5).

use visor_net::{MacAddr, headers};

use super::E1000;
use super::regs::*;

const ADDRESSES: u32 = 16;
const ADDRESS_VALID: u32 = 1 << 31;
/// Longest frame without long packet reception: 1518 bytes with the frame check sequence, and a VLAN tag.
const MAX_STANDARD: usize = 1518;
/// Longest frame otherwise.
const MAX_LONG: usize = 16384;

impl E1000 {
    /// Address number `i` of the receive address table.
    fn receive_address(&self, i: u32) -> Option<MacAddr> {
        let (low, high) = (self.reg(RA + 8 * i), self.reg(RA + 8 * i + 4));
        let [a, b, c, d] = low.to_le_bytes();
        let [e, f, ..] = high.to_le_bytes();
        (high & ADDRESS_VALID != 0).then_some(MacAddr([a, b, c, d, e, f]))
    }

    /// The address in use: the first of the table.
    pub(super) fn address(&self) -> MacAddr {
        self.receive_address(0).unwrap_or(self.mac)
    }

    /// Puts the address of the EEPROM into the table, as a reset does.
    pub(super) fn load_address(&mut self) {
        let [a, b, c, d, e, f] = self.mac.0;
        *self.reg_mut(RA) = u32::from_le_bytes([a, b, c, d]);
        *self.reg_mut(RA + 4) = u32::from(u16::from_le_bytes([e, f])) | ADDRESS_VALID;
    }

    /// Whether the driver wants `frame`.
    pub(super) fn wants(&self, frame: &[u8]) -> bool {
        let Some(to) = frame.first_chunk::<6>().map(|m| MacAddr(*m)) else { return false };
        let control = self.reg(RCTL);
        let most = if control & RCTL_LPE != 0 { MAX_LONG } else { MAX_STANDARD };
        if frame.len() > most {
            return false;
        }
        if control & RCTL_VFE != 0
            && let Some(id) = headers::vlan(frame)
            && self.reg(VFTA + 4 * u32::from(id >> 5)) & 1 << (id & 31) == 0
        {
            return false;
        }
        if to == MacAddr::BROADCAST && control & RCTL_BAM != 0 {
            return true;
        }
        let all = if to.is_multicast() { RCTL_MPE } else { RCTL_UPE };
        control & all != 0
            || (0..ADDRESSES).any(|i| self.receive_address(i) == Some(to))
            || to.is_multicast() && self.hashed(to)
    }

    /// The multicast table, by twelve bits of the address that RCTL chooses (§13.5.1).
    fn hashed(&self, to: MacAddr) -> bool {
        let shift = [4, 3, 2, 0][(self.reg(RCTL) >> 12 & 3) as usize];
        let hash = (u32::from(to.0[5]) << 8 | u32::from(to.0[4])) >> shift & 0xfff;
        self.reg(MTA + 4 * (hash >> 5)) & 1 << (hash & 31) != 0
    }
}
