//! Expansion ROM images (PCI 3.0 §6.3): a chain of images, each for one kind of machine, that name the functions they are for.
//!
//! ```text
//! image   00 55 AA   02 size in 512 bytes (PC)   06 the usual place of the checksum's balance   18 offset of the data structure
//! data    00 "PCIR"  04 vendor  06 device  10 size in 512 bytes  14 code type: 0 PC, 3 EFI  15 bit 7: the last image
//! ```

use std::sync::Arc;

/// Images looked at: a chain that is longer is not one.
const MOST: usize = 16;
/// Code type of images for a PC's BIOS, which checks that their bytes add up to zero.
const PC: u8 = 0;
/// Where such images keep the byte that makes them add up.
const BALANCE: usize = 6;

/// The expansion ROM `image`, as one of function `vendor`:`device`.
///
/// Firmware executes only images that name the function, while the same driver serves several: iPXE's for virtio names the transitional
/// device, for example. `None` if it is no expansion ROM.
pub fn rom_for(image: &[u8], vendor: u16, device: u16) -> Option<Arc<[u8]>> {
    let mut rom = image.to_vec();
    let mut at = 0;
    for _ in 0..MOST {
        let part = rom.get_mut(at..)?;
        if part.get(..2)? != [0x55, 0xaa] {
            return None;
        }
        let data = usize::from(word(part, 0x18)?);
        if part.get(data..data + 4)? != b"PCIR" {
            return None;
        }
        let len = usize::from(word(part, data + 0x10)?) * 512;
        let (kind, flags) = (*part.get(data + 0x14)?, *part.get(data + 0x15)?);
        let ids = [vendor.to_le_bytes(), device.to_le_bytes()].concat();
        let before = sum(part.get(data + 4..data + 8)?);
        part.get_mut(data + 4..data + 8)?.copy_from_slice(&ids);
        if kind == PC {
            let balance = part.get_mut(BALANCE)?;
            *balance = balance.wrapping_add(before).wrapping_sub(sum(&ids));
        }
        if flags & 0x80 != 0 {
            return Some(rom.into());
        }
        at += len.max(512);
    }
    None
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, b| sum.wrapping_add(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One image of 512 bytes that adds up to zero.
    fn image(kind: u8, last: bool) -> Vec<u8> {
        let mut i = vec![0; 512];
        i[..3].copy_from_slice(&[0x55, 0xaa, 1]);
        i[0x18] = 0x40;
        i[0x40..0x48].copy_from_slice(b"PCIR\xf4\x1a\x00\x10");
        i[0x50] = 1;
        i[0x54] = kind;
        i[0x55] = if last { 0x80 } else { 0 };
        i[BALANCE] = 0u8.wrapping_sub(sum(&i));
        i
    }

    #[test]
    fn all_images_name_the_function_and_still_add_up() {
        let rom = rom_for(&[image(0, false), image(3, true)].concat(), 0x1af4, 0x1041).unwrap();
        for at in [0, 512] {
            assert_eq!(rom[at + 0x44..at + 0x48], [0xf4, 0x1a, 0x41, 0x10]);
        }
        assert_eq!(sum(&rom[..512]), 0);
    }

    #[test]
    fn what_is_no_rom_is_refused() {
        assert!(rom_for(&[], 1, 2).is_none());
        assert!(rom_for(&[0x55, 0xaa, 1], 1, 2).is_none());
        assert!(rom_for(&[0; 512], 1, 2).is_none());
        assert!(rom_for(&image(0, false), 1, 2).is_none(), "the last image is missing");
        let mut endless = image(3, false);
        endless[0x50] = 0;
        assert!(rom_for(&endless.repeat(64), 1, 2).is_none());
        let mut wild = image(0, true);
        wild[0x18..0x1a].fill(0xff);
        assert!(rom_for(&wild, 1, 2).is_none());
    }
}
