//! The function: configuration, registers, reset.

use visor_pci::{BarKind, ConfigSpace, Identity, IntxPin, PciDevice, PciError, rom_for};

use super::eeprom::Eeprom;
use super::interrupt::Throttle;
use super::phy::Phy;
use super::regs::*;
use super::transmit::Transmit;
use super::{E1000, E1000Wires};
use visor_net::{Accepts, MacAddr, Traffic};

const VENDOR: u16 = 0x8086;
const DEVICE: u16 = 0x100e;

const MEMORY_BAR: u8 = 0;
const IO_BAR: u8 = 1;
const IO_ADDRESS: u64 = 0;
const IO_DATA: u64 = 4;

impl E1000 {
    /// A device with the address `mac`.
    ///
    /// # Errors
    /// [`PciError`] never, as far as its BARs are possible.
    pub fn new(mac: MacAddr, mut wires: E1000Wires) -> Result<Self, PciError> {
        let mut config = ConfigSpace::new(Identity {
            vendor: VENDOR,
            device: DEVICE,
            revision: 2,
            class: 0x02_0000,
            subsystem_vendor: VENDOR,
            subsystem: 0x001e,
        });
        config.add_bar(MEMORY_BAR, BarKind::Mem32, 0x2_0000)?;
        config.add_bar(IO_BAR, BarKind::Io, 64)?;
        config.set_interrupt_pin(IntxPin::A);
        wires.port.on_ready(wires.wake.clone());
        wires.port.set_accepts(Accepts::default());
        let mut device = E1000 {
            config,
            wires,
            mac,
            regs: vec![0; END as usize / 4],
            io_address: 0,
            eeprom: Eeprom::new(mac, VENDOR, DEVICE),
            phy: Phy::new(),
            throttle: Throttle::default(),
            transmit: Transmit::default(),
            starved: false,
            plugged: true,
            traffic: Traffic::default(),
        };
        device.reset_registers();
        Ok(device)
    }

    /// The same with an expansion ROM, from which firmware can drive the device.
    ///
    /// # Errors
    /// [`PciError::Rom`], [`PciError::Bar`] for an image that is none or too large.
    pub fn with_rom(mut self, image: &[u8]) -> Result<Self, PciError> {
        let rom = rom_for(image, VENDOR, DEVICE).ok_or(PciError::Rom(image.len()))?;
        self.config.set_rom(rom)?;
        Ok(self)
    }

    pub(super) fn reg(&self, at: u32) -> u32 {
        self.regs.get(at as usize / 4).copied().unwrap_or(0)
    }

    /// The register at `at`, which must be one that exists.
    pub(super) fn reg_mut(&mut self, at: u32) -> &mut u32 {
        // All callers pass constants below END, or offsets within tables that end below it.
        let last = self.regs.len() - 1;
        &mut self.regs[(at as usize / 4).min(last)]
    }

    /// A ring's address from its two registers, 16-byte aligned.
    pub(super) fn ring(&self, low: u32) -> u64 {
        u64::from(self.reg(low + 4)) << 32 | u64::from(self.reg(low) & !15)
    }

    /// Counts a packet in the statistics: good ones, their bytes (64 bits), and all.
    pub(super) fn count(&mut self, packets: u32, bytes: u32, [all, all_bytes]: [u32; 2], len: usize) {
        for r in [packets, all] {
            *self.reg_mut(r) = self.reg(r).saturating_add(1);
        }
        for r in [bytes, all_bytes] {
            let sum = (u64::from(self.reg(r + 4)) << 32 | u64::from(self.reg(r))).saturating_add(len as u64);
            *self.reg_mut(r) = sum as u32;
            *self.reg_mut(r + 4) = (sum >> 32) as u32;
        }
    }

    /// As after power-on, or a write of CTRL.RST (§14.4).
    fn reset_registers(&mut self) {
        let link = if self.link() { STATUS_LINK } else { 0 };
        self.regs.fill(0);
        *self.reg_mut(CTRL) = CTRL_SLU;
        *self.reg_mut(STATUS) = STATUS_FIXED | link;
        *self.reg_mut(PBA) = 0x0010_0030;
        *self.reg_mut(VET) = 0x8100;
        self.load_address();
        self.phy = Phy::new();
        self.transmit = Transmit::default();
        self.throttle = Throttle::default();
        self.starved = false;
        self.set_pin();
    }

    fn read_register(&mut self, at: u32) -> u32 {
        match at {
            ICR => self.take_causes(),
            EECD => self.eeprom.lines(),
            ICS | IMC => 0,
            _ if STATISTICS.contains(&at) => std::mem::take(self.reg_mut(at)),
            _ => self.reg(at),
        }
    }

