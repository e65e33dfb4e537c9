//! The whole engine on a simulated host: no test here waits for real time or depends on chance.

mod cable;
mod datagrams;
pub(crate) mod frames;
mod hostile;
mod services;
pub(crate) mod sim;
mod tcp_cases;
mod transfers;

use visor_net::{Frame, Sent};

use crate::{NatConfig, NatEngine, Time};
use sim::SimHost;

/// An engine on a simulated host.
pub(crate) fn engine(config: NatConfig) -> NatEngine<SimHost> {
    NatEngine::new(config, SimHost::new()).unwrap()
}

/// Everything that the engine has for the guest now.
pub(crate) fn drain(engine: &mut NatEngine<SimHost>, now: Time) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    engine.poll(now, &mut |f: Frame<'_>| {
        frames.push(f.data.to_vec());
        Sent::Yes
    });
    frames
}

/// Sends a frame and takes the answers.
pub(crate) fn ask(engine: &mut NatEngine<SimHost>, now: Time, frame: &[u8]) -> Vec<Vec<u8>> {
    engine.ingress(now, Frame::plain(frame));
    drain(engine, now)
}

/// A generator of the same numbers on every run (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 16) % n.max(1)
    }
}

/// Bytes that tell where they belong.
fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..len).map(|_| random.next() as u8).collect()
}
