//! Flags, decimal adjustment, BMI, CRC32, random numbers, fences and instructions that do nothing.

use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use crate::decode::length::MAX_LEN;
use crate::decode::operands::Decoding;
use crate::exec::{bmi, misc};
use crate::op::Handler;

/// The handler, if the instruction belongs here.
pub(super) fn handler(d: &mut Decoding) -> Option<Handler> {
    use Mnemonic::*;
    Some(match d.ins.mnemonic() {
        INVALID if d.ins.len() > MAX_LEN => {
            d.ends = true;
            misc::too_long
        }
        // The register forms of PREFETCHW's opcode.
        Reservednop if is_0f0d(d.ins.code()) && !d.is_memory(0) => return None,
        Nop if is_pause(d.ins) => misc::pause,
        Nop | Reservednop | Endbr32 | Endbr64 | Rdsspd | Rdsspq | Pause | Cldemote | Prefetch | Prefetchw
        | Prefetchwt1 | Prefetchnta | Prefetcht0 | Prefetcht1 | Prefetcht2 | Prefetchit0 | Prefetchit1 | Sfence => {
            misc::nop
        }
        Lfence => misc::lfence,
        Mfence => misc::mfence,
        Clflush | Clflushopt | Clwb => misc::clflush,
        Clc => misc::clc,
        Stc => misc::stc,
        Cmc => misc::cmc,
        Cld => misc::cld,
        Std => misc::std,
        Lahf => misc::lahf,
        Sahf => misc::sahf,
        Salc => misc::salc,
        Daa => misc::daa,
        Das => misc::das,
        Aaa => misc::aaa,
        Aas => misc::aas,
        Aam => misc::aam,
        Aad => misc::aad,
        Bound if d.size == 2 => misc::bound::<u16>,
        Bound => misc::bound::<u32>,
        Crc32 => return crc32(d),
        Rdrand if std::is_x86_feature_detected!("rdrand") => return wide!(d.size, misc::rdrand),
        Rdseed if std::is_x86_feature_detected!("rdseed") => return wide!(d.size, misc::rdseed),
        _ => return bit_manipulation(d),
    })
}

/// PAUSE: F3 90, which the decoder is asked to take for a NOP.
pub(crate) fn is_pause(ins: &Instruction) -> bool {
    ins.mnemonic() == Mnemonic::Nop && ins.op_count() == 0 && ins.has_rep_prefix()
}

fn is_0f0d(code: Code) -> bool {
    matches!(code, Code::Reservednop_rm16_r16_0F0D | Code::Reservednop_rm32_r32_0F0D | Code::Reservednop_rm64_r64_0F0D)
}

fn crc32(d: &mut Decoding) -> Option<Handler> {
    if !std::is_x86_feature_detected!("sse4.2") {
        return None;
    }
    // The destination counts as 32 bits wide: the upper half of a 64-bit one is cleared.
    if d.is_memory(1) { sized!(d.size_of(1), misc::crc32_rm) } else { sized!(d.size_of(1), misc::crc32_rr) }
}

fn bit_manipulation(d: &mut Decoding) -> Option<Handler> {
    use Mnemonic::*;
    let m = d.ins.mnemonic();
    let present = match m {
        Andn | Bextr | Blsi | Blsmsk | Blsr => std::is_x86_feature_detected!("bmi1"),
        Bzhi | Mulx | Pdep | Pext | Rorx | Sarx | Shlx | Shrx => std::is_x86_feature_detected!("bmi2"),
        _ => false,
    };
    // VEX prefixes do not exist in real and virtual-8086 mode (SDM 2A §2.3.1).
    if !present || !d.mode.protected {
        return None;
    }
    match m {
        Andn => three::<bmi::Andn>(d),
        Bextr => three::<bmi::Bextr>(d),
        Bzhi => three::<bmi::Bzhi>(d),
        Pdep => three::<bmi::Pdep>(d),
        Pext => three::<bmi::Pext>(d),
        Sarx => three::<bmi::Sarx>(d),
        Shlx => three::<bmi::Shlx>(d),
        Shrx => three::<bmi::Shrx>(d),
        Rorx => three::<bmi::Rorx>(d),
        Blsi => two::<bmi::Blsi>(d),
        Blsmsk => two::<bmi::Blsmsk>(d),
        Blsr => two::<bmi::Blsr>(d),
        Mulx if d.is_memory(2) => double!(d.size, bmi::mulx_m),
        Mulx => double!(d.size, bmi::mulx_r),
        _ => None,
    }
}

/// Destination and two sources; at most one source is memory, the last may be an immediate.
fn three<O: bmi::Three>(d: &Decoding) -> Option<Handler> {
    let immediate = d.ins.op2_kind() == OpKind::Immediate8;
    match (d.is_memory(1), d.is_memory(2), immediate) {
        (false, false, false) => double!(d.size, bmi::rrr, <O>),
        (true, _, false) => double!(d.size, bmi::rmr, <O>),
        (_, true, _) => double!(d.size, bmi::rrm, <O>),
        (false, false, true) => double!(d.size, bmi::rri, <O>),
        (true, false, true) => double!(d.size, bmi::rmi, <O>),
    }
}

/// Destination and one source.
fn two<O: bmi::Two>(d: &Decoding) -> Option<Handler> {
    if d.is_memory(1) { double!(d.size, bmi::rm, <O>) } else { double!(d.size, bmi::rr, <O>) }
}