    fn write_register(&mut self, at: u32, value: u32) {
        match at {
            CTRL if value & CTRL_RST != 0 => self.reset_registers(),
            CTRL => {
                *self.reg_mut(CTRL) = value & !CTRL_PHY_RST;
                if value & CTRL_PHY_RST != 0 {
                    self.phy = Phy::new();
                }
            }
            STATUS | ICR | MPC | GPRC | GPTC => {}
            EECD => self.eeprom.set_lines(value),
            EERD => self.read_eeprom(value),
            MDIC => self.manage(value),
            ICS => self.raise(value & 0x1_ffff),
            IMS => {
                *self.reg_mut(IMS) |= value;
                self.drive();
            }
            IMC => {
                *self.reg_mut(IMS) &= !value;
                self.drive();
            }
            RDBAL | TDBAL => *self.reg_mut(at) = value & !15,
            RDLEN | TDLEN => *self.reg_mut(at) = value & 0xf_ff80,
            RDH | TDH => *self.reg_mut(at) = value & 0xffff,
            RDT | RCTL => {
                *self.reg_mut(at) = if at == RDT { value & 0xffff } else { value };
                if std::mem::take(&mut self.starved) || at == RCTL {
                    (self.wires.wake)();
                }
            }
            TDT | TCTL => {
                *self.reg_mut(at) = if at == TDT { value & 0xffff } else { value };
                self.transmit();
            }
            _ if at < END => *self.reg_mut(at) = value,
            _ => {}
        }
    }

    /// Start bit, address from bit 8; done in bit 4, data from bit 16 (§13.4.4).
    fn read_eeprom(&mut self, value: u32) {
        let word = self.eeprom.word((value >> 8 & 0xff) as usize);
        *self.reg_mut(EERD) =
            if value & 1 != 0 { u32::from(word) << 16 | value & 0xff00 | 0x10 } else { value & 0xff00 };
    }

    fn manage(&mut self, value: u32) {
        let link = self.reg(STATUS) & STATUS_LINK != 0;
        let answer = self.phy.command(value, link);
        *self.reg_mut(MDIC) = answer;
        if value & 1 << 29 != 0 {
            self.raise(INT_MDAC);
        }
    }

    fn read_memory(&mut self, offset: u64, data: &mut [u8]) {
        for (i, part) in data.chunks_mut(4).enumerate() {
            let at = offset as u32 + 4 * i as u32;
            let value = self.read_register(at & !3) >> (8 * (at & 3));
            part.copy_from_slice(&value.to_le_bytes()[..part.len()]);
        }
    }

    /// Registers are written in double words (§13.2); what is narrower counts as one with zeroes.
    fn write_memory(&mut self, offset: u64, data: &[u8]) {
        for (i, part) in data.chunks(4).enumerate() {
            let at = offset as u32 + 4 * i as u32;
            let mut value = [0; 4];
            value[..part.len()].copy_from_slice(part);
            self.write_register(at & !3, u32::from_le_bytes(value) << (8 * (at & 3)));
        }
    }
}

impl PciDevice for E1000 {
    fn name(&self) -> &str {
        "e1000"
    }

    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn config_write(&mut self, offset: u8, data: &[u8]) {
        let had_bus_master = self.config.command().bus_master();
        self.config.write(offset, data);
        self.set_pin();
        if self.config.command().bus_master() && !had_bus_master {
            self.transmit();
            (self.wires.wake)();
        }
    }

    fn bar_read(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
        match (bar, offset) {
            (MEMORY_BAR, _) => self.read_memory(offset, data),
            (IO_BAR, IO_ADDRESS) => {
                let value = self.io_address.to_le_bytes();
                data.iter_mut().zip(value).for_each(|(d, v)| *d = v);
            }
            (IO_BAR, IO_DATA) => self.read_memory(u64::from(self.io_address), data),
            _ => data.fill(0),
        }
    }

    fn bar_write(&mut self, bar: u8, offset: u64, data: &[u8]) {
        match (bar, offset, data) {
            (MEMORY_BAR, ..) => self.write_memory(offset, data),
            (IO_BAR, IO_ADDRESS, [a, b, c, d, ..]) => self.io_address = u32::from_le_bytes([*a, *b, *c, *d]) & 0x1_fffc,
            (IO_BAR, IO_DATA, data) => self.write_memory(u64::from(self.io_address), data),
            _ => {}
        }
    }

    fn reset(&mut self) {
        self.config.reset();
        self.io_address = 0;
        self.reset_registers();
    }
}
