//! A function's configuration space: a type 0 header with masks that say what software may change (PCI 3.0 §6.1, §6.2).
//!
//! ```text
//! 00  vendor, device      04  command, status    08  revision, class    0C  cache line, latency, header type
//! 10  six base address registers                 2C  subsystem          30  expansion ROM    34  first capability
//! 3C  interrupt line, interrupt pin              40  capabilities and the function's own registers
//! ```

use std::sync::Arc;

use crate::PciError;
use crate::bar::{BarKind, BarRange, ROM_BAR};
use crate::intx::IntxPin;

/// Bytes in a configuration space that mechanism #1 reaches.
pub const CONFIG_SIZE: usize = 256;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const HEADER_TYPE: usize = 0x0e;
const BAR0: usize = 0x10;
const ROM: usize = 0x30;
const CAP_POINTER: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const INTERRUPT_PIN: usize = 0x3d;
const FIRST_CAP: usize = 0x40;

/// Smallest and largest expansion ROM: bits 31:11 of the register are an address (PCI 3.0 §6.2.5.2).
const ROM_SIZES: std::ops::RangeInclusive<u64> = 2 << 10..=16 << 20;

const STATUS_INTERRUPT: u8 = 1 << 3;
const STATUS_CAP_LIST: u8 = 1 << 4;

/// What a function says it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Class, subclass and programming interface, from high to low byte (24 bits).
    pub class: u32,
    /// Subsystem vendor id.
    pub subsystem_vendor: u16,
    /// Subsystem id.
    pub subsystem: u16,
}

/// The bits of the command register that functions act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command(pub u16);

impl Command {
    /// I/O BARs are decoded.
    pub fn io(self) -> bool {
        self.0 & 1 != 0
    }

    /// Memory BARs are decoded.
    pub fn memory(self) -> bool {
        self.0 & 2 != 0
    }

    /// The function may access RAM and send messages.
    pub fn bus_master(self) -> bool {
        self.0 & 4 != 0
    }

    /// INTx must stay quiet.
    pub fn intx_disabled(self) -> bool {
        self.0 & 0x400 != 0
    }
}

/// A capability to be added to the list.
#[derive(Clone, Copy, Debug)]
pub struct Capability<'a> {
    /// Capability id (11h is MSI-X, 09h is vendor specific).
    pub id: u8,
    /// What follows id and next pointer.
    pub body: &'a [u8],
    /// Bits of `body` that software can write; missing bytes count as zero.
    pub writable: &'a [u8],
}

/// Registers, and which of their bits can be written.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: [u8; CONFIG_SIZE],
    initial: [u8; CONFIG_SIZE],
    writable: [u8; CONFIG_SIZE],
    bars: [Option<(BarKind, u64)>; 6],
    rom: Option<(Arc<[u8]>, u64)>,
    cap_end: usize,
    last_cap: usize,
}

impl ConfigSpace {
    /// The header of a function without BARs, capabilities and interrupt pin.
    pub fn new(id: Identity) -> Self {
        let mut c = ConfigSpace {
            bytes: [0; CONFIG_SIZE],
            initial: [0; CONFIG_SIZE],
            writable: [0; CONFIG_SIZE],
            bars: [None; 6],
            rom: None,
            cap_end: FIRST_CAP,
            last_cap: 0,
        };
        c.define(0x00, &id.vendor.to_le_bytes(), &[]);
        c.define(0x02, &id.device.to_le_bytes(), &[]);
        // I/O, memory, bus master, parity, SERR#, INTx disable.
        c.define(COMMAND, &[0, 0], &0x0547u16.to_le_bytes());
        c.define(0x08, &[id.revision, id.class as u8, (id.class >> 8) as u8, (id.class >> 16) as u8], &[]);
        c.define(0x0c, &[0, 0], &[0xff, 0xf8]);
        c.define(0x2c, &id.subsystem_vendor.to_le_bytes(), &[]);
        c.define(0x2e, &id.subsystem.to_le_bytes(), &[]);
        c.define(INTERRUPT_LINE, &[0], &[0xff]);
        c
    }

