//! The firmware configuration device: a selector at port 510h and a data register at 511h, with which test kernels and
//! firmware ask for the number of CPUs and the size of memory (QEMU's docs/specs/fw_cfg.rst, traditional interface).

use visor_device::{Device, PioDevice};

/// First port.
pub const FW_CFG_PORT: u16 = 0x510;
/// Ports from [`FW_CFG_PORT`].
pub const FW_CFG_PORTS: u16 = 2;

/// The device. Its items are read-only.
#[derive(Debug)]
pub struct FwCfg {
    items: Vec<(u16, Vec<u8>)>,
    selected: u16,
    offset: usize,
}

impl FwCfg {
    /// A device that tells of this machine.
    pub fn new(ram_bytes: u64, cpus: u16) -> Self {
        let items = vec![
            (0x00, b"QEMU".to_vec()),            // the interface's signature
            (0x01, 1u32.to_le_bytes().to_vec()), // revision: no DMA
            (0x03, ram_bytes.to_le_bytes().to_vec()),
            (0x04, 1u16.to_le_bytes().to_vec()), // no display
            (0x05, cpus.to_le_bytes().to_vec()),
            (0x0f, cpus.to_le_bytes().to_vec()), // most CPUs
            (0x19, 0u32.to_be_bytes().to_vec()), // file directory: empty
        ];
        FwCfg { items, selected: 0, offset: 0 }
    }

    fn next(&mut self) -> u8 {
        let item = self.items.iter().find(|(key, _)| *key == self.selected);
        let byte = item.and_then(|(_, data)| data.get(self.offset)).copied().unwrap_or(0);
        self.offset = self.offset.saturating_add(1);
        byte
    }
}

impl Device for FwCfg {
    fn name(&self) -> &str {
        "fw_cfg"
    }

    fn reset(&mut self) {
        self.selected = 0;
        self.offset = 0;
    }

    fn as_pio(&mut self) -> Option<&mut dyn PioDevice> {
        Some(self)
    }
}

impl PioDevice for FwCfg {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        match offset {
            1 => data.iter_mut().for_each(|b| *b = self.next()),
            _ => data.fill(0),
        }
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        if let (0, &[low, ref rest @ ..]) = (offset, data) {
            self.selected = u16::from_le_bytes([low, rest.first().copied().unwrap_or(0)]);
            self.offset = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_read_byte_by_byte_and_then_zero() {
        let mut d = FwCfg::new(0x1234_5678, 3);
        d.write(0, &5u16.to_le_bytes());
        let mut got = [0xff; 4];
        got.iter_mut().for_each(|b| d.read(1, std::slice::from_mut(b)));
        assert_eq!(got, [3, 0, 0, 0]);
        d.write(0, &3u16.to_le_bytes());
        let mut got = [0xff; 4];
        d.read(1, &mut got);
        assert_eq!(u32::from_le_bytes(got), 0x1234_5678);
        d.write(0, &0x8000u16.to_le_bytes());
        d.read(1, &mut got);
        assert_eq!(got, [0; 4], "an unknown item is empty");
    }
}
