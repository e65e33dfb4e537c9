//! Bytes that no assembler would emit: random opcodes in every map, redundant prefixes, flipped bits, instructions of more than
//! 15 bytes and ones cut off by an unmapped page.

use super::draft::Draft;
use super::values;
use crate::case::Mode;
use crate::layout::{CODE, CODE_LEN, DATA};

const LEGACY_PREFIXES: [u8; 11] = [0x66, 0xf2, 0xf3, 0xf0, 0x67, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65];

/// A random opcode with prefixes, ModRM and operand bytes.
pub(super) fn random(draft: &mut Draft) -> Vec<u8> {
    point_registers_at_data(draft);
    let long = draft.mode == Mode::Long;
    let rng = &mut draft.rng;
    let mut bytes = Vec::new();
    while rng.chance(30) && bytes.len() < 4 {
        bytes.push(rng.pick(&LEGACY_PREFIXES));
    }
    if long && rng.chance(40) {
        bytes.push(0x40 | rng.u32() as u8 & 0xf);
    }
    match rng.below(12) {
        0..=3 => {}
        4..=6 => bytes.push(0x0f),
        7 => bytes.extend([0x0f, 0x38]),
        8 => bytes.extend([0x0f, 0x3a]),
        9 => bytes.extend([0xc5, rng.u32() as u8]),
        _ => bytes.extend([0xc4, rng.u32() as u8 & 0xe0 | rng.pick(&[1, 2, 3]), rng.u32() as u8 & 0xfb]),
    }
    bytes.push(rng.u32() as u8);
    bytes.push(rng.u32() as u8);
    if rng.chance(50) {
        bytes.push(rng.u32() as u8);
    }
    let disp = if rng.chance(60) { rng.below(0x400) as u32 } else { rng.u32() };
    bytes.extend(disp.to_le_bytes());
    bytes.extend(rng.u32().to_le_bytes());
    bytes
}

fn point_registers_at_data(draft: &mut Draft) {
    for gpr in 0..draft.register_count() as usize {
        if gpr != 4 && draft.rng.chance(60) {
            let at = DATA + draft.rng.below(0x1800);
            draft.pin(gpr, if gpr == 1 { at & 0x1f } else { at });
        }
    }
}

/// Spoils a valid instruction: prefixes in front, a flipped bit, or a replaced byte.
pub(super) fn mutate(draft: &mut Draft, bytes: &mut Vec<u8>) {
    let rng = &mut draft.rng;
    match rng.below(6) {
        0 | 1 => bytes.insert(0, rng.pick(&LEGACY_PREFIXES)),
        2 if draft.mode == Mode::Long => {
            // Also before other prefixes, where REX has no effect.
            let at = if rng.chance(50) { 0 } else { super::policy::prefixes(bytes, true).len() };
            bytes.insert(at, 0x40 | rng.u32() as u8 & 0xf);
        }
        3 => {
            let at = rng.below(bytes.len() as u64) as usize;
            bytes[at] = rng.u32() as u8;
        }
        4 => {
            for _ in 0..1 + rng.below(3) {
                bytes.insert(0, rng.pick(&LEGACY_PREFIXES));
            }
        }
        _ => {
            let at = rng.below(bytes.len().min(4) as u64) as usize;
            bytes[at] ^= 1 << rng.below(8);
        }
    }
}

/// Pads with prefixes to 14, 15 or 16 bytes: the limit is 15 (SDM 2 §2.3.11).
pub(super) fn pad(draft: &mut Draft, bytes: &mut Vec<u8>) {
    let length = 14 + draft.rng.below(3) as usize;
    let prefix = draft.rng.pick(&[0x2e, 0x3e, 0x26, 0x36, 0x66]);
    while bytes.len() < length {
        bytes.insert(0, prefix);
    }
}

/// Moves the code to the end of its pages, so that its last bytes, or what follows them, are not mapped; or so that it
/// crosses from one page to the other.
pub(super) fn place_at_edge(draft: &mut Draft, bytes: &mut Vec<u8>) {
    let edge = if draft.rng.chance(60) { CODE + CODE_LEN } else { CODE + CODE_LEN / 2 };
    let before = draft.rng.below(bytes.len() as u64 + 1).max(1);
    draft.case.regs.rip = edge - before;
    if edge == CODE + CODE_LEN {
        bytes.truncate(before as usize);
    }
}

/// Registers that help raw bytes to do something besides faulting.
pub(super) fn calm(draft: &mut Draft) {
    let v = values::integer(&mut draft.rng, 5);
    draft.pin(1, v);
}
