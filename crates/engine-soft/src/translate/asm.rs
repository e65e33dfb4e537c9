//! An assembler for the few instructions that the translator adds to the guest's own.
//!
//! There is no way to name a memory operand other than the CPU's own memory ([`Rm::State`], [`Rm::Table`]), the address that a
//! TLB check has left in R14 ([`Rm::Checked`]), and things that a stub finds through
//! pointers in the CPU's own memory ([`Rm::At`]).

use smallvec::SmallVec;

use super::regs::Host;

/// A register or memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rm {
    Reg(Host),
    /// GS base plus offset.
    State(i32),
    /// GS base plus offset plus RCX.
    Table(i32),
    /// GS base plus offset plus RCX × 8.
    Table8(i32),
    /// What R14 plus an offset points to.
    Checked(i32),
    /// What a register points to, plus an offset.
    At(Host, i32),
}

/// Address arithmetic for [`Asm::lea`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Sum {
    pub(super) base: Option<Host>,
    pub(super) index: Option<(Host, u8)>,
    pub(super) disp: i32,
}

/// A place in the code that a jump goes to, still unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) struct Hole(usize);

/// A few of them.
pub(super) type Holes = SmallVec<[Hole; 3]>;

/// Code under construction.
#[derive(Debug)]
pub(super) struct Asm {
    pub(super) bytes: Vec<u8>,
}

impl Default for Asm {
    fn default() -> Self {
        // What most translations fit into.
        Asm { bytes: Vec::with_capacity(2048) }
    }
}

