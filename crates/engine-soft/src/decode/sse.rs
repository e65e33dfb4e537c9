//! Vector instructions with handlers of their own; the rest goes through the floating-point unit.

use iced_x86::{Mnemonic, OpKind};

use crate::decode::operands::Decoding;
use crate::exec::sse;
use crate::op::Handler;

/// The handler, if there is one.
pub(super) fn handler(d: &mut Decoding) -> Option<Handler> {
    use Mnemonic::*;
    let m = d.ins.mnemonic();
    let vector = (0..d.ins.op_count()).any(|i| d.ins.op_register(i).is_vector_register());
    if !vector && m != Vzeroupper {
        return None;
    }
    let vex = d.ins.encoding() == iced_x86::EncodingKind::VEX;
    // VEX prefixes do not exist in real and virtual-8086 mode; the operations are done with SSE2, but the guest may use them
    // only where the host has them.
    if vex && !(d.mode.protected && std::is_x86_feature_detected!("avx2")) {
        return None;
    }
    let saved = (d.op.r0, d.op.r1, d.op.r2);
    lay_out(d);
    let handler = if vex { vex_handler(d) } else { moves(d).or_else(|| integer(d)) };
    if handler.is_none() {
        (d.op.r0, d.op.r1, d.op.r2) = saved;
    }
    handler
}

/// All register operands in order, vector registers as offsets into the XMM array.
fn lay_out(d: &mut Decoding) {
    let mut registers = [0; 3];
    let mut n = 0;
    for i in 0..d.ins.op_count() {
        if d.ins.op_kind(i) == OpKind::Register && n < 3 {
            let r = d.ins.op_register(i);
            registers[n] =
                if r.is_vector_register() { r.number() as u8 * 16 } else { super::operands::gpr(r).unwrap_or(0) };
            n += 1;
        }
    }
    [d.op.r0, d.op.r1, d.op.r2] = registers;
}

/// Where the operands of a two-operand move are.
enum Shape {
    /// Vector registers both.
    RR,
    /// Load.
    RM,
    /// Store.
    MR,
    /// From a general register.
    FromGpr,
    /// To a general register.
    ToGpr,
    /// Anything else.
    Other,
}

fn shape(d: &Decoding) -> Shape {
    let vector = |i: u32| d.ins.op_kind(i) == OpKind::Register && d.ins.op_register(i).is_vector_register();
    let gpr = |i: u32| d.ins.op_kind(i) == OpKind::Register && d.ins.op_register(i).is_gpr();
    if d.ins.op_count() != 2 {
        return Shape::Other;
    }
    match () {
        () if vector(0) && vector(1) => Shape::RR,
        () if vector(0) && d.is_memory(1) => Shape::RM,
        () if d.is_memory(0) && vector(1) => Shape::MR,
        () if vector(0) && gpr(1) => Shape::FromGpr,
        () if gpr(0) && vector(1) => Shape::ToGpr,
        () => Shape::Other,
    }
}

fn moves(d: &Decoding) -> Option<Handler> {
    use Mnemonic::*;
    Some(match (d.ins.mnemonic(), shape(d)) {
        (Movaps | Movapd | Movdqa | Movups | Movupd | Movdqu, Shape::RR) => sse::mov_rr::<false, false>,
        (Movaps | Movapd | Movdqa, Shape::RM) => sse::mov_rm::<false, false, true>,
        (Movups | Movupd | Movdqu | Lddqu, Shape::RM) => sse::mov_rm::<false, false, false>,
        (Movaps | Movapd | Movdqa | Movntps | Movntpd | Movntdq, Shape::MR) => sse::mov_mr::<false, false, true>,
        (Movups | Movupd | Movdqu, Shape::MR) => sse::mov_mr::<false, false, false>,
        (Movss | Movd, Shape::RM) => sse::scalar_rm::<u32, false>,
        (Movsd | Movq, Shape::RM) => sse::scalar_rm::<u64, false>,
        (Movss | Movd, Shape::MR) => sse::scalar_mr::<u32, false>,
        (Movsd | Movq | Movlps | Movlpd, Shape::MR) => sse::scalar_mr::<u64, false>,
        (Movss, Shape::RR) => sse::scalar_rr::<u32>,
        (Movsd, Shape::RR) => sse::scalar_rr::<u64>,
        (Movq, Shape::RR) => sse::movq_rr::<false>,
        (Movd, Shape::FromGpr) => sse::from_gpr::<u32, false>,
        (Movq, Shape::FromGpr) => sse::from_gpr::<u64, false>,
        (Movd, Shape::ToGpr) => sse::to_gpr::<u32, false>,
        (Movq, Shape::ToGpr) => sse::to_gpr::<u64, false>,
        (Movlps | Movlpd, Shape::RM) => sse::half_rm::<false>,
        (Movhps | Movhpd, Shape::RM) => sse::half_rm::<true>,
        (Movhps | Movhpd, Shape::MR) => sse::high_mr::<false>,
        (Pmovmskb, Shape::ToGpr) => sse::pmovmskb::<false, false>,
        (Pshufd, _) if !d.is_memory(1) => sse::pshufd::<false>,
        (Pslldq, _) => sse::byte_shift::<false>,
        (Psrldq, _) => sse::byte_shift::<true>,
        _ => return None,
    })
}

