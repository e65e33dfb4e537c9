//! The machine's screen: the VGA among the parts, and the frame buffer as a directly booted Linux is told of it.

use std::sync::Arc;

use visor_console::{Display, Picture};
use visor_display::{Vga, VgaWires};
use visor_engine::GuestMemory;
use visor_pci::PciAddress;
use visor_virtio::input::Tablet;
use vm_memory::{Bytes, GuestAddress};

use crate::board::Board;
use crate::error::{MachineError, MachineErrorKind};
use crate::loader::read;
use crate::machine::Machine;

/// Display memory in bytes.
pub(crate) const VIDEO_MEMORY: u64 = 16 << 20;
/// Where the VGA sits on the bus.
const SLOT: PciAddress = PciAddress::device(2);
/// The picture of a machine that boots a kernel without firmware.
const SIZE: (u16, u16) = (1024, 768);

/// The part of the table.
pub(crate) fn vga(b: &mut Board<'_>) -> Result<(), MachineError> {
    let memory = b.memory.take_device_memory(VIDEO_MEMORY);
    let memory = memory.map_err(|e| MachineError::because(MachineErrorKind::Board, "no display memory", e))?;
    let vga = Vga::new(VgaWires { memory, vm: b.vm.clone(), clock: b.clock.clone() });
    vga.claim(&b.pio, &b.mmio)?;
    let rom = b.config.video_bios.as_ref().map(|rom| read(rom, "video BIOS")).transpose()?;
    rom.iter().for_each(|rom| _ = vga.learn_font(rom));
    b.function(SLOT, vga.function(rom)?)?;
    b.built.screen = Some(Arc::new(vga.screen()));
    b.built.vga = Some(vga);
    Ok(())
}

/// The pointer that goes with the screen.
pub(crate) fn tablet(b: &mut Board<'_>) -> Result<(), MachineError> {
    let (device, handle) = Tablet::new();
    b.built.tablet = Some(handle);
    b.virtio(device)?;
    Ok(())
}

/// Sets the frame buffer up as a boot loader does, and describes it in the `boot_params` at `params`
/// (`struct screen_info`, Documentation/arch/x86/zero-page.rst).
pub(crate) fn tell_linux(vga: &Vga, memory: &GuestMemory, params: u64) {
    let Some(base) = vga.frame_buffer() else { return };
    let (width, height) = vga.set_linear(SIZE.0, SIZE.1);
    let mut info = [0u8; 0x40];
    let mut put = |at: usize, bytes: &[u8]| info[at..at + bytes.len()].copy_from_slice(bytes);
    // The frame buffer of no particular adapter: every distribution's kernel drives this kind.
    put(0x0f, &[0x70]);
    put(0x12, &(width as u16).to_le_bytes());
    put(0x14, &(height as u16).to_le_bytes());
    put(0x16, &32u16.to_le_bytes());
    put(0x18, &(base as u32).to_le_bytes());
    put(0x1c, &(width * height * 4).to_le_bytes());
    put(0x24, &((width * 4) as u16).to_le_bytes());
    // Size and position of red, green, blue and the rest.
    put(0x26, &[8, 16, 8, 8, 8, 0, 8, 24]);
    put(0x32, &1u16.to_le_bytes());
    if memory.view().write_slice(&info, GuestAddress(params)).is_err() {
        tracing::warn!("the kernel's boot parameters are not in RAM; it is not told of the screen");
    }
}

impl Machine {
    /// The screen, if the machine has one.
    pub fn screen(&self) -> Option<Arc<dyn Display>> {
        self.built.screen.clone().map(|s| s as Arc<dyn Display>)
    }

    /// What the screen shows now.
    pub fn screenshot(&self) -> Option<Picture> {
        self.built.screen.as_ref().map(|s| s.picture())
    }
}
