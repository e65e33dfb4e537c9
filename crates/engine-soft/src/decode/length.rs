//! Instructions of more than 15 bytes, which raise #GP rather than the #UD of those that do not exist (SDM 2A §2.3.11).

use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction};

/// Longest x86 instruction, in bytes.
pub(crate) const MAX_LEN: usize = 15;

/// If `ins`, decoded from the start of `window` in code of `bits` bits, is invalid because it has more than [`MAX_LEN`] bytes,
/// gives it that length, by which the decoder of operands knows.
pub(crate) fn mark_too_long(ins: &mut Instruction, window: &[u8; MAX_LEN], bits: u32) {
    if !ins.is_invalid() || (bits == 64 && rex_before_vex(window)) {
        return;
    }
    let window = &with_mov_for_group_11(window, bits);
    let like = Decoder::new(bits, window, DecoderOptions::NONE).decode();
    let over = (like.len() == MAX_LEN && longer_by_length(window, bits)) || longer_without_mandatory(window, bits);
    if like.is_invalid() && over {
        ins.set_len(MAX_LEN + 1);
    }
}

/// The decoder has used all bytes. Without one prefix that means nothing, 14 bytes suffice for a bad instruction of 15, but
/// not for one of 16.
fn longer_by_length(window: &[u8; MAX_LEN], bits: u32) -> bool {
    let prefixes = prefixes(window);
    let idle = |i: usize| {
        matches!(window[i], 0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0xf0)
            || window[i + 1..prefixes].contains(&window[i])
    };
    let repeat = |i: usize| matches!(window[i], 0xf2 | 0xf3);
    // An instruction cannot be that long without such a prefix.
    let drop = (0..prefixes).find(|&i| idle(i)).or_else(|| (0..prefixes).find(|&i| repeat(i)));
    let Some(drop) = drop else { return true };
    let rest = [&window[..drop], &window[drop + 1..]].concat();
    length(&rest, bits) == Length::Beyond
}

/// The opcode is bad with the mandatory prefixes it has. Processors find its length all the same, first.
fn longer_without_mandatory(window: &[u8; MAX_LEN], bits: u32) -> bool {
    let prefixes = prefixes(window);
    // Bad for LOCK alone: 66 then has its plain meaning, which decides about the size of an immediate.
    let lock = |b: &&u8| **b == 0xf0;
    if window[..prefixes].iter().any(|b| lock(&b)) {
        let mut unlocked: Vec<u8> = window[..prefixes].iter().filter(|b| !lock(b)).copied().collect();
        unlocked.extend_from_slice(&window[prefixes..]);
        if !Decoder::new(bits, &unlocked, DecoderOptions::NONE).decode().is_invalid() {
            return false;
        }
    }
    let mandatory = |b: &u8| matches!(b, 0x66 | 0xf0 | 0xf2 | 0xf3);
    let mut plain: Vec<u8> = window[..prefixes].iter().filter(|b| !mandatory(b)).copied().collect();
    plain.extend_from_slice(&window[prefixes..]);
    let dropped = MAX_LEN - plain.len();
    // Some opcodes exist with 66 only.
    let operand_size: &[u8] = &[0x66];
    dropped > 0
        && (length(&plain, bits) == Length::Beyond
            || dropped > 1 && length(&[operand_size, &plain].concat(), bits) == Length::Beyond)
}

/// C4h or C5h behind REX is no VEX prefix but the opcode of LES or LDS, which 64-bit code does not have: nothing behind it counts.
fn rex_before_vex(window: &[u8; MAX_LEN]) -> bool {
    let behind = &window[prefixes(window)..];
    let rex = rex_prefixes(behind);
    rex > 0 && matches!(behind.get(rex), Some(0xc4 | 0xc5))
}

/// Number of REX prefixes at the start; all but the last one mean nothing.
fn rex_prefixes(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|b| matches!(b, 0x40..=0x4f)).count()
}

/// Number of legacy prefixes.
fn prefixes(window: &[u8; MAX_LEN]) -> usize {
    let is_prefix = |b: &u8| matches!(b, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3);
    window.iter().position(|b| !is_prefix(b)).unwrap_or(MAX_LEN)
}

#[derive(PartialEq)]
enum Length {
    /// It ends within the bytes, be it valid or not.
    Within,
    /// It needs more bytes.
    Beyond,
}

