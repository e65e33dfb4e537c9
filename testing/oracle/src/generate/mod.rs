//! Makes test cases: from the instruction tables, as sequences, and from raw bytes. A seed and an index name a case.

mod build;
mod catalog;
mod draft;
mod encode;
mod memory;
pub mod policy;
mod raw;
mod sequence;
mod state;
#[cfg(test)]
mod tests;
mod tune;
mod values;

pub use catalog::Catalog;

use crate::case::{Case, Mode};
use crate::layout::{CODE, CODE_LEN, FILL};
use crate::rng::Rng;
use draft::Draft;
use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, OpAccess};

/// What to generate.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Seed of the run.
    pub seed: u64,
    /// Only this mnemonic, or this entry of the instruction tables.
    pub filter: Option<String>,
    /// Only this mode.
    pub mode: Option<Mode>,
}

/// Makes the cases of one run.
#[derive(Debug)]
pub struct Generator {
    options: Options,
    catalog: Catalog,
}

/// Attempts at one case before another code is taken.
const TRIES: u32 = 60;

impl Generator {
    /// A generator for `options`.
    ///
    /// # Errors
    /// If the filter names no instruction that the policy allows.
    pub fn new(options: Options) -> anyhow::Result<Self> {
        let catalog = Catalog::new(options.filter.as_deref());
        let modes = options.mode.map_or(vec![Mode::Long, Mode::Compat], |m| vec![m]);
        anyhow::ensure!(
            modes.iter().any(|m| !catalog.codes(*m).is_empty()),
            "no allowed instruction is named {}",
            options.filter.as_deref().unwrap_or("that")
        );
        Ok(Generator { options, catalog })
    }

    /// The instruction table entries this run draws from.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Case `index`.
    pub fn case(&self, index: u64) -> Case {
        let mut rng = Rng::for_case(self.options.seed, index);
        let mode = self.mode(&mut rng);
        // Consecutive cases walk through the table, so that every entry gets its share.
        let codes = self.catalog.codes(mode);
        let start = (index ^ self.options.seed) as usize;
        for attempt in 0..1000u32 {
            let code = codes[(start + (attempt / TRIES) as usize) % codes.len()];
            let fork = Rng::for_case(rng.u64(), u64::from(attempt));
            if let Some(mut case) = self.attempt(fork, mode, code) {
                case.seed = self.options.seed;
                case.index = index;
                return case;
            }
        }
        Case { seed: self.options.seed, index, mode, ..Case::default() }
    }

    fn mode(&self, rng: &mut Rng) -> Mode {
        let wanted = self.options.mode.unwrap_or(if rng.chance(70) { Mode::Long } else { Mode::Compat });
        let other = if wanted == Mode::Long { Mode::Compat } else { Mode::Long };
        if self.catalog.codes(wanted).is_empty() { other } else { wanted }
    }

    fn attempt(&self, rng: Rng, mode: Mode, code: Code) -> Option<Case> {
        let mut draft = Draft::new(rng, mode);
        let kind = draft.rng.below(100);
        let filtered = self.options.filter.is_some();
        let bytes = match kind {
            0..=54 => single(&mut draft, code)?,
            55..=74 => sequence::generate(&mut draft, &self.catalog)?,
            75..=86 => {
                let mut bytes = single(&mut draft, code)?;
                raw::mutate(&mut draft, &mut bytes);
                bytes
            }
            87..=95 if !filtered => {
                raw::calm(&mut draft);
                raw::random(&mut draft)
            }
            _ => {
                let mut bytes = single(&mut draft, code)?;
                if draft.rng.chance(40) {
                    raw::pad(&mut draft, &mut bytes);
                } else {
                    raw::place_at_edge(&mut draft, &mut bytes);
                }
                bytes
            }
        };
        draft.case.set_code(&bytes);
        // Pages beyond the code are not mapped, and shortened code is what the policy must judge.
        admissible(&draft.case).then_some(draft.case)
    }
}

fn single(draft: &mut Draft, code: Code) -> Option<Vec<u8>> {
    let ip = draft.case.regs.rip;
    let instruction = build::instruction(draft, code, ip)?;
    encode::one(draft, &instruction, ip)
}

/// The instructions of a case as the CPU decodes them from its start, up to the end of its bytes or the first that cannot
/// be continued after.
pub fn decode(case: &Case) -> Vec<Instruction> {
    let mut bytes = case.code().to_vec();
    let start = case.regs.rip;
    let room = (CODE + CODE_LEN).saturating_sub(start) as usize;
    bytes.resize((bytes.len() + 15).min(room), FILL);
    let mut decoder = Decoder::with_ip(case.mode.bits(), &bytes, start, DecoderOptions::NONE);
    let mut instructions = Vec::new();
    while decoder.can_decode() && decoder.ip() < start + u64::from(case.code_len) {
        let i = decoder.decode();
        instructions.push(i);
        if i.is_invalid() {
            break;
        }
    }
    instructions
}

/// Whether the policy allows every instruction that the case can reach.
pub fn admissible(case: &Case) -> bool {
    let start = case.regs.rip;
    let end = start + u64::from(case.code_len);
    let instructions = decode(case);
    let boundaries: Vec<u64> = instructions.iter().map(Instruction::ip).collect();
    let looped = instructions.iter().any(is_counted_loop);
    instructions.iter().enumerate().all(|(n, i)| {
        let [rax, _, rdx, ..] = case.regs.gpr;
        let mask = rax & 0xffff_ffff | rdx << 32;
        // What precedes it may ask for components that only the host has; in a loop everything precedes it.
        if policy::is_xsave(i.mnemonic()) && (n > 0 || mask > 7 || looped) {
            return false;
        }
        // Nor may what an image holds of the x87 pointers, which is not compared, get into what is.
        let rest = if looped { &instructions[..] } else { &instructions[n + 1..] };
        if policy::stores_pointers(i.mnemonic()) && rest.iter().any(reads_memory) {
            return false;
        }
        let at = (i.ip() - start) as usize;
        let bytes = &case.code[at..];
        let near = matches!(
            i.flow_control(),
            FlowControl::ConditionalBranch
                | FlowControl::UnconditionalBranch
                | FlowControl::Call
                | FlowControl::XbeginXabortXend
        );
        let target = i.near_branch_target();
        let inside = near && (start..end).contains(&target);
        let lands = !inside || (boundaries.contains(&target) && (target > i.ip() || is_counted_loop(i)));
        policy::instruction_allowed(i, bytes, case.mode) && lands
    })
}

fn reads_memory(i: &Instruction) -> bool {
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(i);
    info.used_memory()
        .iter()
        .any(|m| !matches!(m.access(), OpAccess::Write | OpAccess::CondWrite | OpAccess::NoMemAccess))
}

fn is_counted_loop(i: &Instruction) -> bool {
    i.is_loop() || i.is_loopcc()
}
