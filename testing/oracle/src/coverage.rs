//! Which instruction table entries a run has executed, and in which form.

use crate::case::{Case, Mode, Outcome, Status};
use crate::generate::{self, Catalog};
use iced_x86::{Code, OpCodeOperandKind as K, OpKind};
use std::collections::HashMap;
use std::fmt;

/// With registers only, or with a memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Form {
    /// No explicit memory operand.
    Register,
    /// An explicit memory operand.
    Memory,
}

/// How often an entry ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Times it was the first instruction of a case.
    pub runs: u64,
    /// Times it did not fault.
    pub completed: u64,
}

/// Counts per mode, table entry and form.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    counts: HashMap<(Mode, Code, Form), Count>,
}

impl Coverage {
    /// Counts the first instruction of a case.
    pub fn add(&mut self, case: &Case, native: &Outcome) {
        let instructions = generate::decode(case);
        let Some(i) = instructions.first().filter(|_| native.status == Status::Exception) else { return };
        let memory = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory);
        let form = if memory { Form::Memory } else { Form::Register };
        let count = self.counts.entry((case.mode, i.code(), form)).or_default();
        count.runs += 1;
        count.completed += u64::from(native.regs.rip != case.regs.rip);
    }

    /// How often an entry ran in a form.
    pub fn count(&self, mode: Mode, code: Code, form: Form) -> Count {
        self.counts.get(&(mode, code, form)).copied().unwrap_or_default()
    }

    /// The entries of the catalogue that never ran in a form they have.
    pub fn uncovered(&self, catalog: &Catalog, mode: Mode) -> Vec<(Code, Form)> {
        let forms = catalog.codes(mode).iter().flat_map(|c| forms(*c).into_iter().map(|f| (*c, f)));
        forms.filter(|(c, f)| self.count(mode, *c, *f).runs == 0).collect()
    }

    /// The entries that only ever faulted, other than those that always do.
    pub fn never_completed(&self, catalog: &Catalog, mode: Mode) -> Vec<(Code, Form)> {
        let forms = catalog.codes(mode).iter().flat_map(|c| forms(*c).into_iter().map(|f| (*c, f)));
        forms.filter(|(c, f)| self.count(mode, *c, *f).completed == 0 && !always_faults(*c)).collect()
    }

    /// A line of totals.
    pub fn summary(&self, catalog: &Catalog, mode: Mode) -> Summary {
        let all = catalog.codes(mode).iter().map(|c| forms(*c).len()).sum();
        Summary {
            mode,
            all,
            uncovered: self.uncovered(catalog, mode).len(),
            faulting: self.never_completed(catalog, mode).len(),
        }
    }
}

/// Totals of one mode.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    mode: Mode,
    all: usize,
    uncovered: usize,
    faulting: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { mode, all, uncovered, faulting } = *self;
        write!(
            f,
            "{}-bit: {} of {all} instruction forms run, {faulting} never without a fault",
            mode.bits(),
            all - uncovered
        )
    }
}

fn always_faults(code: Code) -> bool {
    let info = code.op_code();
    info.must_be_cpl0()
        || info.is_input_output()
        || generate::policy::is_absent(code)
        || matches!(code.mnemonic(), iced_x86::Mnemonic::Ud2)
}

/// The forms an entry has.
fn forms(code: Code) -> Vec<Form> {
    let info = code.op_code();
    let mut forms = Vec::new();
    let mut memory = false;
    let mut both = false;
    for kind in info.op_kinds() {
        memory |= matches!(
            kind,
            K::mem
                | K::mem_mib
                | K::mem_offs
                | K::mem_vsib32x
                | K::mem_vsib64x
                | K::mem_vsib32y
                | K::mem_vsib64y
                | K::seg_rBX_al
        );
        both |= matches!(
            kind,
            K::r8_or_mem | K::r16_or_mem | K::r32_or_mem | K::r64_or_mem | K::mm_or_mem | K::xmm_or_mem | K::ymm_or_mem
        );
    }
    if !memory {
        forms.push(Form::Register);
    }
    if memory || both {
        forms.push(Form::Memory);
    }
    forms
}
