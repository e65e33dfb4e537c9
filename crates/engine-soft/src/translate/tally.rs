//! Which instructions translated code hands to the interpreter, and how often: what `--stats` lists by name.

use iced_x86::Mnemonic;
use visor_engine::HelperStats;

/// Counts by instruction.
#[derive(Debug)]
pub(super) struct Tally(Box<[u64]>);

impl Default for Tally {
    fn default() -> Self {
        Tally(vec![0; Mnemonic::values().len()].into_boxed_slice())
    }
}

impl Tally {
    /// One more.
    #[inline]
    pub(super) fn add(&mut self, m: Mnemonic) {
        if let Some(n) = self.0.get_mut(m as usize) {
            *n += 1;
        }
    }

    /// Those that happened at all, instructions without a name of their own here summed up.
    pub(super) fn report(&self, out: &mut Vec<HelperStats>) {
        let mut rest: u64 = self.0.iter().sum();
        for (m, name) in NAMED {
            let count = self.0[*m as usize];
            rest -= count;
            if count > 0 {
                out.push(HelperStats { name, count, nanos: 0 });
            }
        }
        if rest > 0 {
            out.push(HelperStats { name: "interpreted: others", count: rest, nanos: 0 });
        }
    }
}

macro_rules! named {
    ($($m:ident)*) => { &[$((Mnemonic::$m, concat!("interpreted: ", stringify!($m)))),*] };
}

/// Instructions that are counted by name.
#[rustfmt::skip]
const NAMED: &[(Mnemonic, &str)] = named!(
    Mov Movzx Push Pop Call Ret Jmp Leave Cmp Test Add Sub And Or Xor Xchg Xadd Cmpxchg Cmpxchg16b Inc Dec Div Idiv Bt Bts Btr Btc
    Pushf Pushfd Pushfq Popf Popfd Popfq Cli Sti Cld Std Clac Stac Swapgs Syscall Sysret Sysretq Sysenter Sysexit Int Int3
    Iret Iretd Iretq Rdtsc Rdtscp Rdpid Cpuid Rdmsr Wrmsr Rdfsbase Rdgsbase Wrfsbase Wrgsbase Hlt Invlpg Invpcid Clts Xgetbv
    In Out Lgdt Lidt Lldt Ltr Verw Verr Lar Lsl Str Sldt Wbinvd Vmcall Vmmcall
    Movsb Movsw Movsd Movsq Stosb Stosw Stosd Stosq Lodsb Lodsd Lodsq Scasb Scasw Scasd Scasq Cmpsb Cmpsw Cmpsd Cmpsq
    Fxsave Fxsave64 Fxrstor Fxrstor64 Xsave Xsave64 Xsaveopt Xsaveopt64 Xsavec Xsavec64 Xrstor Xrstor64 Ldmxcsr Stmxcsr
    Fninit Fldcw Fnstcw Jrcxz Jecxz Loop Loope Loopne Pushad Popad Enter Xlatb Ud2 Rdrand Rdseed INVALID
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost() {
        let mut t = Tally::default();
        for (m, n) in [(Mnemonic::Cli, 3), (Mnemonic::Vpshufb, 2), (Mnemonic::Aaa, 1)] {
            (0..n).for_each(|_| t.add(m));
        }
        let mut out = Vec::new();
        t.report(&mut out);
        let got: Vec<_> = out.iter().map(|h| (h.name, h.count)).collect();
        assert_eq!(got, [("interpreted: Cli", 3), ("interpreted: others", 3)]);
    }
}
