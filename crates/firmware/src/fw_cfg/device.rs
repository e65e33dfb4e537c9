//! The ports, and transfers by DMA.

use visor_device::{Device, PioDevice};
use visor_memory::GuestMemory;
use vm_memory::{Bytes, GuestAddress};

use super::FwCfg;

const SELECTOR: u16 = 0;
const DATA: u16 = 1;
const DMA_HIGH: u16 = 4;
const DMA_LOW: u16 = 8;
const DMA_SIGNATURE: [u8; 8] = *b"QEMU CFG";

const ERROR: u32 = 1 << 0;
const READ: u32 = 1 << 1;
const SKIP: u32 = 1 << 2;
const SELECT: u32 = 1 << 3;
const WRITE: u32 = 1 << 4;

/// Most bytes beyond an item's end that one transfer clears.
const MAX_FILL: u64 = 16 << 20;

impl Device for FwCfg {
    fn name(&self) -> &str {
        "fw_cfg"
    }

    fn reset(&mut self) {
        self.selected = 0;
        self.offset = 0;
        self.dma_high = 0;
    }

    fn as_pio(&mut self) -> Option<&mut dyn PioDevice> {
        Some(self)
    }
}

impl PioDevice for FwCfg {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        data.fill(0);
        match offset {
            DATA => data.iter_mut().for_each(|b| *b = self.next()),
            DMA_HIGH.. if self.memory.is_some() => {
                let from = DMA_SIGNATURE.iter().skip(usize::from(offset - DMA_HIGH));
                data.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
            }
            _ => {}
        }
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        match (offset, data) {
            (SELECTOR, &[low, ref rest @ ..]) => {
                self.select(u16::from_le_bytes([low, rest.first().copied().unwrap_or(0)]));
            }
            (DMA_HIGH, &[a, b, c, d]) => self.dma_high = u32::from_be_bytes([a, b, c, d]),
            (DMA_LOW, &[a, b, c, d]) => {
                let low = u32::from_be_bytes([a, b, c, d]);
                let at = u64::from(std::mem::take(&mut self.dma_high)) << 32 | u64::from(low);
                self.transfer(at);
            }
            _ => {}
        }
    }
}

impl FwCfg {
    /// Does what the descriptor at `at` says.
    fn transfer(&mut self, at: u64) {
        let Some(memory) = self.memory.clone() else { return };
        let mut d = [0; 16];
        if memory.view().read_slice(&mut d, GuestAddress(at)).is_err() {
            tracing::debug!(at = format_args!("{at:#x}"), "fw_cfg: no descriptor");
            return;
        }
        let field = |i: usize| u32::from_be_bytes([d[i], d[i + 1], d[i + 2], d[i + 3]]);
        let (control, length) = (field(0), u64::from(field(4)));
        let address = u64::from(field(8)) << 32 | u64::from(field(12));
        if control & SELECT != 0 {
            self.select((control >> 16) as u16);
        }
        let done = match control {
            c if c & READ != 0 => self.copy(&memory, address, length),
            c if c & WRITE != 0 => false,
            _ => true,
        };
        if control & (READ | SKIP) != 0 {
            self.offset = self.offset.saturating_add(length);
        }
        let result = if done { 0 } else { ERROR };
        // The descriptor was readable, so it is writable.
        let _ = memory.view().write_slice(&result.to_be_bytes(), GuestAddress(at));
    }

    /// Copies from the selected item, zeroes beyond its end.
    fn copy(&self, memory: &GuestMemory, address: u64, length: u64) -> bool {
        let rest = self.rest();
        let there = &rest[..rest.len().min(length as usize)];
        let (mut at, mut missing) = (address.saturating_add(there.len() as u64), length - there.len() as u64);
        if missing > MAX_FILL || memory.view().write_slice(there, GuestAddress(address)).is_err() {
            return false;
        }
        while missing > 0 {
            let zeroes = [0; 4096];
            let n = missing.min(zeroes.len() as u64);
            if memory.view().write_slice(&zeroes[..n as usize], GuestAddress(at)).is_err() {
                return false;
            }
            (at, missing) = (at.saturating_add(n), missing - n);
        }
        true
    }
}
