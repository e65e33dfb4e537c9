//! The 440FX host bridge: identity, and the attribute maps that say where C0000h to FFFFFh lead ("Intel 440FX PCIset" 290549
//! §3.2.12).
//!
//! ```text
//! 59h PAM0  [ 5 write RAM | 4 read RAM | . . . . ]                 F0000-FFFFF
//! 5Ah PAM1  [ 5 WE | 4 RE ] C4000-C7FFF   [ 1 WE | 0 RE ] C0000-C3FFF
//! 5Bh PAM2  C8000, CC000      5Ch PAM3  D0000, D4000      5Dh PAM4  D8000, DC000
//! 5Eh PAM5  E0000, E4000      5Fh PAM6  E8000, EC000
//! ```
//!
//! Reads that do not go to RAM go to PCI, where the BIOS ROM answers for E0000h to FFFFFh; writes likewise.

use std::sync::Arc;

use crate::chipset::{ChipsetSink, INTEL};
use crate::config::Identity;
use crate::{ConfigSpace, PciDevice};

const PAM0: u8 = 0x59;
const PAM_REGISTERS: usize = 7;

/// Where accesses to one part of C0000h to FFFFFh go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShadowArea {
    /// First address.
    pub start: u32,
    /// Bytes: 16 or 64 KiB.
    pub len: u32,
    /// Reads go to RAM.
    pub read: bool,
    /// Writes go to RAM.
    pub write: bool,
}

/// The function at 00:00.0.
pub(crate) struct HostBridge {
    config: ConfigSpace,
    sink: Arc<dyn ChipsetSink>,
    applied: [u8; PAM_REGISTERS],
}

impl HostBridge {
    pub(crate) fn new(sink: Arc<dyn ChipsetSink>) -> Self {
        let mut config = ConfigSpace::new(Identity {
            vendor: INTEL,
            device: 0x1237,
            revision: 2,
            class: 0x06_0000,
            // By this firmware knows that it runs in a virtual machine of this board, and asks fw_cfg instead of probing.
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        let mut writable = [0x33; PAM_REGISTERS];
        writable[0] = 0x30;
        config.define(PAM0.into(), &[0; PAM_REGISTERS], &writable);
        // SMRAM control (§3.2.18): plain storage, there is no SMM.
        config.define(0x72, &[0x02], &[0x7f]);
        let bridge = HostBridge { config, sink, applied: [0; PAM_REGISTERS] };
        bridge.sink.shadow_ram(&areas(&bridge.applied));
        bridge
    }

    fn update(&mut self) {
        let mut pam = [0; PAM_REGISTERS];
        self.config.read(PAM0, &mut pam);
        if pam != self.applied {
            self.applied = pam;
            self.sink.shadow_ram(&areas(&pam));
        }
    }
}

/// What the registers say, by ascending address.
fn areas(pam: &[u8; PAM_REGISTERS]) -> Vec<ShadowArea> {
    let area = |start, len, bits: u8| ShadowArea { start, len, read: bits & 1 != 0, write: bits & 2 != 0 };
    let halves = pam.iter().skip(1).flat_map(|r| [r & 15, r >> 4]);
    let small = halves.enumerate().map(|(i, bits)| area(0xc_0000 + ((i as u32) << 14), 1 << 14, bits));
    small.chain([area(0xf_0000, 1 << 16, pam[0] >> 4)]).collect()
}

impl PciDevice for HostBridge {
    fn name(&self) -> &str {
        "host-bridge"
    }

    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn follow_config(&mut self) {
        self.update();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Log(Mutex<Vec<Vec<ShadowArea>>>);

    impl ChipsetSink for Log {
        fn shadow_ram(&self, areas: &[ShadowArea]) {
            self.0.lock().unwrap().push(areas.to_vec());
        }
    }

    #[test]
    fn attribute_maps_reach_their_areas() {
        let log = Arc::new(Log::default());
        let mut bridge = HostBridge::new(log.clone());
        bridge.config_write(0x58, &[0, 0xff, 0x30, 0]);
        bridge.config_write(0x5c, &[0, 0, 0x01, 0x02]);
        bridge.config_write(0x5c, &[0, 0, 0x01, 0x02]);
        let seen = log.0.lock().unwrap().clone();
        assert_eq!(seen.len(), 3, "at the start, and at each change");
        assert!(seen[0].iter().all(|a| !a.read && !a.write));
        let last = &seen[2];
        assert_eq!(last.len(), 13);
        assert!(last.windows(2).all(|w| w[0].start + w[0].len == w[1].start), "without gaps");
        assert_eq!(last[12], ShadowArea { start: 0xf_0000, len: 0x1_0000, read: true, write: true });
        assert_eq!(last[1], ShadowArea { start: 0xc_4000, len: 0x4000, read: true, write: true });
        assert_eq!(last[8], ShadowArea { start: 0xe_0000, len: 0x4000, read: true, write: false });
        assert_eq!(last[10], ShadowArea { start: 0xe_8000, len: 0x4000, read: false, write: true });
        bridge.reset();
        assert_eq!(log.0.lock().unwrap().last(), Some(&seen[0]));
    }
}