    /// Gives the registers from `offset` their power-on value and the bits that software can write (missing bytes: none).
    /// What lies beyond the end of the space is left out.
    pub fn define(&mut self, offset: usize, value: &[u8], writable: &[u8]) {
        for (i, v) in value.iter().enumerate().take(CONFIG_SIZE.saturating_sub(offset)) {
            self.bytes[offset + i] = *v;
            self.initial[offset + i] = *v;
            self.writable[offset + i] = writable.get(i).copied().unwrap_or(0);
        }
    }

    /// Adds a BAR of `size` bytes (or ports), a power of two. A 64-bit one also takes register `index` + 1.
    ///
    /// # Errors
    /// [`PciError::Bar`] if the size or the index is impossible or taken.
    pub fn add_bar(&mut self, index: u8, kind: BarKind, size: u64) -> Result<(), PciError> {
        let (min, max) = kind.sizes();
        let i = usize::from(index);
        let last = if kind == BarKind::Mem64 { i + 1 } else { i };
        let after_64 = i.checked_sub(1).is_some_and(|p| matches!(self.bars.get(p), Some(Some((BarKind::Mem64, _)))));
        let free = last < 6 && !after_64 && self.bars[i..=last].iter().all(Option::is_none);
        if !free || !size.is_power_of_two() || size < min || size > max {
            return Err(PciError::Bar { index, size });
        }
        self.bars[i] = Some((kind, size));
        let mask = !(size - 1) & if kind == BarKind::Io { !3 } else { !15 };
        let bytes = if kind == BarKind::Mem64 { 8 } else { 4 };
        self.define(BAR0 + 4 * i, &u64::from(kind.flags()).to_le_bytes()[..bytes], &mask.to_le_bytes()[..bytes]);
        Ok(())
    }

    /// Gives the function an expansion ROM: `image` at the start of a window of the next power of two, at least 2 KiB; the rest
    /// reads as ones. The bus serves it; the function has nothing to do.
    ///
    /// # Errors
    /// [`PciError::Bar`] for an image that is empty or larger than 16 MiB.
    pub fn set_rom(&mut self, image: Arc<[u8]>) -> Result<(), PciError> {
        let size = (image.len() as u64).next_power_of_two().max(*ROM_SIZES.start());
        if image.is_empty() || size > *ROM_SIZES.end() {
            return Err(PciError::Bar { index: ROM_BAR, size });
        }
        self.define(ROM, &[0; 4], &(!(size as u32 - 1) | 1).to_le_bytes());
        self.rom = Some((image, size));
        Ok(())
    }

    /// The bytes of the expansion ROM from `offset`; ones beyond its end.
    pub(crate) fn read_rom(&self, offset: u64, data: &mut [u8]) {
        let image = self.rom.as_ref().map_or(&[][..], |(image, _)| image);
        for (at, d) in (offset..).zip(data) {
            *d = usize::try_from(at).ok().and_then(|at| image.get(at)).copied().unwrap_or(0xff);
        }
    }

    /// The window of the expansion ROM, if memory and the ROM are both enabled.
    pub(crate) fn decoded_rom(&self) -> Option<BarRange> {
        let (_, size) = self.rom.as_ref()?;
        let register = self.word(ROM);
        let base = u64::from(register) & !(size - 1);
        (register & 1 != 0 && self.command().memory()).then_some(BarRange { kind: BarKind::Mem32, base, size: *size })
    }

    /// Appends a capability; returns the offset of its id.
    ///
    /// # Errors
    /// [`PciError::Capability`] when there is no room left.
    pub fn add_capability(&mut self, cap: Capability<'_>) -> Result<u8, PciError> {
        let at = self.cap_end;
        let end = at + 2 + cap.body.len();
        if end > CONFIG_SIZE {
            return Err(PciError::Capability(cap.body.len()));
        }
        self.define(at, &[cap.id, 0], &[]);
        self.define(at + 2, cap.body, cap.writable);
        let link = if self.last_cap == 0 { CAP_POINTER } else { self.last_cap + 1 };
        self.define(link, &[at as u8], &[]);
        let status = self.bytes[STATUS] | STATUS_CAP_LIST;
        self.define(STATUS, &[status], &[]);
        self.last_cap = at;
        self.cap_end = end.next_multiple_of(4);
        Ok(at as u8)
    }