/// `lanes!(kind, Operation)` for a legacy or VEX encoding.
macro_rules! table {
    ($m:expr, $pick:ident, $d:expr, $($legacy:ident $(| $also:ident)* => $op:ident),* $(,)?) => {
        match $m {
            $(Mnemonic::$legacy $(| Mnemonic::$also)* => $pick::<sse::$op>($d),)*
            _ => None,
        }
    };
}

fn legacy<O: sse::Lanes>(d: &Decoding) -> Option<Handler> {
    match shape(d) {
        Shape::RR => Some(sse::lanes_rr::<O>),
        Shape::RM => Some(sse::lanes_rm::<O>),
        _ => None,
    }
}

fn integer(d: &Decoding) -> Option<Handler> {
    // MMX forms have the same mnemonics, but no vector registers.
    table!(d.ins.mnemonic(), legacy, d,
        Pxor | Xorps | Xorpd => Pxor, Por | Orps | Orpd => Por, Pand | Andps | Andpd => Pand,
        Pandn | Andnps | Andnpd => Pandn,
        Paddb => Paddb, Paddw => Paddw, Paddd => Paddd, Paddq => Paddq,
        Psubb => Psubb, Psubw => Psubw, Psubd => Psubd, Psubq => Psubq,
        Pcmpeqb => Pcmpeqb, Pcmpeqw => Pcmpeqw, Pcmpeqd => Pcmpeqd,
        Pcmpgtb => Pcmpgtb, Pcmpgtw => Pcmpgtw, Pcmpgtd => Pcmpgtd,
        Pminub => Pminub, Pmaxub => Pmaxub, Pmuludq => Pmuludq,
        Punpcklbw => Punpcklbw, Punpcklwd => Punpcklwd, Punpckldq | Unpcklps => Punpckldq,
        Punpcklqdq | Unpcklpd | Movlhps => Punpcklqdq,
        Punpckhbw => Punpckhbw, Punpckhwd => Punpckhwd, Punpckhdq | Unpckhps => Punpckhdq,
        Punpckhqdq | Unpckhpd => Punpckhqdq,
    )
}

fn vex<O: sse::Lanes>(d: &Decoding) -> Option<Handler> {
    let memory = d.is_memory(2);
    let register = !memory && d.ins.op2_register().is_vector_register();
    match (memory, register, wide(d)) {
        (true, _, false) => Some(sse::lanes_rrm::<O, false>),
        (true, _, true) => Some(sse::lanes_rrm::<O, true>),
        (_, true, false) => Some(sse::lanes_rrr::<O, false>),
        (_, true, true) => Some(sse::lanes_rrr::<O, true>),
        _ => None,
    }
}

/// Any operand is a YMM register.
fn wide(d: &Decoding) -> bool {
    (0..d.ins.op_count()).any(|i| d.ins.op_register(i).is_ymm())
}

