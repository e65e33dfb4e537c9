//! Random instructions on random state: the unit against the host.

use super::cases::{Form, build, codes_in_scope, is_gather};
use super::native::Oracle;
use super::random::Random;
use super::{MEMORY, Machine, decode, unit};
use crate::op::ARITHMETIC_FLAGS;
use crate::{FpuFault, FpuOp};
use iced_x86::{Code, Instruction};

/// Rounds over all codes and forms; some 1,300 codes give about 2,100 cases a round.
const ROUNDS: u64 = 120;

/// Memory bytes not compared: the pointers of environments and images describe the host, and
/// processors differ in whether they store FOP without an exception.
fn forgive_memory(code: Code, ours: &mut Machine, theirs: &Machine) {
    use iced_x86::Mnemonic as M;
    let ranges: &[(usize, usize)] = match code.mnemonic() {
        M::Fnstenv if format!("{code:?}").contains("14") => &[(6, 14)],
        M::Fnsave if format!("{code:?}").contains("94") => &[(6, 14)],
        M::Fnstenv | M::Fnsave => &[(12, 28)],
        // MXCSR_MASK is the host's, which may have more bits than the virtual processor.
        M::Fxsave | M::Fxsave64 => &[(6, 24), (28, 32)],
        _ => return,
    };
    for (start, end) in ranges {
        let range = start + MEMORY / 2..end + MEMORY / 2;
        ours.memory.bytes[range.clone()].copy_from_slice(&theirs.memory.bytes[range]);
    }
}

/// RCPPS and RSQRTPS have implementation-defined low bits, but the host is the same processor, so
/// nothing else is masked. x87 condition codes that the manual leaves undefined are compared too:
/// they come from the host as well.
#[test]
fn all_codes_match_the_host() {
    let mut failures = Failures::default();
    for round in 0..ROUNDS {
        for code in codes_in_scope() {
            for form in [Form::Register, Form::Memory] {
                compare(code, form, round, &mut failures);
            }
        }
    }
    println!("{} cases", failures.cases);
    assert!(failures.cases > 100_000);
    failures.report();
}

/// Programs of several instructions, ours run to the end before the host's: sticky flags left in
/// the host's units by one instruction must not leak into the next.
#[test]
fn sequences_match_the_host() {
    let codes: Vec<Code> = codes_in_scope().filter(|&c| !is_gather(c) && !loads_control(c)).collect();
    let mut oracle = Oracle::new();
    for seed in 0..10_000 {
        let mut random = Random::new(0xABCD_0000 + seed);
        let x87 = seed % 2 == 0;
        let mut program = Vec::new();
        while program.len() < 12 {
            let code = codes[random.below(codes.len())];
            let is_x87 = format!("{code:?}").starts_with('F');
            if is_x87 == x87 {
                program.extend(build(code, [Form::Register, Form::Memory][random.below(2)], &mut random));
            }
        }
        let mut ours = machine(&decode(&program[0], 64), &mut random);
        ours.state = random.state(false);
        let mut theirs = ours.clone();
        let mut results = Vec::new();
        for bytes in &program {
            results.push(ours.run_bytes(bytes));
        }
        for bytes in &program {
            oracle.run(bytes, &mut theirs);
        }
        assert!(results.iter().all(Result::is_ok), "{results:?} {program:02x?}");
        let difference = difference(&ours, &theirs);
        assert!(difference.is_none(), "{difference:?}: {program:02x?}, seed {seed}");
    }
}

/// Instructions that load control registers, or whose memory image is not comparable.
fn loads_control(code: Code) -> bool {
    use iced_x86::Mnemonic as M;
    matches!(
        code.mnemonic(),
        M::Ldmxcsr
            | M::Vldmxcsr
            | M::Fldcw
            | M::Fldenv
            | M::Frstor
            | M::Fxrstor
            | M::Fxrstor64
            | M::Fnstenv
            | M::Fnsave
            | M::Fxsave
            | M::Fxsave64
    )
}

#[derive(Default)]
pub(super) struct Failures {
    cases: usize,
    list: Vec<(Code, String)>,
    oracle: Option<Oracle>,
}

impl Failures {
    pub(super) fn report(self) {
        let first = self.list.first().map_or("", |f| f.1.as_str());
        let mut lines: Vec<String> = Vec::new();
        for (code, text) in &self.list {
            let line = format!("{code:?}: {}", text.lines().next().unwrap_or_default());
            if !lines.iter().any(|l| l.starts_with(&format!("{code:?}:"))) {
                lines.push(line);
            }
        }
        assert!(
            self.list.is_empty(),
            "{} of {} cases differ\n{}\n{first}",
            self.list.len(),
            self.cases,
            lines.join("\n"),
        );
    }
}

