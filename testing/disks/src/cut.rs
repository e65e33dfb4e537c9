//! What a host may hold after its power has gone.

use visor_block::SECTOR;

use crate::Rng;
use crate::medium::{Op, apply};

/// A host whose power goes at one place of a list after the other, always later ones.
#[derive(Clone, Debug)]
pub struct Cut {
    /// What is on the medium whatever happens.
    durable: Vec<u8>,
    /// How much of the list was looked at, and which changes in that part nobody has flushed.
    seen: usize,
    pending: Vec<usize>,
    /// What decides about those; all of them are kept without.
    chance: Option<Rng>,
}

impl Cut {
    /// A host that keeps everything, in order. It held `start` before.
    pub fn orderly(start: Vec<u8>) -> Self {
        Cut { durable: start, seen: 0, pending: Vec::new(), chance: None }
    }

    /// A host that keeps any of what nobody has flushed, of a write any sectors.
    pub fn anyhow(start: Vec<u8>, seed: u64) -> Self {
        Cut { chance: Some(Rng(seed)), ..Cut::orderly(start) }
    }

    /// What it holds after the first `place` entries of `log`.
    pub fn at(&mut self, log: &[Op], place: usize) -> Vec<u8> {
        for (n, op) in log.iter().enumerate().take(place).skip(self.seen) {
            match op {
                op if self.chance.is_none() => apply(&mut self.durable, op),
                Op::Write(..) | Op::Zero(..) | Op::Resize(_) => self.pending.push(n),
                Op::FlushEnds { begun, from, to } => self.flush(log, *begun, (*from, *to)),
                Op::FlushBegins | Op::Sent(_) | Op::Answered(_) => {}
            }
        }
        self.seen = self.seen.max(place);
        let mut bytes = self.durable.clone();
        if let Some(rng) = &mut self.chance {
            self.pending.iter().for_each(|n| maybe(&mut bytes, &log[*n], rng));
        }
        bytes
    }

    /// What was asked for before `begun` and lies in the range is durable.
    fn flush(&mut self, log: &[Op], begun: usize, (from, to): (u64, u64)) {
        let inside = |op: &Op| match op {
            Op::Write(at, _) | Op::Zero(at, _) => (from..to).contains(at),
            // Sizes are of the whole.
            _ => from == 0,
        };
        self.pending.retain(|n| {
            let flushed = *n < begun && inside(&log[*n]);
            if flushed {
                apply(&mut self.durable, &log[*n]);
            }
            !flushed
        });
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
