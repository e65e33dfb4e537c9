//! The function and its registers.

use std::sync::Arc;

use visor_engine::MsiSink;
use vm_memory::{Bytes, GuestAddress};

use crate::{BarKind, ConfigSpace, DmaMemory, Identity, IntxLine, IntxPin, Msi, PciDevice, PciError};

const BAR_SIZE: u64 = 1 << 20;
/// Revision 1.0 in the upper half, EDh at the bottom.
const IDENTIFICATION: u32 = 0x0100_00ed;

const STATUS_IRQ_FACTORIAL: u32 = 0x80;
const FACTORIAL_IRQ: u32 = 1;
const DMA_START: u64 = 1;
const DMA_TO_RAM: u64 = 2;
const DMA_INTERRUPT: u64 = 4;
const DMA_IRQ: u32 = 0x100;

/// Where the buffer lies for DMA, and its size.
const BUFFER: u64 = 0x40000;
const BUFFER_LEN: usize = 4096;
/// The address bits that the device has.
const DMA_MASK: u64 = (1 << 28) - 1;

/// The device.
pub struct Edu {
    config: ConfigSpace,
    msi: Msi,
    intx: IntxLine,
    memory: DmaMemory,
    regs: Registers,
    buffer: Box<[u8; BUFFER_LEN]>,
}

#[derive(Default)]
struct Registers {
    liveness: u32,
    factorial: u32,
    status: u32,
    interrupts: u32,
    /// Source, destination, count, command.
    dma: [u64; 4],
}

impl Edu {
    /// A device that accesses `memory` and interrupts through `msi` or `intx` (its INTA).
    ///
    /// # Errors
    /// Never, in fact: the header has room for one BAR and one capability.
    pub fn new(memory: DmaMemory, msi: Arc<dyn MsiSink>, intx: IntxLine) -> Result<Self, PciError> {
        let id = Identity { vendor: 0x1234, device: 0x11e8, revision: 0x10, class: 0x00_ff00, ..Identity::default() };
        let mut config = ConfigSpace::new(id);
        config.add_bar(0, BarKind::Mem32, BAR_SIZE)?;
        config.set_interrupt_pin(IntxPin::A);
        let msi = Msi::new(&mut config, msi)?;
        Ok(Edu { config, msi, intx, memory, regs: Registers::default(), buffer: Box::new([0; BUFFER_LEN]) })
    }

    fn read_register(&self, offset: u64) -> u64 {
        u64::from(match offset {
            0x00 => IDENTIFICATION,
            0x04 => self.regs.liveness,
            0x08 => self.regs.factorial,
            0x20 => self.regs.status,
            0x24 => self.regs.interrupts,
            0x80..0xa0 => return self.regs.dma[(offset as usize - 0x80) / 8] >> (8 * (offset & 4)),
            _ => 0,
        })
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        match offset {
            0x04 => self.regs.liveness = !value,
            0x08 => {
                self.regs.factorial = factorial(value);
                if self.regs.status & STATUS_IRQ_FACTORIAL != 0 {
                    self.raise(FACTORIAL_IRQ);
                }
            }
            0x20 => self.regs.status = value & STATUS_IRQ_FACTORIAL,
            0x60 => self.raise(value),
            0x64 => {
                self.regs.interrupts &= !value;
                self.drive();
            }
            _ => {}
        }
    }

    fn write_dma(&mut self, offset: u64, data: &[u8]) {
        let register = (offset as usize - 0x80) / 8;
        let mut bytes = self.regs.dma[register].to_le_bytes();
        let at = (offset & 4) as usize;
        bytes[at..at + data.len()].copy_from_slice(data);
        self.regs.dma[register] = u64::from_le_bytes(bytes);
        if register == 3 && at == 0 && self.regs.dma[3] & DMA_START != 0 {
            self.transfer();
            self.regs.dma[3] &= !DMA_START;
        }
    }

    /// Moves bytes between the buffer and memory; nothing where the count does not fit into the buffer.
    fn transfer(&mut self) {
        let [source, destination, count, command] = self.regs.dma;
        let to_ram = command & DMA_TO_RAM != 0;
        let (inside, outside) = if to_ram { (source, destination) } else { (destination, source) };
        let outside = GuestAddress(outside & DMA_MASK);
        let range = inside.checked_sub(BUFFER).and_then(|start| {
            let end = start.checked_add(count).filter(|end| *end <= BUFFER_LEN as u64)?;
            Some(start as usize..end as usize)
        });
        let Some(range) = range.filter(|_| self.config.command().bus_master()) else {
            tracing::debug!(source, destination, count, "edu: impossible DMA");
            return;
        };
        let moved = if to_ram {
            self.memory.write_slice(&self.buffer[range], outside)
        } else {
            self.memory.read_slice(&mut self.buffer[range], outside)
        };
        if let Err(error) = moved {
            tracing::debug!(%error, "edu: DMA");
        }
        if command & DMA_INTERRUPT != 0 {
            self.raise(DMA_IRQ);
        }
    }

    fn raise(&mut self, bits: u32) {
        self.regs.interrupts |= bits;
        if self.regs.interrupts != 0 && self.msi.enabled(&self.config) {
            self.msi.signal(&self.config);
        }
        self.drive();
    }

    fn drive(&mut self) {
        let wanted = self.regs.interrupts != 0;
        self.config.set_interrupt_status(wanted);
        self.intx.set(wanted && !self.msi.enabled(&self.config) && !self.config.command().intx_disabled());
    }
}

impl PciDevice for Edu {
    fn name(&self) -> &str {
        "edu"
    }

    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn follow_config(&mut self) {
        self.drive();
    }

    fn bar_read(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
        let wide = offset >= 0x80;
        let fits = data.len() == 4 || wide && data.len() == 8;
        if bar == 0 && fits && offset.is_multiple_of(data.len() as u64) {
            let len = data.len();
            data.copy_from_slice(&self.read_register(offset).to_le_bytes()[..len]);
        }
    }

    fn bar_write(&mut self, bar: u8, offset: u64, data: &[u8]) {
        if bar != 0 || !offset.is_multiple_of(data.len().max(1) as u64) {
            return;
        }
        match (offset, <[u8; 4]>::try_from(data)) {
            (0x80..0xa0, _) if matches!(data.len(), 4 | 8) => self.write_dma(offset, data),
            (0..0x80, Ok(value)) => self.write_register(offset, u32::from_le_bytes(value)),
            _ => {}
        }
    }

    fn reset(&mut self) {
        self.config.reset();
        self.regs = Registers::default();
        self.buffer.fill(0);
        self.drive();
    }
}

/// Modulo 2^32, which is 0 from 34! on.
fn factorial(n: u32) -> u32 {
    if n >= 34 { 0 } else { (1..=n).fold(1, u32::wrapping_mul) }
}