fn length(bytes: &[u8], bits: u32) -> Length {
    let mut decoder = Decoder::new(bits, bytes, DecoderOptions::NONE);
    let _ = decoder.decode();
    if decoder.last_error() == DecoderError::NoMoreBytes { Length::Beyond } else { Length::Within }
}

/// Of opcodes C6h and C7h only /0, MOV, exists (SDM 2D table A-6, group 11), but all are as long as MOV.
fn with_mov_for_group_11(window: &[u8; MAX_LEN], bits: u32) -> [u8; MAX_LEN] {
    let mut window = *window;
    let prefixes = prefixes(&window);
    let opcode = prefixes + if bits == 64 { rex_prefixes(&window[prefixes..]) } else { 0 };
    if let Some([0xc6 | 0xc7, modrm]) = window.get_mut(opcode..opcode + 2) {
        *modrm &= !0x38;
    }
    window
}

#[cfg(test)]
mod tests {
    use super::*;

    fn too_long(bytes: &[u8]) -> bool {
        let mut window = [0x90; MAX_LEN];
        window[..bytes.len().min(MAX_LEN)].copy_from_slice(&bytes[..bytes.len().min(MAX_LEN)]);
        let mut ins = Decoder::new(64, &window, DecoderOptions::NONE).decode();
        mark_too_long(&mut ins, &window, 64);
        ins.len() > MAX_LEN
    }

    #[test]
    fn only_length_makes_instructions_too_long() {
        let nops = |n: usize| [vec![0x66; n], vec![0x90]].concat();
        assert!(!too_long(&nops(14)) && too_long(&nops(15)) && too_long(&nops(20)));
        // VEX after 66 is #UD, at 15 bytes as at any length.
        let vex = |n: usize| [vec![0x66; n], vec![0xc4, 0x63, 0xf1, 0x79, 0xe0, 0x40]].concat();
        assert!(!too_long(&vex(8)) && !too_long(&vex(9)) && too_long(&vex(10)));
        // VEX after REX is #UD whatever follows.
        let rex = |n: usize| [vec![0x64; n], vec![0x42, 0xc4, 3, 0xb1, 0x14, 0x94, 0xf4, 1, 2, 3, 4, 5]].concat();
        assert!(!too_long(&rex(3)) && !too_long(&rex(4)));
        // 66 0F C3 does not exist, but has a ModRM byte and a displacement.
        let movnti = |n: usize| [vec![0x66; n], vec![0x48, 0x0f, 0xc3, 0x34, 0x25, 0xf1, 0x15, 0, 0x20]].concat();
        assert!(!too_long(&movnti(6)) && too_long(&movnti(7)));
        // 66 0F 3A CC does not exist either, but has an immediate.
        let sha = |n: usize| [vec![0x66; n], vec![0x0f, 0x3a, 0xcc, 0xee, 0x3e]].concat();
        assert!(!too_long(&sha(10)) && too_long(&sha(11)));
        // TEST with LOCK, 15 bytes.
        assert!(!too_long(&[0xf0, 0x66, 0xf3, 0x49, 0xf7, 0x8c, 0xd7, 1, 2, 3, 4, 5, 6, 7, 8]));
        // CMP and IMUL with LOCK and a 16-bit immediate, 14 bytes.
        assert!(!too_long(&[0xf0, 0x65, 0x66, 0x67, 0x41, 0x81, 0xbc, 0x80, 1, 2, 3, 4, 5, 6]));
        assert!(!too_long(&[0x36, 0x36, 0xf0, 0x66, 0x44, 0x69, 4, 0xdd, 0x48, 2, 0, 0x20, 0, 0x80]));
        // C7 /6 does not exist, but has the immediate of C7 /0.
        let group_11 = |n: usize| [vec![0x64; n], vec![0xc7, 0xb4, 0x88, 1, 2, 3, 4, 5, 6, 7, 8]].concat();
        assert!(!too_long(&group_11(0)) && !too_long(&group_11(4)) && too_long(&group_11(5)));
        assert!(too_long(&[0x2e, 0xf3, 0x65, 0x64, 0x26, 0xc7, 0xb4, 0x88, 0xc7, 0xa5, 0x4c, 0x43, 0xe0, 0x98, 0x90]));
        let rex = |n: usize| [vec![0x65; n], vec![0x46, 0x48, 0xc7, 0xa8, 1, 2, 3, 4, 5, 6, 7, 8]].concat();
        assert!(!too_long(&rex(3)) && too_long(&rex(4)));
        assert!(!too_long(&[0x0f, 0x0b]) && !too_long(&[0x06]));
    }
}
