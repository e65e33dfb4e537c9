//! General, segment and control registers: numbers as instructions encode them, and bit names (SDM 1 §3.4, 3A §2.5).

use bitflags::bitflags;

/// A general-purpose register, numbered as in ModRM plus REX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Gpr {
    Rax,
    Rcx,
    Rdx,
    Rbx,
    Rsp,
    Rbp,
    Rsi,
    Rdi,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
}

/// A segment register, numbered as in the `MOV Sreg` encoding (SDM 2 table B-8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Seg {
    Es,
    Cs,
    Ss,
    Ds,
    Fs,
    Gs,
}

impl Seg {
    /// All six, in encoding order.
    pub const ALL: [Seg; 6] = [Seg::Es, Seg::Cs, Seg::Ss, Seg::Ds, Seg::Fs, Seg::Gs];
}

bitflags! {
    /// RFLAGS (SDM 1 §3.4.3).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Rflags: u64 {
        /// Carry.
        const CF = 1 << 0;
        /// Always one.
        const FIXED = 1 << 1;
        /// Parity of the low result byte.
        const PF = 1 << 2;
        /// Auxiliary (BCD) carry.
        const AF = 1 << 4;
        /// Zero.
        const ZF = 1 << 6;
        /// Sign.
        const SF = 1 << 7;
        /// Trap: single-step.
        const TF = 1 << 8;
        /// Interrupt enable.
        const IF = 1 << 9;
        /// Direction of string instructions.
        const DF = 1 << 10;
        /// Overflow.
        const OF = 1 << 11;
        /// I/O privilege level, low bit.
        const IOPL0 = 1 << 12;
        /// I/O privilege level, high bit.
        const IOPL1 = 1 << 13;
        /// Nested task.
        const NT = 1 << 14;
        /// Resume: suppresses instruction breakpoints once.
        const RF = 1 << 16;
        /// Virtual-8086 mode.
        const VM = 1 << 17;
        /// Alignment check, and SMAP override.
        const AC = 1 << 18;
        /// Virtual interrupt flag.
        const VIF = 1 << 19;
        /// Virtual interrupt pending.
        const VIP = 1 << 20;
        /// CPUID may be used if this can be toggled.
        const ID = 1 << 21;
        /// The six arithmetic status flags.
        const STATUS = Self::CF.bits() | Self::PF.bits() | Self::AF.bits() | Self::ZF.bits() | Self::SF.bits() | Self::OF.bits();
        /// Both IOPL bits.
        const IOPL = Self::IOPL0.bits() | Self::IOPL1.bits();
    }

    /// CR0 (SDM 3A §2.5).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Cr0: u64 {
        /// Protection enable.
        const PE = 1 << 0;
        /// Monitor coprocessor: WAIT obeys TS.
        const MP = 1 << 1;
        /// Emulate x87: x87 instructions raise #NM, SSE raise #UD.
        const EM = 1 << 2;
        /// Task switched: FP instructions raise #NM.
        const TS = 1 << 3;
        /// Extension type, fixed to one.
        const ET = 1 << 4;
        /// Native x87 error reporting.
        const NE = 1 << 5;
        /// Supervisor writes honour read-only pages.
        const WP = 1 << 16;
        /// Alignment checks allowed at ring 3.
        const AM = 1 << 18;
        /// Not write-through.
        const NW = 1 << 29;
        /// Cache disable.
        const CD = 1 << 30;
        /// Paging.
        const PG = 1 << 31;
    }

    /// CR4 (SDM 3A §2.5).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Cr4: u64 {
        /// Virtual-8086 extensions.
        const VME = 1 << 0;
        /// Protected-mode virtual interrupts.
        const PVI = 1 << 1;
        /// RDTSC only at ring 0.
        const TSD = 1 << 2;
        /// Debugging extensions: DR4/DR5 raise #UD.
        const DE = 1 << 3;
        /// 4 MiB pages with 32-bit paging.
        const PSE = 1 << 4;
        /// Physical address extension.
        const PAE = 1 << 5;
        /// Machine check.
        const MCE = 1 << 6;
        /// Global pages.
        const PGE = 1 << 7;
        /// RDPMC at any ring.
        const PCE = 1 << 8;
        /// FXSAVE and SSE enabled.
        const OSFXSR = 1 << 9;
        /// Unmasked SIMD exceptions raise #XM.
        const OSXMMEXCPT = 1 << 10;
        /// SGDT, SIDT, SLDT, STR, SMSW only at ring 0.
        const UMIP = 1 << 11;
        /// 57-bit linear addresses.
        const LA57 = 1 << 12;
        /// RDFSBASE and friends.
        const FSGSBASE = 1 << 16;
        /// Process-context identifiers.
        const PCIDE = 1 << 17;
        /// XSAVE and XCR0.
        const OSXSAVE = 1 << 18;
        /// Supervisor-mode execution prevention.
        const SMEP = 1 << 20;
        /// Supervisor-mode access prevention.
        const SMAP = 1 << 21;
        /// Protection keys for user pages.
        const PKE = 1 << 22;
        /// Protection keys for supervisor pages.
        const PKS = 1 << 24;
    }

    /// IA32_EFER (SDM 3A §2.2.1).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Efer: u64 {
        /// SYSCALL and SYSRET.
        const SCE = 1 << 0;
        /// Long mode enable.
        const LME = 1 << 8;
        /// Long mode active (read-only).
        const LMA = 1 << 10;
        /// No-execute pages.
        const NXE = 1 << 11;
    }
}

impl Rflags {
    /// The I/O privilege level, 0 to 3.
    pub fn iopl(self) -> u8 {
        ((self.bits() >> 12) & 3) as u8
    }
}
