//! A guest: threads that write, make zeroes, discard and flush, and remember what they asked for.

use std::sync::{Arc, Mutex};
use std::thread;

use visor_block::{BlockBackend, BlockOp, SECTOR, Sector, SharedBuffer};

use crate::medium::{Log, Op};
use crate::{Expect, Rng};

/// What a request was for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// New contents of sectors, which bear the request's number.
    Write,
    /// The same, durable when it is answered.
    Through,
    /// The sectors are zero.
    Zero,
    /// The sectors are of no interest any more.
    Discard,
    /// What was answered before is to be durable.
    Flush,
    /// A snapshot of this name.
    Snapshot(String),
    /// The disk is to have so many sectors.
    Grow(u64),
}

/// A request: what for, from which sector, how many.
pub(crate) type Asked = (Action, u64, u64);

/// Writes bytes from a sector on through to the medium.
pub type WriteThrough = Arc<dyn Fn(u64, &[u8]) + Send + Sync>;

/// All threads together.
#[derive(Clone)]
pub struct Guest {
    disk: Arc<dyn BlockBackend>,
    log: Log,
    asked: Arc<Mutex<Vec<Asked>>>,
    through: Option<WriteThrough>,
}

impl Guest {
    /// A guest of `disk`, which writes into the list of the disk's medium.
    pub fn new(disk: Arc<dyn BlockBackend>, log: &Log) -> Self {
        Guest { disk, log: log.clone(), asked: Arc::default(), through: None }
    }

    /// The same, with a way to the disk that has writes that are durable when they are answered. Without one, a guest writes and then flushes,
    /// as devices carry that out.
    #[must_use]
    pub fn with_through(self, through: WriteThrough) -> Self {
        Guest { through: Some(through), ..self }
    }

    /// Runs `threads` threads of `steps` requests each on parts of the disk of their own, while this one takes the snapshots and makes
    /// the disk larger, where it can do that.
    pub fn run(&self, threads: u64, steps: usize, seed: u64) {
        let sectors = self.disk.geometry().sectors;
        let each = sectors / threads;
        let workers: Vec<_> = (0..threads)
            .map(|t| {
                let (me, mut rng) = (self.clone(), Rng(seed.wrapping_mul(1000) + t));
                thread::spawn(move || (0..steps).for_each(|_| me.step(&mut rng, t * each, each)))
            })
            .collect();
        for n in 0..3 {
            thread::yield_now();
            if let Some(s) = self.disk.as_snapshots() {
                let name = format!("s{n}");
                self.ask(Action::Snapshot(name.clone()), 0, 0, || s.create(&name, 0).unwrap());
            }
            if let Some(r) = self.disk.as_resize() {
                let more = sectors + (n + 1) * 64;
                self.ask(Action::Grow(more), 0, 0, || r.resize(more).unwrap());
                self.write(more - 40, 40);
            }
        }
        workers.into_iter().for_each(|w| w.join().unwrap());
    }

    /// What may be expected of the disk afterwards.
    pub fn expect(&self) -> Expect {
        Expect::new(self.asked.lock().unwrap().clone())
    }

    fn step(&self, rng: &mut Rng, first: u64, sectors: u64) {
        let at = first + rng.below(sectors);
        let len = 1 + rng.below((first + sectors - at).min(200));
        match rng.below(20) {
            0..=9 => self.write(at, len),
            10..=11 => {
                let op = BlockOp::WriteZeroes { may_unmap: rng.below(2) == 0 };
                self.ask(Action::Zero, at, len, || self.request(op, at, len, SharedBuffer::default()));
            }
            12..=13 => {
                self.ask(Action::Discard, at, len, || self.request(BlockOp::Discard, at, len, SharedBuffer::default()));
            }
            14..=15 => self.write_through(at, len),
            _ => self.flush(),
        }
    }

    fn write(&self, at: u64, len: u64) {
        let number = self.number(Action::Write, at, len);
        let data: Vec<u8> = (at..at + len).flat_map(|s| sector(number, s)).collect();
        self.request(BlockOp::Write, at, len, SharedBuffer::new(data));
        self.log.push(Op::Answered(number));
    }

    fn write_through(&self, at: u64, len: u64) {
        let Some(through) = &self.through else {
            self.write(at, len);
            return self.flush();
        };
        let number = self.number(Action::Through, at, len);
        let data: Vec<u8> = (at..at + len).flat_map(|s| sector(number, s)).collect();
        through(at, &data);
        self.log.push(Op::Answered(number));
    }

    fn flush(&self) {
        self.ask(Action::Flush, 0, 0, || self.request(BlockOp::Flush, 0, 0, SharedBuffer::default()));
    }

    fn ask(&self, action: Action, at: u64, len: u64, carry_out: impl FnOnce()) {
        let number = self.number(action, at, len);
        carry_out();
        self.log.push(Op::Answered(number));
    }

    /// Notes a request as sent.
    fn number(&self, action: Action, at: u64, len: u64) -> usize {
        let mut asked = self.asked.lock().unwrap();
        asked.push((action, at, len));
        let number = asked.len() - 1;
        drop(asked);
        self.log.push(Op::Sent(number));
        number
    }

    fn request(&self, op: BlockOp, at: u64, len: u64, buffer: SharedBuffer) {
        visor_block::run(&*self.disk, op, Sector(at), len * SECTOR, Box::new(buffer)).unwrap();
    }
}

/// What a request writes into a sector.
pub(crate) fn sector(number: usize, at: u64) -> Vec<u8> {
    let words = [number as u64 + 1, at];
    let one: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    one.repeat(SECTOR as usize / one.len())
}
