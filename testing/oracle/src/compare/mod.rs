//! Compares what a subject did with what the host did, leaving out what the manual leaves undefined.

mod dead;
mod flags;
mod memory;
mod quirks;
#[cfg(test)]
mod tests;

pub use quirks::HOST_DIFFERENCES;

use crate::case::{Case, Mode, Outcome, Status};
use crate::generate;
use iced_x86::{Formatter, Instruction, NasmFormatter};
use std::fmt;
use visor_x86::Rflags;

/// What may differ in one case.
#[derive(Clone, Debug, Default)]
struct Tolerance {
    /// RFLAGS bits.
    flags: u64,
    /// Bits of the x87 status word.
    fsw: u16,
    /// Units in the last place by which x87 results may differ.
    ulps: u64,
    /// General registers, one bit each.
    gpr: u16,
    /// The register that takes a segment limit, which is the number of the host's CPU for one descriptor.
    segment_limit: Option<usize>,
    /// FS and GS bases.
    bases: bool,
    /// Address and error code of a page fault.
    cr2: bool,
    /// Guest bytes, as address and length.
    memory: Vec<(u64, u64)>,
}

/// One differing piece of state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Register, flag set or address.
    pub what: String,
    /// On the host.
    pub native: String,
    /// On the subject.
    pub subject: String,
}

/// A case on which host and subject disagree. `Display` gives a whole report.
#[derive(Clone, Debug)]
pub struct Mismatch {
    /// The case.
    pub case: Box<Case>,
    /// Everything that differs, the most telling first.
    pub differences: Vec<Difference>,
    /// The host's exception vector.
    pub native_vector: u32,
    /// Where the first of two different exceptions was raised, or 0.
    pub raised_at: u64,
    /// The subject's exception vector.
    pub subject_vector: u32,
    /// Where the host's exception was raised.
    native_rip: u64,
    /// RFLAGS bits among the differences.
    flags: u64,
}

/// Compares two outcomes; `None` if they agree or the host's run says nothing (it timed out or tried a system call).
pub fn compare(case: &Case, native: &Outcome, subject: &Outcome) -> Option<Mismatch> {
    if native.status != Status::Exception || (native == subject) {
        return None;
    }
    let instructions = generate::decode(case);
    let unjudged = flags::escapes(case, &instructions)
        || quirks::piecewise_wrap(case, native, &instructions)
        || quirks::limit_escapes(&instructions)
        || quirks::misaligned_mode(case, native, &instructions)
        || quirks::host_memory(case, native, subject, &instructions);
    if quirks::accepted(&instructions, native, subject) || unjudged {
        return None;
    }
    let tolerance = quirks::tolerance(case, &instructions, native);
    let mut found = Vec::new();
    if subject.status != Status::Exception {
        push(&mut found, "status", format!("{:?}", native.status), format!("{:?}", subject.status));
    } else {
        exceptions(&mut found, &tolerance, native, subject);
        integer_registers(&mut found, &tolerance, case.mode, native, subject);
        floating_point(&mut found, &tolerance, native, subject);
        memory::compare(&mut found, &tolerance.memory, native, subject);
    }
    let mismatch = Mismatch {
        case: Box::new(case.clone()),
        differences: found,
        native_vector: native.vector,
        raised_at: quirks::raised_at(&instructions, native, subject),
        subject_vector: subject.vector,
        native_rip: native.regs.rip,
        flags: (native.regs.rflags ^ subject.regs.rflags) & !tolerance.flags,
    };
    (!mismatch.differences.is_empty()).then_some(mismatch)
}

fn push(found: &mut Vec<Difference>, what: impl Into<String>, native: String, subject: String) {
    found.push(Difference { what: what.into(), native, subject });
}

fn check(found: &mut Vec<Difference>, what: &str, native: u64, subject: u64) {
    if native != subject {
        push(found, what, format!("{native:#x}"), format!("{subject:#x}"));
    }
}

/// First address that a user process on the host cannot have.
const USER_SPACE_END: u64 = 0x7fff_ffff_f000;

fn exceptions(found: &mut Vec<Difference>, tolerance: &Tolerance, native: &Outcome, subject: &Outcome) {
    if native.vector != subject.vector {
        let show = |o: &Outcome| format!("{} error {:x} cr2 {:x} at {:x}", o.vector, o.error, o.cr2, o.regs.rip);
        push(found, "exception", show(native), show(subject));
    } else {
        // The host's kernel reports every fault beyond user space as a protection violation.
        let ignored = u64::from(native.vector == 14 && native.cr2 >= USER_SPACE_END);
        if !tolerance.cr2 {
            check(found, "error code", native.error & !ignored, subject.error & !ignored);
            check(found, "cr2", native.cr2, subject.cr2);
        }
    }
    check(found, "rip", native.regs.rip, subject.regs.rip);
}

/// Hosts with more CPUs than this would need a wider tolerance for LSL.
const MAX_CPUS: u64 = 0x1000;

