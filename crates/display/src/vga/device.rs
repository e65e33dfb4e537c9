//! The PCI function: BAR 0 is the frame buffer, BAR 2 the registers once more, for systems without ports.
//!
//! ```text
//! BAR 2:  000 EDID   400 ports 3C0h to 3DFh   500 Bochs extensions, 16 bits each
//!         600 size of this block (8)   604 byte order of the frame buffer: 1E1E1E1Eh little, BEBEBEBEh big
//! ```

use std::sync::{Arc, Mutex};

use visor_memory::Gpa;
use visor_pci::{BarKind, ConfigSpace, Identity, PciDevice, PciError};

use super::core::{Core, VBE_REGISTERS};
use super::{VgaWires, edid, lock};

const FRAME_BUFFER: u8 = 0;
const REGISTERS: u8 = 2;
const REGISTERS_LEN: u64 = 0x1000;
const PORTS: u64 = 0x400;
const PORTS_END: u64 = 0x420;
const VBE: u64 = 0x500;
const VBE_END: u64 = VBE + 2 * VBE_REGISTERS as u64;
const EXTENDED: u64 = 0x600;
const LITTLE_ENDIAN: u32 = 0x1e1e_1e1e;

pub(super) struct Function {
    config: ConfigSpace,
    core: Arc<Mutex<Core>>,
    wires: VgaWires,
}

impl Function {
    pub(super) fn new(core: Arc<Mutex<Core>>, wires: VgaWires, rom: Option<Arc<[u8]>>) -> Result<Self, PciError> {
        let mut config = ConfigSpace::new(Identity {
            vendor: 0x1234,
            device: 0x1111,
            revision: 2,
            class: 0x03_0000,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        config.add_bar(FRAME_BUFFER, BarKind::Mem32, wires.memory.len())?;
        config.add_bar(REGISTERS, BarKind::Mem32, REGISTERS_LEN)?;
        if let Some(rom) = rom {
            config.set_rom(rom)?;
        }
        Ok(Function { config, core, wires })
    }

    fn read_register(&self, offset: u64) -> u8 {
        let mut core = lock(&self.core);
        match offset {
            PORTS..PORTS_END => core.read_port((0x3c0 + offset - PORTS) as u16),
            VBE..VBE_END => core.read_vbe_at((offset - VBE) as usize / 2).to_le_bytes()[offset as usize & 1],
            EXTENDED.. if offset < EXTENDED + 8 => {
                let words = 8 | u64::from(LITTLE_ENDIAN) << 32;
                words.to_le_bytes()[(offset - EXTENDED) as usize]
            }
            _ => edid::BLOCK.get(offset as usize).copied().unwrap_or(0),
        }
    }
}

impl PciDevice for Function {
    fn name(&self) -> &str {
        "vga"
    }

    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn bar_read(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
        match bar {
            FRAME_BUFFER => self.wires.memory.read(offset, data),
            _ => (offset..).zip(data).for_each(|(at, byte)| *byte = self.read_register(at)),
        }
    }

    fn bar_write(&mut self, bar: u8, offset: u64, data: &[u8]) {
        if bar == FRAME_BUFFER {
            return self.wires.memory.write(offset, data);
        }
        let mut core = lock(&self.core);
        match (offset, data) {
            (PORTS..PORTS_END, _) => {
                (offset..).zip(data).for_each(|(at, byte)| core.write_port((0x3c0 + at - PORTS) as u16, *byte));
            }
            // Registers of 16 bits are written whole; a wider access writes two.
            (VBE..VBE_END, _) if offset.is_multiple_of(2) => {
                for (i, word) in data.chunks_exact(2).enumerate() {
                    core.write_vbe_at((offset - VBE) as usize / 2 + i, u16::from_le_bytes([word[0], word[1]]));
                }
            }
            _ => {}
        }
    }

    fn bar_moved(&mut self, bar: u8, at: Option<u64>) {
        if bar != FRAME_BUFFER {
            return;
        }
        lock(&self.core).placed = at;
        self.wires.memory.place(at.map(Gpa));
    }

    fn reset(&mut self) {
        self.config.reset();
        lock(&self.core).reset();
    }
}
