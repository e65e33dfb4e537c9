//! The firmware configuration device: how firmware learns of the machine (QEMU's docs/specs/fw_cfg.rst).
//!
//! ```text
//! 510h  write, 16 bits: selects an item and goes to its start
//! 511h  read: its next byte, 0 beyond its end
//! 514h  DMA address, high half, big-endian; reads give "QEMU" and, at 518h, " CFG"
//! 518h  low half; the write starts the transfer that the descriptor there describes:
//!         00 control   [ 31:16 item | 4 write | 3 select | 2 skip | 1 read | 0 error ], 0 when done     all big-endian
//!         04 length in bytes         08 address
//! ```
//!
//! Items with numbers from 20h are files, named in the directory, item 19h. All items are read-only.

mod device;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use visor_memory::GuestMemory;

/// First port.
pub const FW_CFG_PORT: u16 = 0x510;
/// Ports from [`FW_CFG_PORT`].
pub const FW_CFG_PORTS: u16 = 12;

/// Numbers of items that are not files.
pub mod item {
    #![allow(missing_docs)]
    pub const SIGNATURE: u16 = 0x00;
    pub const ID: u16 = 0x01;
    pub const UUID: u16 = 0x02;
    pub const RAM_SIZE: u16 = 0x03;
    pub const NO_GRAPHIC: u16 = 0x04;
    pub const CPUS: u16 = 0x05;
    pub const KERNEL_SIZE: u16 = 0x08;
    pub const INITRD_SIZE: u16 = 0x0b;
    pub const NUMA: u16 = 0x0d;
    pub const BOOT_MENU: u16 = 0x0e;
    pub const MAX_CPUS: u16 = 0x0f;
    pub const KERNEL_DATA: u16 = 0x11;
    pub const INITRD_DATA: u16 = 0x12;
    pub const CMDLINE_SIZE: u16 = 0x14;
    pub const CMDLINE_DATA: u16 = 0x15;
    pub const SETUP_SIZE: u16 = 0x17;
    pub const SETUP_DATA: u16 = 0x18;
    pub const DIRECTORY: u16 = 0x19;
    pub const FIRST_FILE: u16 = 0x20;
    pub const IRQ0_OVERRIDE: u16 = 0x8002;
}

/// Longest name of a file, without its terminating NUL.
pub const MAX_NAME: usize = 55;

/// What the machine tells of itself in the basic items.
#[derive(Clone, Copy, Debug, Default)]
pub struct FwCfgConfig {
    /// RAM in bytes.
    pub ram_bytes: u64,
    /// vCPUs.
    pub cpus: u16,
    /// System UUID.
    pub uuid: [u8; 16],
    /// Ask for the boot menu.
    pub boot_menu: bool,
}

/// The device.
pub struct FwCfg {
    memory: Option<Arc<GuestMemory>>,
    items: Vec<(u16, Arc<[u8]>)>,
    /// By name; their items are numbered in this order.
    files: Vec<(String, Arc<[u8]>)>,
    directory: Vec<u8>,
    selected: u16,
    offset: u64,
    /// High half of the next DMA address.
    dma_high: u32,
    on_select: Option<Box<dyn Fn() + Send>>,
}

impl FwCfg {
    /// A device with the basic items and without files. With `memory`, transfers by DMA are offered.
    pub fn new(config: &FwCfgConfig, memory: Option<Arc<GuestMemory>>) -> Self {
        // Bit 0: the traditional interface; bit 1: DMA.
        let id = 1 | u32::from(memory.is_some()) << 1;
        let mut d = FwCfg {
            memory,
            items: Vec::new(),
            files: Vec::new(),
            directory: Vec::new(),
            selected: 0,
            offset: 0,
            dma_high: 0,
            on_select: None,
        };
        d.set(item::SIGNATURE, *b"QEMU");
        d.set(item::ID, id.to_le_bytes());
        d.set(item::UUID, config.uuid);
        d.set(item::RAM_SIZE, config.ram_bytes.to_le_bytes());
        d.set(item::NO_GRAPHIC, 1u16.to_le_bytes());
        d.set(item::CPUS, config.cpus.to_le_bytes());
        d.set(item::MAX_CPUS, config.cpus.to_le_bytes());
        d.set(item::BOOT_MENU, u16::from(config.boot_menu).to_le_bytes());
        d.set(item::NUMA, 0u64.to_le_bytes());
        d.set(item::IRQ0_OVERRIDE, 1u32.to_le_bytes());
        d.index();
        d
    }

    /// Sets an item of [`item`].
    pub fn set(&mut self, key: u16, data: impl Into<Arc<[u8]>>) {
        self.items.retain(|(k, _)| *k != key);
        self.items.push((key, data.into()));
    }

    /// Sets the file `name`, of which [`MAX_NAME`] bytes count. Files may be set until firmware looks: setting one moves the
    /// numbers of others.
    pub fn set_file(&mut self, name: &str, data: impl Into<Arc<[u8]>>) {
        self.files.retain(|(n, _)| n != name);
        self.files.push((name.to_owned(), data.into()));
        // Firmware shows and tries some in the order of their names.
        self.files.sort_by(|a, b| a.0.cmp(&b.0));
        self.index();
    }

    /// The contents of file `name`.
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        self.files.iter().find(|(n, _)| n == name).map(|(_, data)| &**data)
    }

    /// Calls `f`, which must not call back, whenever an item is selected: firmware looks at the machine.
    pub fn on_select(&mut self, f: Box<dyn Fn() + Send>) {
        self.on_select = Some(f);
    }

    fn index(&mut self) {
        let mut d = (self.files.len() as u32).to_be_bytes().to_vec();
        for (key, (name, data)) in (item::FIRST_FILE..).zip(&self.files) {
            d.extend((data.len() as u32).to_be_bytes());
            d.extend(key.to_be_bytes());
            d.extend([0; 2]);
            let end = d.len() + MAX_NAME + 1;
            d.extend(name.bytes().take(MAX_NAME));
            d.resize(end, 0);
        }
        self.directory = d;
    }

    fn select(&mut self, key: u16) {
        self.selected = key;
        self.offset = 0;
        if let Some(f) = &self.on_select {
            f();
        }
    }

    /// What is left of the selected item.
    fn rest(&self) -> &[u8] {
        let all = match self.selected {
            item::DIRECTORY => &self.directory[..],
            key => match key.checked_sub(item::FIRST_FILE).and_then(|i| self.files.get(usize::from(i))) {
                Some((_, data)) => data,
                None => self.items.iter().find(|(k, _)| *k == key).map_or(&[][..], |(_, data)| data),
            },
        };
        usize::try_from(self.offset).ok().and_then(|at| all.get(at..)).unwrap_or_default()
    }

    fn next(&mut self) -> u8 {
        let byte = self.rest().first().copied().unwrap_or(0);
        self.offset = self.offset.saturating_add(1);
        byte
    }
}

impl std::fmt::Debug for FwCfg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.files.iter().map(|(name, data)| (name, data.len()))).finish()
    }
}
