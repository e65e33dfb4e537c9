//! A standard VGA with the Bochs display extensions (PCI 1234:1111), its picture, and the text in it.
//!
//! [`Vga`] is the adapter: ports, the window at A0000h and a PCI function with the linear frame buffer. Its memory is device
//! memory that the guest uses like RAM. [`Screen`] is what the monitor would show, as a [`visor_console::Display`]: when somebody
//! asks, it looks which pages of the memory were written since and renders those rows; nobody asking costs nothing.
//!
//! | part | where | specification |
//! |---|---|---|
//! | VGA registers | 3B4h, 3BAh, 3C0h–3CFh, 3D4h, 3DAh; BAR 2 + 400h | IBM VGA technical reference; FreeVGA |
//! | Bochs extensions | 1CEh–1D1h; BAR 2 + 500h | "VBE display interface" of Bochs' VGA BIOS |
//! | legacy window | A0000h–BFFFFh | as the VGA registers |
//! | linear frame buffer | BAR 0 | |
//! | EDID | BAR 2 | VESA E-EDID 1.4 |
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod image;
mod scan;
mod screen;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod text;
mod vga;

pub use image::png;
pub use screen::Screen;
pub use text::console_text;
pub use vga::{LEGACY_WINDOW, LEGACY_WINDOW_LEN, Vga, VgaWires};