fn vex_handler(d: &Decoding) -> Option<Handler> {
    vex_moves(d).or_else(|| {
        table!(d.ins.mnemonic(), vex, d,
            Vpxor | Vxorps | Vxorpd => Pxor, Vpor | Vorps | Vorpd => Por, Vpand | Vandps | Vandpd => Pand,
            Vpandn | Vandnps | Vandnpd => Pandn,
            Vpaddb => Paddb, Vpaddw => Paddw, Vpaddd => Paddd, Vpaddq => Paddq,
            Vpsubb => Psubb, Vpsubw => Psubw, Vpsubd => Psubd, Vpsubq => Psubq,
            Vpcmpeqb => Pcmpeqb, Vpcmpeqw => Pcmpeqw, Vpcmpeqd => Pcmpeqd,
            Vpcmpgtb => Pcmpgtb, Vpcmpgtw => Pcmpgtw, Vpcmpgtd => Pcmpgtd,
            Vpminub => Pminub, Vpmaxub => Pmaxub, Vpmuludq => Pmuludq,
            Vpunpcklbw => Punpcklbw, Vpunpcklwd => Punpcklwd, Vpunpckldq => Punpckldq, Vpunpcklqdq => Punpcklqdq,
            Vpunpckhbw => Punpckhbw, Vpunpckhwd => Punpckhwd, Vpunpckhdq => Punpckhdq, Vpunpckhqdq => Punpckhqdq,
        )
    })
}

fn vex_moves(d: &Decoding) -> Option<Handler> {
    use Mnemonic::*;
    /// The instance for 128 or 256 bits.
    macro_rules! by_width {
        ($f:ident $(, $c:literal)*) => {
            if wide(d) { sse::$f::<true, true $(, $c)*> as Handler } else { sse::$f::<true, false $(, $c)*> as Handler }
        };
    }
    macro_rules! broadcast {
        ($t:ty) => {
            if wide(d) { sse::broadcast::<$t, true> as Handler } else { sse::broadcast::<$t, false> as Handler }
        };
    }
    Some(match (d.ins.mnemonic(), shape(d)) {
        (Vmovaps | Vmovapd | Vmovdqa | Vmovups | Vmovupd | Vmovdqu, Shape::RR) => by_width!(mov_rr),
        (Vmovaps | Vmovapd | Vmovdqa, Shape::RM) => by_width!(mov_rm, true),
        (Vmovups | Vmovupd | Vmovdqu | Vlddqu, Shape::RM) => by_width!(mov_rm, false),
        (Vmovaps | Vmovapd | Vmovdqa | Vmovntps | Vmovntpd | Vmovntdq, Shape::MR) => by_width!(mov_mr, true),
        (Vmovups | Vmovupd | Vmovdqu, Shape::MR) => by_width!(mov_mr, false),
        (Vmovss | Vmovd, Shape::RM) => sse::scalar_rm::<u32, true>,
        (Vmovsd | Vmovq, Shape::RM) => sse::scalar_rm::<u64, true>,
        (Vmovss | Vmovd, Shape::MR) => sse::scalar_mr::<u32, true>,
        (Vmovsd | Vmovq | Vmovlps | Vmovlpd, Shape::MR) => sse::scalar_mr::<u64, true>,
        (Vmovhps | Vmovhpd, Shape::MR) => sse::high_mr::<true>,
        (Vmovq, Shape::RR) => sse::movq_rr::<true>,
        (Vmovd, Shape::FromGpr) => sse::from_gpr::<u32, true>,
        (Vmovq, Shape::FromGpr) => sse::from_gpr::<u64, true>,
        (Vmovd, Shape::ToGpr) => sse::to_gpr::<u32, true>,
        (Vmovq, Shape::ToGpr) => sse::to_gpr::<u64, true>,
        (Vpmovmskb, Shape::ToGpr) => by_width!(pmovmskb),
        (Vpbroadcastb, Shape::RR) => broadcast!(u8),
        (Vpbroadcastw, Shape::RR) => broadcast!(u16),
        (Vpbroadcastd, Shape::RR) => broadcast!(u32),
        (Vpbroadcastq, Shape::RR) => broadcast!(u64),
        (Vpshufd, _) if !wide(d) && !d.is_memory(1) => sse::pshufd::<true>,
        (Vzeroupper, _) => sse::vzeroupper,
        _ => return None,
    })
}