pub(super) fn compare(code: Code, form: Form, round: u64, failures: &mut Failures) {
    let seed = round << 32 | (code as u64) << 1 | u64::from(form == Form::Memory);
    let mut random = Random::new(seed);
    let Some(bytes) = build(code, form, &mut random) else {
        return;
    };
    let ins = decode(&bytes, 64);
    let before = machine(&ins, &mut random);
    let mut ours = before.clone();
    let mut theirs = before.clone();
    let trapped = failures.oracle.get_or_insert_with(Oracle::new).run(&bytes, &mut theirs);
    let op = FpuOp::prepare(unit(), &ins, 64).unwrap();
    let result = ours.run(&op);
    failures.cases += 1;
    let same_result = match result {
        Ok(()) => !trapped,
        Err(FpuFault::MathFault | FpuFault::SimdFault) => trapped,
        Err(_) => false,
    };
    forgive_memory(code, &mut ours, &theirs);
    let difference = difference(&ours, &theirs);
    if !same_result || difference.is_some() {
        let text = format!(
            "{code:?} {bytes:02x?} seed {seed:x}: {result:?}, native trap {trapped}: {}\nbefore {:x?} rflags {:x}\n{:?}memory {:02x?}",
            difference.unwrap_or_default(),
            before.gpr,
            before.rflags,
            before.state,
            &before.memory.bytes[MEMORY / 2..MEMORY / 2 + 32],
        );
        failures.list.push((code, text));
    }
}

fn machine(ins: &Instruction, random: &mut Random) -> Machine {
    let mut machine = Machine::new();
    let unmasked = random.one_in(3);
    machine.state = random.state(unmasked);
    for gpr in &mut machine.gpr {
        *gpr = if random.one_in(3) { random.next() % 32 } else { random.next() };
    }
    machine.rflags = 2 | (random.next() & ARITHMETIC_FLAGS);
    random.bytes(&mut machine.memory.bytes[MEMORY / 2 - 1024..MEMORY / 2 + 1024]);
    // Reserved MXCSR bits would be #GP, which has its own test.
    use iced_x86::Mnemonic as M;
    match ins.mnemonic() {
        M::Ldmxcsr | M::Vldmxcsr => machine.memory.bytes[MEMORY / 2 + 2..][..2].fill(0),
        M::Fxrstor | M::Fxrstor64 => machine.memory.bytes[MEMORY / 2 + 26..][..2].fill(0),
        _ => {}
    }
    if is_gather(ins.code()) {
        // Keep the elements inside the buffer.
        let index = ins.memory_index().number();
        let wide = format!("{:?}", ins.op_code().op_kind(1)).contains("64");
        let mut half = || {
            let lanes = if wide { 2 } else { 4 };
            (0..lanes).fold(0_u128, |v, _| {
                let i = random.below(200) as i64 - 100;
                if wide { v << 64 | u128::from(i as u64) } else { v << 32 | u128::from(i as i32 as u32) }
            })
        };
        let (low, high) = (half(), half());
        machine.state.set_xmm(index, low);
        machine.state.set_ymm_hi(index, high);
    }
    machine
}

/// The first difference between two machines; FIP, FDP, FOP and selectors are not compared, as
/// natively they describe the host.
fn difference(ours: &Machine, theirs: &Machine) -> Option<String> {
    let (a, b) = (&ours.state, &theirs.state);
    let words = [
        ("fcw", u32::from(a.fcw()), u32::from(b.fcw())),
        ("fsw", a.fsw().into(), b.fsw().into()),
        ("ftw", a.ftw().into(), b.ftw().into()),
        ("mxcsr", a.mxcsr(), b.mxcsr()),
        ("flags", (ours.rflags & ARITHMETIC_FLAGS) as u32, (theirs.rflags & ARITHMETIC_FLAGS) as u32),
    ];
    for (name, x, y) in words {
        if x != y {
            return Some(format!("{name}: {x:x}, native {y:x}"));
        }
    }
    for i in 0..16 {
        let pairs = [
            ("st", a.st(i), b.st(i)),
            ("xmm", a.xmm(i), b.xmm(i)),
            ("ymm_hi", a.ymm_hi(i), b.ymm_hi(i)),
            ("gpr", ours.gpr[i].into(), theirs.gpr[i].into()),
        ];
        for (name, x, y) in pairs {
            if x != y {
                return Some(format!("{name}{i}: {x:x}, native {y:x}"));
            }
        }
    }
    let bytes = ours.memory.bytes.iter().zip(&theirs.memory.bytes);
    let at = bytes.clone().position(|(x, y)| x != y)?;
    let offset = at as i64 - MEMORY as i64 / 2;
    Some(format!("memory at {offset}"))
}
