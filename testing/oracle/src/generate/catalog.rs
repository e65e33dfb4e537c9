//! The instruction table entries a mode offers, in table order.

use super::policy;
use crate::case::Mode;
use iced_x86::{Code, Mnemonic};

/// The codes to generate in each mode.
#[derive(Debug)]
pub struct Catalog {
    long: Vec<Code>,
    compat: Vec<Code>,
}

impl Catalog {
    /// Everything the policy allows, or only the codes of one mnemonic (any letter case).
    pub fn new(filter: Option<&str>) -> Self {
        let of = |mode| {
            Code::values()
                .filter(|c| policy::code_allowed(*c, mode))
                .filter(|c| filter.is_none_or(|f| matches(*c, f)))
                .collect()
        };
        Catalog { long: of(Mode::Long), compat: of(Mode::Compat) }
    }

    /// The codes of a mode.
    pub fn codes(&self, mode: Mode) -> &[Code] {
        match mode {
            Mode::Long => &self.long,
            Mode::Compat => &self.compat,
        }
    }
}

fn matches(code: Code, filter: &str) -> bool {
    let is = |text: String| text.eq_ignore_ascii_case(filter);
    is(format!("{:?}", code.mnemonic())) || is(format!("{code:?}"))
}

/// Instructions that end a sequence, because what follows would not run.
pub(super) fn ends_sequence(code: Code) -> bool {
    use iced_x86::FlowControl as F;
    let faults = code.op_code().must_be_cpl0() || policy::is_absent(code) || code.op_code().is_input_output();
    let leaves =
        matches!(code.mnemonic(), Mnemonic::Int3 | Mnemonic::Int1 | Mnemonic::Hlt | Mnemonic::Ud2 | Mnemonic::Iret);
    faults || leaves || !matches!(code.flow_control(), F::Next | F::ConditionalBranch)
}
