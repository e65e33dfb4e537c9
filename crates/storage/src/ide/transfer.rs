//! Carrying out the steps of a command, and going on when the medium has done its part.

use std::sync::Arc;

use visor_block::{BlockBackend, BlockBuffer, BlockError, BlockErrorKind, BlockOp, BlockRequest, Sector, SharedBuffer};

use super::channel::{Channel, Phase, Submission};
use super::dma::Dma;
use crate::buffer::Sink;
use crate::packet::reason;
use crate::step::status::{BSY, DRDY, DRQ, DSC, ERR};
use crate::step::{Job, Mode, Step, Transfer, Way, error};

/// What follows when the medium is done.
pub(super) enum After {
    /// The guest reads `buffer`, then more is read.
    Read { buffer: SharedBuffer, rest: Option<Transfer> },
    /// The guest writes more.
    Wrote { rest: Option<Transfer>, durable: Option<Arc<dyn BlockBackend>> },
    /// DMA is over.
    Dma { durable: Option<Arc<dyn BlockBackend>> },
    /// The rest of a list, the next one last.
    Jobs { backend: Arc<dyn BlockBackend>, left: Vec<Job> },
}

impl Channel {
    /// Carries out `step` for drive `index`.
    pub(super) fn perform(&mut self, index: usize, step: Step) {
        let Some(d) = &mut self.drives[index] else { return };
        match (step, d.mode) {
            (Step::Done(error), _) => self.end(index, error, true),
            (Step::DataIn(data), _) if data.is_empty() => self.end(index, 0, true),
            (Step::Packet, _) => {
                d.phase = Phase::Packet(Vec::new());
                // The most bytes of a block are in the byte count registers; FFFFh counts as FFFEh, and so must 0 (SFF-8020i §5.6).
                d.limit = match (d.r.mid & 0xff) | d.r.high << 8 {
                    0 | 0xffff => 0xfffe,
                    n => usize::from(n).max(2),
                };
                d.r.status = DRDY | DRQ;
                d.r.count = reason::COMMAND;
            }
            (Step::DataIn(data), Mode::Dma) => self.offer_dma(index, Dma::In(data)),
            (Step::DataOut(len), Mode::Dma) => self.offer_dma(index, Dma::Out(len)),
            (Step::Transfer(t), Mode::Dma) => self.offer_dma(index, Dma::Transfer(t)),
            (Step::DataIn(data), Mode::Pio) => self.pio_in(index, data, None),
            (Step::DataOut(len), Mode::Pio) => self.pio_out(index, len, None),
            (Step::Transfer(t), Mode::Pio) if t.way == Way::In => self.read_chunk(index, t),
            (Step::Transfer(t), Mode::Pio) => self.accept_chunk(index, t),
            (Step::Jobs(backend, mut jobs), _) => {
                jobs.reverse();
                self.next_job(index, backend, jobs);
            }
        }
    }

    /// The command has ended.
    pub(super) fn end(&mut self, index: usize, error: u8, interrupt: bool) {
        let Some(d) = &mut self.drives[index] else { return };
        d.phase = Phase::Idle;
        d.r.error = error;
        d.r.status = DRDY | if d.unit.is_packet() { 0 } else { DSC } | if error == 0 { 0 } else { ERR };
        if d.in_packet() {
            d.r.count = reason::STATUS;
        }
        if interrupt {
            self.interrupt(index);
        }
    }

    /// Hands a request to the medium; `after` follows.
    pub(super) fn submit(
        &mut self,
        index: usize,
        backend: Arc<dyn BlockBackend>,
        (op, sector, len): (BlockOp, Sector, u64),
        buffer: Box<dyn BlockBuffer>,
        after: After,
    ) {
        let Some(d) = &mut self.drives[index] else { return };
        d.r.status = BSY | DRDY;
        d.phase = Phase::Medium(after);
        let (me, epoch) = (self.me.clone(), d.epoch);
        let done = move |result| {
            if let Some(channel) = me.upgrade() {
                channel.completed(index, epoch, result);
            }
        };
        let request = BlockRequest::new(op, sector, len, buffer, done);
        let submission = Submission { backend, request };
        if d.under_way == 0 {
            self.outbox.push(submission)
        } else {
            d.held = Some(submission)
        }
        d.under_way += 1;
    }

    /// A request has completed; if its command was aborted meanwhile, that only makes way for the next.
    pub(super) fn completed(&mut self, index: usize, epoch: u64, result: Result<(), BlockError>) {
        let Some(d) = &mut self.drives[index] else { return };
        d.under_way = d.under_way.saturating_sub(1);
        if d.under_way == 1 {
            self.outbox.extend(d.held.take());
        }
        if d.epoch != epoch {
            return;
        }
        let after = match std::mem::replace(&mut d.phase, Phase::Idle) {
            Phase::Medium(after) => after,
            other => {
                d.phase = other;
                return;
            }
        };
        match result {
            Ok(()) => self.go_on(index, after),
            Err(e) => self.failed(index, &after, &e),
        }
    }

    fn go_on(&mut self, index: usize, after: After) {
        match after {
            After::Read { buffer, rest } => self.pio_in(index, buffer.take(), rest),
            After::Wrote { rest: Some(rest), .. } => {
                self.accept_chunk(index, rest);
                self.interrupt(index);
            }
            After::Wrote { durable: Some(backend), .. } | After::Dma { durable: Some(backend) } => {
                let flush = Job { op: BlockOp::Flush, sector: Sector(0), len: 0 };
                if matches!(self.drives[index].as_ref().map(|d| d.mode), Some(Mode::Dma)) {
                    self.bus_master.finished();
                }
                self.next_job(index, backend, vec![flush]);
            }
            After::Wrote { .. } => self.end(index, 0, true),
            After::Dma { .. } => {
                self.bus_master.finished();
                self.end(index, 0, true);
            }
            After::Jobs { backend, left } => self.next_job(index, backend, left),
        }
    }

    fn failed(&mut self, index: usize, after: &After, e: &BlockError) {
        tracing::warn!(drive = index, error = %e, "disk request failed");
        let Some(d) = &mut self.drives[index] else { return };
        let mut register = d.unit.failed(e.kind);
        // A write that failed has aborted; UNC is for data that could not be read.
        if !matches!(after, After::Read { .. }) && d.r.command != 0xa0 && register == error::UNC && writes(d.r.command)
        {
            register = error::ABRT;
        }
        if matches!(after, After::Dma { .. }) {
            self.bus_master.failed(e.kind == BlockErrorKind::BadBuffer);
        }
        self.end(index, register, true);
    }

    fn next_job(&mut self, index: usize, backend: Arc<dyn BlockBackend>, mut left: Vec<Job>) {
        let Some(job) = left.pop() else {
            self.end(index, 0, true);
            return;
        };
        let buffer = Sink(if job.op == BlockOp::Read { job.len as usize } else { 0 });
        let after = After::Jobs { backend: backend.clone(), left };
        self.submit(index, backend, (job.op, job.sector, job.len), Box::new(buffer), after);
    }
}

/// Whether a command changes the medium.
fn writes(command: u8) -> bool {
    matches!(command, 0x06 | 0x30 | 0x31 | 0x34 | 0x35 | 0x39 | 0x3d | 0xc5 | 0xca | 0xcb | 0xce | 0xe7 | 0xea)
}
