//! Which flags nothing reads any more when an instruction faults: those that it, or one behind it, overwrites first.
//!
//! A translator need not keep them. What the exception saves of them may be anything, and no other difference is excused.

use std::collections::BTreeMap;

use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind, RflagsBits};

use super::flags::translate;

const STATUS: u32 = RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::CF | RflagsBits::PF;

/// The dead flags before the instruction at `at` of the case; none if it is no instruction of the case.
pub(super) fn dead(instructions: &[Instruction], at: u64) -> u64 {
    let by_place: BTreeMap<u64, usize> = instructions.iter().enumerate().map(|(n, i)| (i.ip(), n)).collect();
    // From nothing is read to the least that is true everywhere, round loops as well.
    let mut live = vec![0; instructions.len()];
    loop {
        let before = live.clone();
        for (n, i) in instructions.iter().enumerate().rev() {
            let of = |place: u64| by_place.get(&place).map_or(STATUS, |n| live[*n]);
            live[n] = match i.flow_control() {
                _ if i.is_invalid() => STATUS,
                FlowControl::Next => read(i) | of(i.next_ip()) & !overwritten(i),
                FlowControl::ConditionalBranch => read(i) | of(i.next_ip()) | of(i.near_branch_target()),
                FlowControl::UnconditionalBranch => of(i.near_branch_target()),
                _ => STATUS,
            };
        }
        if live == before {
            break;
        }
    }
    by_place.get(&at).map_or(0, |n| translate(STATUS & !live[*n]).bits())
}

fn read(i: &Instruction) -> u32 {
    i.rflags_read() & STATUS
}

/// Flags that `i` writes, or leaves undefined, whatever its operands are.
fn overwritten(i: &Instruction) -> u32 {
    use Mnemonic as M;
    let rotates = matches!(i.mnemonic(), M::Rol | M::Ror | M::Rcl | M::Rcr);
    let shifts = matches!(i.mnemonic(), M::Shl | M::Sal | M::Shr | M::Sar | M::Shld | M::Shrd);
    if rotates || shifts {
        let last = i.op_count() - 1;
        if i.op_kind(last) != OpKind::Immediate8 || i.immediate8() & 31 == 0 {
            return 0;
        }
    }
    let all =
        if i.is_string_instruction() && (i.has_rep_prefix() || i.has_repne_prefix()) { 0 } else { i.rflags_modified() };
    all & if rotates { RflagsBits::CF } else { STATUS }
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions};
    use visor_x86::Rflags;

    use super::*;

    fn dead_at(code: &[u8], at: u64) -> Rflags {
        let all: Vec<_> = Decoder::with_ip(64, code, 0, DecoderOptions::NONE).iter().collect();
        Rflags::from_bits_retain(dead(&all, at))
    }

    #[test]
    fn what_is_overwritten_first_is_dead() {
        // mov eax, [rdi]; inc eax; adc eax, 0
        let code = [0x8b, 0x07, 0xff, 0xc0, 0x83, 0xd0, 0];
        assert_eq!(dead_at(&code, 0), Rflags::STATUS - Rflags::CF);
        assert_eq!(dead_at(&code, 2), Rflags::STATUS - Rflags::CF);
        // mov eax, [rdi]: nobody knows what comes then; and no instruction begins there.
        assert_eq!(dead_at(&code[..2], 0), Rflags::empty());
        assert_eq!(dead_at(&code, 1), Rflags::empty());
        // add [rdi], eax
        assert_eq!(dead_at(&[0x01, 0x07], 0), Rflags::STATUS);
        // shl dword [rdi], cl; add eax, eax
        assert_eq!(dead_at(&[0xd3, 0x27, 0x01, 0xc0], 0), Rflags::STATUS, "if the count is zero, ADD does it");
        // adc [rdi], eax
        assert_eq!(dead_at(&[0x11, 0x07], 0), Rflags::STATUS - Rflags::CF);
    }

    #[test]
    fn all_ways_on_count() {
        // mov eax, [rdi]; jrcxz +2; add eax, eax; sete al
        let code = [0x8b, 0x07, 0xe3, 2, 0x01, 0xc0, 0x0f, 0x94, 0xc0];
        assert_eq!(dead_at(&code, 0), Rflags::empty(), "what comes behind SETE is unknown");
        // mov eax, [rdi]; loop to the start; add eax, eax
        let code = [0x8b, 0x07, 0xe2, 0xfc, 0x01, 0xc0];
        assert_eq!(dead_at(&code, 0), Rflags::STATUS);
        // mov eax, [rdi]; sete dl; loop to the start; add eax, eax
        let code = [0x8b, 0x07, 0x0f, 0x94, 0xc2, 0xe2, 0xf9, 0x01, 0xc0];
        assert_eq!(dead_at(&code, 0), Rflags::STATUS - Rflags::ZF);
    }
}
