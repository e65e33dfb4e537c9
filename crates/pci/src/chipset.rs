//! The functions of the PIIX, as far as firmware and operating systems look at them.

use std::sync::Arc;

use crate::config::Identity;
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

    fn config_write(&mut self, offset: u8, data: &[u8]) {
        self.config.write(offset, data);
        self.apply();
    }

    fn reset(&mut self) {
        self.config.reset();
        self.apply();
    }
}

/// The PIIX4 power management function: identity and the (fixed) place of the ACPI registers, which are a device of their own.
pub(crate) struct PowerManagement(ConfigSpace);

impl PowerManagement {
    pub(crate) fn new(pm_base: u16) -> Self {
        let mut c = ConfigSpace::new(Identity {
            vendor: INTEL,
            device: 0x7113,
            revision: 3,
            class: 0x06_8000,
            ..Identity::default()
        });
        c.set_interrupt_pin(IntxPin::A);
        // The SCI is interrupt 9 whatever the pin says.
        c.define(0x3c, &[9], &[0]);
        // PMBA (§7.1.12): bit 0 says I/O. Software may write it but it stays.
        c.define(0x40, &(u32::from(pm_base & !0x3f) | 1).to_le_bytes(), &[]);
        // DEVACTB (§7.1.20): SMI on APM writes reads as set up, which keeps firmware from installing an SMM handler.
        c.define(0x58, &[0, 0, 0, 0x02], &[]);
        // PMREGMISC (§7.1.27): the I/O space at PMBA is enabled.
        c.define(0x80, &[1], &[]);
        PowerManagement(c)
    }
}

impl PciDevice for PowerManagement {
    fn name(&self) -> &str {
        "power-management"
    }

    fn config(&self) -> &ConfigSpace {
        &self.0
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.0
    }
}
