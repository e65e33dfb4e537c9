//! Random bytes as guests: whatever a guest executes, the engine neither panics nor hangs beyond a kick.

use std::time::{Duration, Instant};

use visor_engine::{Engine, EngineError, Stop};
use visor_x86::state::CpuState;

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
    pub fn next(&mut self) -> u64 {
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
        let mut guest = noise(engine, &image::program(name), &mut rng)?;
        let end = Instant::now() + time;
        while Instant::now() < end {
            let begin = Instant::now();
            let stop = guest.run_boot(Duration::from_millis(5))?;
            if begin.elapsed() > PATIENCE {
                text += &format!("  seed {seed}, {mode} bits: a kick took {:?}\n", begin.elapsed());
            }
            let state = guest.boot.save()?;
            if stop == Stop::Kicked && !state.wait_for_sipi && rng.next() % 4 != 0 {
                continue;
            }
            // Dead, or long enough of it: somewhere else.
            guest.boot.restore(&jump(&state, &mut rng))?;
        }
    }
    Ok(text)
}

/// A guest whose code, tables, stacks and data beyond the image are noise, biased towards system instructions.
fn noise(engine: &dyn Engine, program: &Program, rng: &mut Rng) -> Result<Guest, EngineError> {
    let guest = Guest::new(engine, program, 1)?;
    let mut bytes = vec![0u8; 0x10_0000];
    for chunk in bytes.chunks_mut(8) {
        let mut word = rng.next().to_le_bytes();
        match rng.next() % 8 {
            0 => word[0] = 0x0f,
            1 => (word[2], word[3]) = (0x0f, (rng.next() % 4) as u8),
            2 => word[4..].fill(0x90),
            3 => (word[0], word[3]) = (0xf3, 0x66),
            _ => {}
        }
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
    guest.write(0x20_0000, &bytes);
    guest.write(0x3_0000, &bytes[..0x5_0000]);
    // All exceptions of the 16-bit guest go into the noise.
    Ok(guest)
}

/// `state` at another place, with other registers, in the mode it is in; a waiting CPU is woken.
fn jump(state: &CpuState, rng: &mut Rng) -> CpuState {
    let mut s = state.clone();
    (s.halted, s.wait_for_sipi, s.interrupt_shadow) = (false, false, false);
    for r in &mut s.gpr {
        let n = rng.next();
        *r = match n % 4 {
            0 => n >> 3,
            1 => 0x20_0000 + (n >> 40) % 0x10_0000,
            2 => (n >> 40) % 0x100,
            _ => *r,
        };
    }
    let base = if s.cr0 & 1 == 0 { 0 } else { 0x20_0000 };
    s.rip = base + rng.next() % if base == 0 { 0x1_0000 } else { 0x10_0000 };
    s.gpr[4] = 0x30_0000 + (rng.next() % 0x1000) * 8;
    s
}
