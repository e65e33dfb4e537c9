//! String instructions, port strings included.

use iced_x86::Mnemonic;

use crate::decode::operands::Decoding;
use crate::exec::string;
use crate::op::Handler;

/// The handler, if the instruction belongs here.
pub(super) fn handler(d: &mut Decoding) -> Option<Handler> {
    use Mnemonic::*;
    let m = d.ins.mnemonic();
    if !d.ins.is_string_instruction() {
        return None;
    }
    let (size, handler) = match m {
        Movsb => (1, sized!(1, string::movs)),
        Movsw => (2, sized!(2, string::movs)),
        Movsd => (4, sized!(4, string::movs)),
        Movsq => (8, sized!(8, string::movs)),
        Stosb => (1, sized!(1, string::stos)),
        Stosw => (2, sized!(2, string::stos)),
        Stosd => (4, sized!(4, string::stos)),
        Stosq => (8, sized!(8, string::stos)),
        Lodsb => (1, sized!(1, string::lods)),
        Lodsw => (2, sized!(2, string::lods)),
        Lodsd => (4, sized!(4, string::lods)),
        Lodsq => (8, sized!(8, string::lods)),
        Cmpsb => (1, sized!(1, string::cmps)),
        Cmpsw => (2, sized!(2, string::cmps)),
        Cmpsd => (4, sized!(4, string::cmps)),
        Cmpsq => (8, sized!(8, string::cmps)),
        Scasb => (1, sized!(1, string::scas)),
        Scasw => (2, sized!(2, string::scas)),
        Scasd => (4, sized!(4, string::scas)),
        Scasq => (8, sized!(8, string::scas)),
        Insb => (1, Some(crate::sys::ops::ins as Handler)),
        Insw => (2, Some(crate::sys::ops::ins as Handler)),
        Insd => (4, Some(crate::sys::ops::ins as Handler)),
        Outsb => (1, Some(crate::sys::ops::outs as Handler)),
        Outsw => (2, Some(crate::sys::ops::outs as Handler)),
        Outsd => (4, Some(crate::sys::ops::outs as Handler)),
        _ => return None,
    };
    d.op.aux = size;
    d.op.imm = match (d.ins.has_repne_prefix(), d.ins.has_rep_prefix()) {
        (false, false) => string::ONCE,
        // F2 repeats instructions without a ZF condition just as F3 does.
        (true, _) if matches!(m, Cmpsb | Cmpsw | Cmpsd | Cmpsq | Scasb | Scasw | Scasd | Scasq) => string::REPNE,
        _ => string::REPE,
    };
    handler
}