fn integer_registers(
    found: &mut Vec<Difference>,
    tolerance: &Tolerance,
    mode: Mode,
    native: &Outcome,
    subject: &Outcome,
) {
    const NAMES: [&str; 16] =
        ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];
    for (i, name) in NAMES.iter().enumerate().filter(|(i, _)| tolerance.gpr >> i & 1 == 0) {
        if tolerance.segment_limit == Some(i) && native.regs.gpr[i] & 0xffff < MAX_CPUS {
            continue;
        }
        check(found, name, native.regs.gpr[i], subject.regs.gpr[i]);
    }
    let differing = (native.regs.rflags ^ subject.regs.rflags) & !tolerance.flags;
    if differing != 0 {
        let show = |v: u64| format!("{:?}", Rflags::from_bits_retain(v & differing));
        push(found, "rflags", show(native.regs.rflags), show(subject.regs.rflags));
    }
    if mode == Mode::Long && !tolerance.bases {
        check(found, "fs base", native.regs.fs_base, subject.regs.fs_base);
        check(found, "gs base", native.regs.gs_base, subject.regs.gs_base);
    }
    for (i, name) in ["es", "cs", "ss", "ds", "fs", "gs"].iter().enumerate() {
        // Entering the host's kernel and leaving it clears the RPL of a null selector.
        let null = |v: u64| if v & !3 == 0 { 0 } else { v };
        check(found, name, null(native.regs.sel[i]), null(subject.regs.sel[i]));
    }
}

fn floating_point(found: &mut Vec<Difference>, tolerance: &Tolerance, native: &Outcome, subject: &Outcome) {
    let (n, s) = (&native.regs, &subject.regs);
    if n.xsave == s.xsave {
        return;
    }
    check(found, "fcw", n.fcw().into(), s.fcw().into());
    let fsw = |v: u16| u64::from(v & !tolerance.fsw);
    check(found, "fsw", fsw(n.fsw()), fsw(s.fsw()));
    check(found, "ftw", n.xsave[4].into(), s.xsave[4].into());
    check(found, "mxcsr", n.mxcsr().into(), s.mxcsr().into());
    for i in 0..8 {
        let (a, b) = (n.st(i), s.st(i));
        if !close(a, b, tolerance.ulps) {
            push(found, format!("st{i}"), hex(&a), hex(&b));
        }
    }
    for i in 0..16 {
        let (a, b) = (n.ymm(i), s.ymm(i));
        if a != b {
            push(found, format!("ymm{i}"), hex(&a), hex(&b));
        }
    }
}

/// Whether two 80-bit values have the same sign and exponent and significands at most `ulps` apart.
fn close(a: [u8; 10], b: [u8; 10], ulps: u64) -> bool {
    let significand = |v: [u8; 10]| v[..8].iter().rev().fold(0u64, |s, b| s << 8 | u64::from(*b));
    a == b || (ulps > 0 && a[8..] == b[8..] && significand(a).abs_diff(significand(b)) <= ulps)
}

fn hex(little_endian: &[u8]) -> String {
    little_endian.iter().rev().map(|b| format!("{b:02x}")).collect()
}

impl Mismatch {
    /// The instruction to blame, for grouping: the one at which the subject raised another exception, or the only one.
    pub fn culprit(&self) -> String {
        let instructions = self.instructions();
        let raised = instructions.iter().find(|i| i.ip() == self.raised_at);
        match (raised, instructions.as_slice()) {
            (Some(i), _) => format!("{:?}", i.code()),
            (None, [one]) => format!("{:?}", one.code()),
            (None, [first, second]) if second.is_invalid() => format!("{:?} and an invalid opcode", first.code()),
            (None, [first, ..]) => format!("{:?} and others", first.code()),
            (None, []) => "nothing".into(),
        }
    }

    fn differs(&self, what: &str) -> bool {
        self.differences.iter().any(|d| d.what == what)
    }

    /// What kind of difference it is, for grouping: both exceptions, or the names that differ.
    pub fn kind(&self) -> String {
        if self.differs("exception") {
            return format!("exception {} here {}", self.native_vector, self.subject_vector);
        }
        self.differences.iter().map(|d| d.what.as_str()).take(4).collect::<Vec<_>>().join(",")
    }

    /// Nothing differs but flags that nothing reads any more where the exception was raised: what translated code need not keep.
    pub fn is_of_dead_flags(&self) -> bool {
        self.kind() == "rflags" && self.flags & !dead::dead(&self.instructions(), self.native_rip) == 0
    }

    /// The instructions of the case.
    pub fn instructions(&self) -> Vec<Instruction> {
        generate::decode(&self.case)
    }
}

/// The bytes and the instructions of a case.
pub fn code(case: &Case) -> String {
    let bytes: Vec<String> = case.code().iter().map(|b| format!("{b:02x}")).collect();
    let mut out = format!("  {:x}: {}\n", case.regs.rip, bytes.join(" "));
    let mut formatter = NasmFormatter::new();
    for i in generate::decode(case) {
        let mut text = String::new();
        formatter.format(&i, &mut text);
        out += &format!("  {:x}: {text}   [{:?}]\n", i.ip(), i.code());
    }
    out
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let case = &self.case;
        writeln!(
            f,
            "--repro {}:{} ({}-bit), native exception {}",
            case.seed,
            case.index,
            case.mode.bits(),
            self.native_vector
        )?;
        f.write_str(&code(case))?;
        for d in &self.differences {
            writeln!(f, "    {:<12} native {}\n    {:<12} subject {}", d.what, d.native, "", d.subject)?;
        }
        let regs = &case.regs;
        let gprs: Vec<String> = regs.gpr.iter().map(|v| format!("{v:x}")).collect();
        writeln!(
            f,
            "  start: gpr {} flags {:x} fcw {:x} fsw {:x} mxcsr {:x}",
            gprs.join(" "),
            regs.rflags,
            regs.fcw(),
            regs.fsw(),
            regs.mxcsr()
        )
    }
}
