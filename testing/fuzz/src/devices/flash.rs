//! UEFI's flash.

use visor_firmware::flash::{FLASH_BLOCK, Flash, FlashStore};
use visor_memory::{Extra, Gpa, RamRange};

use crate::pc::Pc;
use crate::{Input, Script};

const BASE: u64 = 0xffc0_0000;
const LEN: u64 = 4 * FLASH_BLOCK;

/// What is kept lies in the flash.
struct Kept;

impl FlashStore for Kept {
    fn changed(&mut self, offset: u64, data: &[u8]) {
        assert!(offset + data.len() as u64 <= LEN, "{offset:#x}+{}", data.len());
    }
}

pub(super) fn run(data: &[u8]) {
    let mut pc = Pc::with_extra(Extra { len: LEN, ..Extra::default() });
    let at = pc.memory.extra();
    let flash = Flash::new(pc.memory.clone(), RamRange { start: Gpa(BASE), len: LEN }, at, Box::new(Kept));
    let flash = pc.device(flash);
    pc.at_memory(BASE, LEN, flash);
    pc.drive(&mut Input::new(data), |_, _, _| ());
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let commands =
        |all: &[(u32, u64)]| all.iter().fold(Script::new(), |s, (at, v)| s.store(0, *at, 1, *v)).load(0, 0, 4);
    vec![
        commands(&[(0, 0x40), (5, 0x12), (0, 0x70)]).end(),
        commands(&[(0x1000, 0x20), (0x1000, 0xd0), (0, 0x50), (0, 0xff)]).end(),
        commands(&[(0, 0xe8), (0, 2), (0x40, 1), (0x41, 2), (0x42, 3), (0, 0xd0)]).end(),
        commands(&[(0x3ff0, 0xe8), (0x3ff0, 0x3f), (0x3fff, 1), (0, 0xd0), (0, 0x98)]).load(0, 0x10, 8).end(),
        commands(&[(0, 0x90), (0, 0x98), (0, 0x28)]).load(0, 0x3fff, 8).end(),
    ]
}