impl Asm {
    pub(super) fn here(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// `opcode` with a 64-bit (`wide`) or 32-bit operand size.
    pub(super) fn op(&mut self, wide: bool, opcode: &[u8], reg: u8, rm: Rm) {
        self.encode(&[], wide, opcode, reg, rm);
    }

    fn encode(&mut self, prefix: &[u8], wide: bool, opcode: &[u8], reg: u8, rm: Rm) {
        if matches!(rm, Rm::State(_) | Rm::Table(_) | Rm::Table8(_)) {
            self.bytes.push(0x65);
        }
        self.raw(prefix);
        let (base, index) = extensions(rm);
        let rex = 0x40 | u8::from(wide) << 3 | (reg >> 3 & 1) << 2 | index << 1 | base;
        if rex != 0x40 {
            self.bytes.push(rex);
        }
        self.raw(opcode);
        self.modrm(reg & 7, rm);
    }

    fn modrm(&mut self, reg: u8, rm: Rm) {
        let reg = reg << 3;
        match rm {
            Rm::Reg(Host(r)) => self.bytes.push(0xc0 | reg | (r & 7)),
            Rm::State(disp) => {
                self.raw(&[0x04 | reg, 0x25]);
                self.raw(&disp.to_le_bytes());
            }
            Rm::Table(disp) => {
                self.bytes.push(0x80 | reg | 1);
                self.raw(&disp.to_le_bytes());
            }
            Rm::Table8(disp) => {
                self.raw(&[0x04 | reg, 0xcd]);
                self.raw(&disp.to_le_bytes());
            }
            Rm::Checked(0) => self.bytes.push(reg | 6),
            Rm::Checked(disp) => match i8::try_from(disp) {
                Ok(short) => self.raw(&[0x46 | reg, short as u8]),
                Err(_) => {
                    self.bytes.push(0x86 | reg);
                    self.raw(&disp.to_le_bytes());
                }
            },
            Rm::At(Host(r), disp) => {
                self.bytes.push(0x80 | reg | (r & 7));
                if r & 7 == 4 {
                    self.bytes.push(0x24);
                }
                self.raw(&disp.to_le_bytes());
            }
        }
    }

    pub(super) fn load(&mut self, to: Host, from: Rm) {
        self.op(true, &[0x8b], to.0, from);
    }

    /// Zero-extends 32 bits.
    pub(super) fn load32(&mut self, to: Host, from: Rm) {
        self.op(false, &[0x8b], to.0, from);
    }

    /// Zero-extends a byte.
    pub(super) fn load8(&mut self, to: Host, from: Rm) {
        self.op(false, &[0x0f, 0xb6], to.0, from);
    }

    pub(super) fn store(&mut self, to: Rm, from: Host) {
        self.op(true, &[0x89], from.0, to);
    }

    pub(super) fn store32(&mut self, to: Rm, from: Host) {
        self.op(false, &[0x89], from.0, to);
    }

    /// Stores a sign-extended constant.
    pub(super) fn store_imm(&mut self, to: Rm, value: i32) {
        self.op(true, &[0xc7], 0, to);
        self.raw(&value.to_le_bytes());
    }

    /// Stores 32 bits of a constant.
    pub(super) fn store32_imm(&mut self, to: Rm, value: i32) {
        self.op(false, &[0xc7], 0, to);
        self.raw(&value.to_le_bytes());
    }

    pub(super) fn store8_imm(&mut self, to: Rm, value: u8) {
        self.op(false, &[0xc6], 0, to);
        self.bytes.push(value);
    }

    pub(super) fn mov(&mut self, to: Host, from: Host) {
        self.load(to, Rm::Reg(from));
    }

    /// The shortest form of a constant.
    pub(super) fn constant(&mut self, to: Host, value: u64) {
        if let Ok(v) = u32::try_from(value) {
            if to.0 > 7 {
                self.bytes.push(0x41);
            }
            self.bytes.push(0xb8 | (to.0 & 7));
            self.raw(&v.to_le_bytes());
        } else if let Ok(v) = i32::try_from(value as i64) {
            self.op(true, &[0xc7], 0, Rm::Reg(to));
            self.raw(&v.to_le_bytes());
        } else {
            self.raw(&[0x48 | to.0 >> 3, 0xb8 | (to.0 & 7)]);
            self.raw(&value.to_le_bytes());
        }
    }

    /// Keeps the flags. With `wide` false the result is cut to 32 bits.
    pub(super) fn lea(&mut self, wide: bool, to: Host, sum: Sum) {
        let base = sum.base.map_or(5, |b| b.0);
        let index = sum.index.map_or(4, |(i, _)| i.0);
        let scale = sum.index.map_or(0, |(_, s)| s);
        let rex = 0x40 | u8::from(wide) << 3 | (to.0 >> 3) << 2 | (index >> 3) << 1;
        let rex = rex | if sum.base.is_some() { base >> 3 } else { 0 };
        if rex != 0x40 {
            self.bytes.push(rex);
        }
        self.bytes.push(0x8d);
        let (mode, short) = match (sum.base, sum.disp) {
            (None, _) => (0, false),
            (Some(b), 0) if b.0 & 7 != 5 => (0, false),
            (Some(_), d) if i8::try_from(d).is_ok() => (0x40, true),
            _ => (0x80, false),
        };
        let need_sib = sum.index.is_some() || sum.base.is_none() || base & 7 == 4;
        let reg = (to.0 & 7) << 3;
        if need_sib {
            self.raw(&[mode | reg | 4, scale << 6 | (index & 7) << 3 | (base & 7)]);
        } else {
            self.bytes.push(mode | reg | (base & 7));
        }
        match (mode, short) {
            (0, _) if sum.base.is_some() => {}
            (_, true) => self.bytes.push(sum.disp as u8),
            _ => self.raw(&sum.disp.to_le_bytes()),
        }
    }

    /// `to += disp` without touching the flags.
    pub(super) fn add_constant(&mut self, to: Host, disp: i32) {
        if disp != 0 {
            self.lea(true, to, Sum { base: Some(to), index: None, disp });
        }
    }

    /// `to = from` with its bits under the mask at `mask` moved together (PEXT); keeps the flags.
    pub(super) fn pext(&mut self, to: Host, from: Host, mask: i32) {
        // VEX.LZ.F3.0F38.W1 F5 /r with a GS prefix; the mask is the memory operand.
        self.bits_under_mask(2, to, from, mask);
    }

    /// `to` = the low bits of `from` put where the mask at `mask` has bits (PDEP); keeps the flags.
    pub(super) fn pdep(&mut self, to: Host, from: Host, mask: i32) {
        // VEX.LZ.F2.0F38.W1 F5 /r.
        self.bits_under_mask(3, to, from, mask);
    }

    fn bits_under_mask(&mut self, pp: u8, to: Host, from: Host, mask: i32) {
        self.raw(&[0x65, 0xc4]);
        let r = u8::from(to.0 < 8) << 7;
        self.raw(&[r | 0x62, 0x80 | (!from.0 & 15) << 3 | pp, 0xf5]);
        self.modrm(to.0 & 7, Rm::State(mask));
    }

    /// RCX becomes the lower half of R14, rotated right by `by` (RORX); keeps the flags.
    pub(super) fn rotate_address(&mut self, by: u8) {
        self.raw(&[0xc4, 0xc3, 0x7b, 0xf0, 0xce, by]);
    }

    /// `to = from` with its halves exchanged (RORX); keeps the flags.
    pub(super) fn rorx32(&mut self, to: Host, from: Host) {
        // VEX.LZ.F2.0F3A.W1 F0 /r ib.
        let r = u8::from(to.0 < 8) << 7;
        let b = u8::from(from.0 < 8) << 5;
        self.raw(&[0xc4, r | 0x40 | b | 3, 0xfb, 0xf0, 0xc0 | (to.0 & 7) << 3 | (from.0 & 7), 32]);
    }

    /// `op to, imm8` of the group 83h: 4 is AND, 7 is CMP.
    pub(super) fn group_imm32(&mut self, wide: bool, n: u8, to: Rm, value: i32) {
        self.op(wide, &[0x81], n, to);
        self.raw(&value.to_le_bytes());
    }

    pub(super) fn shr32(&mut self, to: Host, by: u8) {
        self.op(false, &[0xc1], 5, Rm::Reg(to));
        self.bytes.push(by);
    }

    /// Jumps over the next few bytes if RCX is zero.
    pub(super) fn jrcxz(&mut self) -> Short {
        self.raw(&[0xe3, 0]);
        Short(self.here())
    }

    /// Lets a short jump end here.
    pub(super) fn land(&mut self, from: Short) {
        let distance = self.here() - from.0;
        debug_assert!(distance < 128);
        self.bytes[from.0 - 1] = distance as u8;
    }

    /// A short conditional jump.
    pub(super) fn jcc_short(&mut self, condition: u8) -> Short {
        self.raw(&[0x70 | condition, 0]);
        Short(self.here())
    }

    pub(super) fn jcc(&mut self, condition: u8) -> Hole {
        self.raw(&[0x0f, 0x80 | condition, 0, 0, 0, 0]);
        Hole(self.here())
    }

    pub(super) fn jmp(&mut self) -> Hole {
        self.raw(&[0xe9, 0, 0, 0, 0]);
        Hole(self.here())
    }

    pub(super) fn call(&mut self) -> Hole {
        self.raw(&[0xe8, 0, 0, 0, 0]);
        Hole(self.here())
    }

    /// Lets a jump go to offset `at` of this code, which may be negative or beyond its end.
    pub(super) fn fill(&mut self, hole: Hole, at: i64) {
        let distance = (at - hole.0 as i64) as i32;
        self.bytes[hole.0 - 4..hole.0].copy_from_slice(&distance.to_le_bytes());
    }

    /// Lets a jump go here.
    pub(super) fn fill_here(&mut self, hole: Hole) {
        self.fill(hole, self.here() as i64);
    }
}

impl Hole {
    /// Offset of the distance in the code.
    pub(super) fn field(self) -> usize {
        self.0 - 4
    }
}

/// A short jump forward that waits for its end.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub(super) struct Short(usize);

/// REX.B and REX.X.
fn extensions(rm: Rm) -> (u8, u8) {
    match rm {
        Rm::Reg(Host(r)) | Rm::At(Host(r), _) => (r >> 3 & 1, 0),
        Rm::State(_) | Rm::Table(_) | Rm::Table8(_) => (0, 0),
        Rm::Checked(_) => (1, 0),
    }
}

/// Condition codes (SDM 2 table B-10).
pub(super) mod cond {
    pub(in super::super) const AE: u8 = 3;
    pub(in super::super) const E: u8 = 4;
    pub(in super::super) const NE: u8 = 5;
    pub(in super::super) const BE: u8 = 6;
    pub(in super::super) const A: u8 = 7;
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions, Formatter, NasmFormatter};

