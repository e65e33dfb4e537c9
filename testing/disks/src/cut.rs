//! What a host may hold after its power has gone.

use visor_block::SECTOR;

use crate::Rng;
use crate::medium::{Op, apply};

/// A host whose power goes at one place of a list after the other, always later ones.
#[derive(Clone, Debug)]
pub struct Cut {
    /// What is on the medium whatever happens, and how much of the list is in it.
    durable: Vec<u8>,
    done: usize,
    /// What decides about the rest; all of it is kept without.
    chance: Option<Rng>,
}

impl Cut {
    /// A host that keeps everything, in order. It held `start` before.
    pub fn orderly(start: Vec<u8>) -> Self {
        Cut { durable: start, done: 0, chance: None }
    }

    /// A host that keeps any of what nobody has flushed, of a write any sectors.
    pub fn anyhow(start: Vec<u8>, seed: u64) -> Self {
        Cut { durable: start, done: 0, chance: Some(Rng(seed)) }
    }

    /// What it holds after the first `place` entries of `log`.
    pub fn at(&mut self, log: &[Op], place: usize) -> Vec<u8> {
        let log = &log[..place];
        let ends = log[self.done..].iter().filter_map(|op| if let Op::FlushEnds(n) = op { Some(*n) } else { None });
        let flushed = if self.chance.is_some() { ends.max().unwrap_or(0) } else { place };
        let (from, to) = (self.done, flushed.max(self.done));
        log[from..to].iter().for_each(|op| apply(&mut self.durable, op));
        self.done = to;
        let mut bytes = self.durable.clone();
        if let Some(rng) = &mut self.chance {
            log[to..].iter().for_each(|op| maybe(&mut bytes, op, rng));
        }
        bytes
    }
}

/// Carries `op` out, or a part of it, or not.
fn maybe(bytes: &mut Vec<u8>, op: &Op, rng: &mut Rng) {
    match op {
        _ if rng.below(2) == 0 => {}
        Op::Write(at, data) => tear(bytes, *at, data, rng),
        op => apply(bytes, op),
    }
}

/// All or some of the sectors of a write.
fn tear(bytes: &mut Vec<u8>, at: u64, data: &[u8], rng: &mut Rng) {
    let whole = rng.below(3) > 0;
    let mut done = 0;
    while done < data.len() {
        let here = at + done as u64;
        let n = ((SECTOR - here % SECTOR) as usize).min(data.len() - done);
        if whole || rng.below(2) == 0 {
            apply(bytes, &Op::Write(here, data[done..done + n].to_vec()));
        }
        done += n;
    }
}
