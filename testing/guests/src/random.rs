//! Random bytes as guests: whatever a guest executes, the engine neither panics, nor hangs beyond a kick, nor touches
//! memory that is not the guest's.

use std::time::{Duration, Instant};

use visor_engine::{Engine, EngineError, Gpa, GuestMemory, Stop};
use visor_memory::RamRange;
use visor_x86::state::CpuState;
use vm_memory::{Bytes, GuestAddress};

use crate::harness::Guest;
use crate::image::{self, Program};

/// A kick must end a run within this time, even on a loaded host.
const PATIENCE: Duration = Duration::from_secs(3);

/// A small generator (xorshift64*), so that a failing seed can be run again.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator for `seed`.
    pub fn new(seed: u64) -> Self {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// Runs random code of `seed` in each mode for about `time`.
///
/// # Errors
/// Those of the engine: a guest cannot cause one, so each is a failure.
pub fn run(engine: &dyn Engine, seed: u64, time: Duration) -> Result<String, EngineError> {
    let mut text = String::new();
    for (name, mode) in [("drive/random-16", 16), ("drive/random-32", 32), ("drive/random-64", 64)] {
        let mut rng = Rng::new(seed ^ mode << 56);
        // The host places mappings next to each other, so these lie around the guest's RAM.
        let below = Canary::new();
        let mut guest = noise(engine, &image::program(name), &mut rng)?;
        let above = Canary::new();
        let end = Instant::now() + time;
        while Instant::now() < end {
            let begin = Instant::now();
            let stop = guest.run_boot(Duration::from_millis(5))?;
            if begin.elapsed() > PATIENCE {
                text += &format!("  seed {seed}, {mode} bits: a kick took {:?}\n", begin.elapsed());
            }
            let state = guest.boot.save()?;
            if stop == Stop::Kicked && !state.wait_for_sipi && !rng.number().is_multiple_of(4) {
                continue;
            }
            // Dead, or long enough of it: somewhere else.
            guest.boot.restore(&jump(&state, &mut rng))?;
        }
        if !below.intact() || !above.intact() {
            text += &format!("  seed {seed}, {mode} bits: memory that is not the guest's has changed\n");
        }
    }
    Ok(text)
}

/// Memory that nobody may change.
struct Canary(GuestMemory);

impl Canary {
    const LEN: u64 = 1 << 20;
    const BYTE: u8 = 0xa5;

    fn new() -> Self {
        let memory = GuestMemory::new(&[RamRange { start: Gpa(0), len: Self::LEN }]).expect("1 MiB can be had");
        let pattern = vec![Self::BYTE; Self::LEN as usize];
        memory.view().write_slice(&pattern, GuestAddress(0)).expect("the range is in RAM");
        Canary(memory)
    }

    fn intact(&self) -> bool {
        let mut bytes = vec![0; Self::LEN as usize];
        self.0.view().read_slice(&mut bytes, GuestAddress(0)).expect("the range is in RAM");
        bytes.iter().all(|&b| b == Self::BYTE)
    }
}

/// A guest whose code, tables, stacks and data beyond the image are noise, biased towards system instructions.
fn noise(engine: &dyn Engine, program: &Program, rng: &mut Rng) -> Result<Guest, EngineError> {
    let guest = Guest::new(engine, program, 1)?;
    let mut bytes = vec![0u8; 0x10_0000];
    for chunk in bytes.chunks_mut(8) {
        let mut word = rng.number().to_le_bytes();
        match rng.number() % 8 {
            0 => word[0] = 0x0f,
            1 => (word[2], word[3]) = (0x0f, (rng.number() % 4) as u8),
            2 => word[4..].fill(0x90),
            3 => (word[0], word[3]) = (0xf3, 0x66),
            _ => {}
        }
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
    guest.write(0x20_0000, &bytes);
    guest.write(0x3_0000, &bytes[..0x5_0000]);
    Ok(guest)
}

/// `state` at another place, with other registers, in the mode it is in; a waiting CPU is woken.
fn jump(state: &CpuState, rng: &mut Rng) -> CpuState {
    let mut s = state.clone();
    (s.halted, s.wait_for_sipi, s.interrupt_shadow) = (false, false, false);
    for r in &mut s.gpr {
        let n = rng.number();
        *r = match n % 4 {
            0 => n >> 3,
            1 => 0x20_0000 + (n >> 40) % 0x10_0000,
            2 => (n >> 40) % 0x100,
            _ => *r,
        };
    }
    let base = if s.cr0 & 1 == 0 { 0 } else { 0x20_0000 };
    s.rip = base + rng.number() % if base == 0 { 0x1_0000 } else { 0x10_0000 };
    s.gpr[4] = 0x30_0000 + (rng.number() % 0x1000) * 8;
    s
}