    use super::*;

    fn text(f: impl FnOnce(&mut Asm)) -> String {
        let mut a = Asm::default();
        f(&mut a);
        let mut d = Decoder::new(64, &a.bytes, DecoderOptions::NONE);
        let mut out = String::new();
        NasmFormatter::new().format(&d.decode(), &mut out);
        assert!(!d.can_decode(), "{out}: more than one instruction");
        out
    }

    #[test]
    fn operands() {
        let h = Host;
        assert_eq!(text(|a| a.load(h(3), Rm::State(0x88))), "mov rbx,[gs:88h]");
        assert_eq!(text(|a| a.load(h(14), Rm::Table(0x2000))), "mov r14,[gs:rcx+2000h]");
        assert_eq!(text(|a| a.load(h(1), Rm::Table8(0x2000))), "mov rcx,[gs:rcx*8+2000h]");
        assert_eq!(text(|a| a.store(Rm::Checked(0), h(9))), "mov [r14],r9");
        assert_eq!(text(|a| a.store(Rm::Checked(-8), h(9))), "mov [r14-8],r9");
        assert_eq!(text(|a| a.load32(h(1), Rm::Checked(300))), "mov ecx,[r14+12Ch]");
        assert_eq!(text(|a| a.load(h(1), Rm::At(h(12), 8))), "mov rcx,[r12+8]");
        assert_eq!(text(|a| a.load(h(1), Rm::At(h(4), 8))), "mov rcx,[rsp+8]");
        assert_eq!(text(|a| a.mov(h(15), h(0))), "mov r15,rax");
        assert_eq!(text(|a| a.load8(h(1), Rm::State(16))), "movzx ecx,byte [gs:10h]");
        assert_eq!(text(|a| a.pext(h(1), h(14), 0x40)), "pext rcx,r14,[gs:40h]");
        assert_eq!(text(|a| a.rotate_address(9)), "rorx ecx,r14d,9");
        assert_eq!(text(|a| a.pdep(h(1), h(1), 0x40)), "pdep rcx,rcx,[gs:40h]");
        assert_eq!(text(|a| a.rorx32(h(2), h(0))), "rorx rdx,rax,20h");
        assert_eq!(text(|a| a.rorx32(h(9), h(14))), "rorx r9,r14,20h");
        assert_eq!(text(|a| a.constant(h(14), 5)), "mov r14d,5");
        assert_eq!(text(|a| a.constant(h(1), !0)), "mov rcx,0FFFFFFFFFFFFFFFFh");
        assert_eq!(text(|a| a.constant(h(14), 1 << 40)), "mov r14,10000000000h");
    }

    #[test]
    fn sums() {
        let h = Host;
        let lea = |base: Option<u8>, index: Option<(u8, u8)>, disp| {
            text(|a| a.lea(true, h(14), Sum { base: base.map(h), index: index.map(|(i, s)| (h(i), s)), disp }))
        };
        assert_eq!(lea(Some(0), None, 0), "lea r14,[rax]");
        assert_eq!(lea(Some(5), None, 0), "lea r14,[rbp]");
        assert_eq!(lea(Some(13), None, -8), "lea r14,[r13-8]");
        assert_eq!(lea(Some(12), None, 0x1000), "lea r14,[r12+1000h]");
        assert_eq!(lea(Some(9), Some((15, 3)), 4), "lea r14,[r9+r15*8+4]");
        assert_eq!(lea(None, Some((12, 2)), 0x10), "lea r14,[r12*4+10h]");
        assert_eq!(lea(None, None, -16), "lea r14,[0FFFFFFFFFFFFFFF0h]");
        assert_eq!(lea(Some(5), Some((0, 0)), 0), "lea r14,[rbp+rax]");
        assert_eq!(lea(Some(4), None, 0x200), "lea r14,[rsp+200h]");
    }
}