    /// Wires the function to an INTx pin.
    pub fn set_interrupt_pin(&mut self, pin: IntxPin) {
        self.define(INTERRUPT_PIN, &[pin as u8 + 1], &[]);
    }

    /// The INTx pin, if the function has one.
    pub fn interrupt_pin(&self) -> Option<IntxPin> {
        IntxPin::from_index(self.bytes[INTERRUPT_PIN].checked_sub(1)?)
    }

    /// Says whether the device has further functions.
    pub(crate) fn set_multifunction(&mut self) {
        self.define(HEADER_TYPE, &[0x80], &[]);
    }

    /// Shows in the status register whether an INTx interrupt is pending.
    pub fn set_interrupt_status(&mut self, pending: bool) {
        self.bytes[STATUS] = self.bytes[STATUS] & !STATUS_INTERRUPT | if pending { STATUS_INTERRUPT } else { 0 };
    }

    /// The command register.
    pub fn command(&self) -> Command {
        Command(u16::from_le_bytes([self.bytes[COMMAND], self.bytes[COMMAND + 1]]))
    }

    /// The bytes from `offset`; all ones beyond the end.
    pub fn read(&self, offset: u8, data: &mut [u8]) {
        for (i, d) in data.iter_mut().enumerate() {
            *d = self.bytes.get(usize::from(offset) + i).copied().unwrap_or(0xff);
        }
    }

    /// Changes the writable bits among the bytes from `offset`.
    pub fn write(&mut self, offset: u8, data: &[u8]) {
        for (i, d) in data.iter().enumerate() {
            let at = usize::from(offset) + i;
            if let (Some(byte), Some(mask)) = (self.bytes.get_mut(at), self.writable.get(at)) {
                *byte = *byte & !mask | d & mask;
            }
        }
    }

    /// One byte.
    pub fn byte(&self, offset: u8) -> u8 {
        self.bytes[usize::from(offset)]
    }

    /// Back to the power-on values.
    pub fn reset(&mut self) {
        self.bytes = self.initial;
    }

    /// BAR `index` and where it points, whether it is decoded or not.
    pub fn bar(&self, index: u8) -> Option<BarRange> {
        let i = usize::from(index);
        let (kind, size) = (*self.bars.get(i)?)?;
        let low = u64::from(self.word(BAR0 + 4 * i)) & !(size - 1) & if kind == BarKind::Io { !3 } else { !15 };
        let base = if kind == BarKind::Mem64 { low | u64::from(self.word(BAR0 + 4 * (i + 1))) << 32 } else { low };
        Some(BarRange { kind, base, size })
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes([self.bytes[at], self.bytes[at + 1], self.bytes[at + 2], self.bytes[at + 3]])
    }

    /// BAR `index` if the command register enables it.
    pub fn decoded(&self, index: u8) -> Option<BarRange> {
        let bar = self.bar(index)?;
        let enabled = if bar.kind == BarKind::Io { self.command().io() } else { self.command().memory() };
        enabled.then_some(bar)
    }

    /// Points BAR `index` to `base`.
    pub(crate) fn point_bar(&mut self, index: u8, base: u64) {
        if let Some(bar) = self.bar(index) {
            let bytes = if bar.kind == BarKind::Mem64 { 8 } else { 4 };
            self.write((BAR0 + 4 * usize::from(index)) as u8, &base.to_le_bytes()[..bytes]);
        }
    }

    /// Sets bits of the command register.
    pub(crate) fn enable(&mut self, bits: u16) {
        let command = self.command().0 | bits;
        self.write(COMMAND as u8, &command.to_le_bytes());
    }

    /// Notes the interrupt input in the interrupt line register, as firmware does.
    pub(crate) fn set_interrupt_line(&mut self, line: u8) {
        self.write(INTERRUPT_LINE as u8, &[line]);
    }
}
