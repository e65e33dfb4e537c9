//! The functions of the PIIX, as far as firmware and operating systems look at them.

use std::sync::Arc;

use crate::config::Identity;
use crate::host_bridge::ShadowArea;
use crate::intx::{DEFAULT_ROUTES, IntxPin, IntxRouter};
use crate::{ConfigSpace, PciDevice};

pub(crate) const INTEL: u16 = 0x8086;
/// First of the four PIRQ route registers (PIIX4 §4.1.10).
const PIRQ_ROUTE: u8 = 0x60;

/// The PIIX ISA bridge: routes PIRQA to PIRQD.
pub(crate) struct IsaBridge {
    config: ConfigSpace,
    router: Arc<IntxRouter>,
}

impl IsaBridge {
    pub(crate) fn new(router: Arc<IntxRouter>) -> Self {
        let mut config = ConfigSpace::new(Identity {
            vendor: INTEL,
            device: 0x7000,
            revision: 0,
            class: 0x06_0100,
            ..Identity::default()
        });
        // The part comes up with all four unrouted (80h); here they start as ACPI's routing table describes them, so that
        // interrupts work without firmware.
        config.define(usize::from(PIRQ_ROUTE), &DEFAULT_ROUTES, &[0x8f; 4]);
        IsaBridge { config, router }
    }

    fn apply(&self) {
        for pirq in 0..4u8 {
            self.router.route(usize::from(pirq), self.config.byte(PIRQ_ROUTE + pirq));
        }
    }
}

impl PciDevice for IsaBridge {
    fn name(&self) -> &str {
        "isa-bridge"
    }

    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn follow_config(&mut self) {
        self.apply();
    }
}

/// What software changes on the mainboard through the chipset's functions. Both are called with the bus locked, from within the
/// configuration access; the access is over when they return.
pub trait ChipsetSink: Send + Sync {
    /// Where C0000h to FFFFFh lead has changed: all 13 areas, ascending.
    fn shadow_ram(&self, areas: &[ShadowArea]) {
        let _ = areas;
    }

    /// The 64 ports of power management begin at `base` (a multiple of 64), or are not decoded.
    fn pm_ports(&self, base: Option<u16>) {
        let _ = base;
    }
}

/// For machines whose software changes nothing there.
impl ChipsetSink for () {}

const PMBA: u8 = 0x40;
const PMREGMISC: u8 = 0x80;

/// The PIIX4 power management function: identity, and where its ACPI registers, which are a device of their own, are decoded.
pub(crate) struct PowerManagement {
    config: ConfigSpace,
    sink: Arc<dyn ChipsetSink>,
    base: Option<u16>,
}

impl PowerManagement {
    pub(crate) fn new(sink: Arc<dyn ChipsetSink>) -> Self {
        let mut config = ConfigSpace::new(Identity {
            vendor: INTEL,
            device: 0x7113,
            revision: 3,
            class: 0x06_8000,
            ..Identity::default()
        });
        config.set_interrupt_pin(IntxPin::A);
        // The SCI is interrupt 9 whatever the pin says.
        config.define(0x3c, &[9], &[0]);
        // PMBA (§7.1.12): bit 0 says I/O, bits 15:6 are the address.
        config.define(PMBA.into(), &1u32.to_le_bytes(), &[0xc0, 0xff]);
        // DEVACTB (§7.1.20): SMI on APM writes reads as set up, which keeps firmware from installing an SMM handler.
        config.define(0x58, &[0, 0, 0, 0x02], &[]);
        // PMREGMISC (§7.1.27), bit 0: the ports at PMBA are decoded.
        config.define(PMREGMISC.into(), &[0], &[1]);
        PowerManagement { config, sink, base: None }
    }

    fn update(&mut self) {
        let base = u16::from_le_bytes([self.config.byte(PMBA), self.config.byte(PMBA + 1)]) & !0x3f;
        let base = (self.config.byte(PMREGMISC) & 1 != 0 && base != 0).then_some(base);
        if base != self.base {
            self.base = base;
            self.sink.pm_ports(base);
        }
    }
}

impl PciDevice for PowerManagement {
    fn name(&self) -> &str {
        "power-management"
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
