//! One command: decoded, executed by its unit, carried out, and its result given back (virtio 1.2 §5.6.6.1).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use visor_block::{BlockBackend, BlockBuffer, BlockError, BlockErrorKind, BlockOp, BlockRequest, Sector};
use visor_storage::{Job, Step, Transfer, Way, no_such_unit};

use super::tasks::Management;
use super::*;
use crate::Chain;
use crate::block_buffer::{GuestBuffer, Sink};

/// Bytes before the command, and before the sense data.
const HEADER: usize = 19;
const RESULT: usize = 12;

/// SCSI status (SAM-5 §5.3.1).
const GOOD: u8 = 0;
const CHECK_CONDITION: u8 = 2;

/// A command of the driver. The operations that it consists of hold it; when the last one lets go, its result is written and the
/// chain goes back.
pub(super) struct Request {
    shared: Arc<Shared>,
    chain: Option<Chain>,
    sense_size: usize,
    /// Data from and to the driver.
    out: Buffer,
    into: Buffer,
    /// The driver's name for it.
    pub(super) id: u64,
    /// Where it is under way: the target, and its number there.
    task: Mutex<Option<(Arc<Target>, u64)>>,
    outcome: Mutex<Outcome>,
    aborted: AtomicBool,
    /// Functions that wait for its end.
    waiting: Mutex<Vec<Arc<Management>>>,
}

#[derive(Default)]
struct Outcome {
    response: u8,
    status: u8,
    sense: Vec<u8>,
    /// Bytes of data that moved.
    moved: u64,
}

/// Starts the command in `chain`.
pub(super) fn start(shared: &Arc<Shared>, chain: Chain) {
    let cdb_size = shared.cdb_size.load(Ordering::Relaxed) as usize;
    let sense_size = shared.sense_size.load(Ordering::Relaxed) as usize;
    let mut cdb = vec![0; cdb_size];
    let (head, result) = (HEADER + cdb_size, RESULT + sense_size);
    let (readable, writable) = (&chain.readable, &chain.writable);
    let out = readable.len().checked_sub(head).and_then(|n| readable.slice(head, n).ok());
    let into = writable.len().checked_sub(result).and_then(|n| writable.slice(result, n).ok());
    let header = field::<HEADER>(readable, 0).filter(|_| readable.get(HEADER, &mut cdb).is_ok());
    let (Some(out), Some(into), Some(header)) = (out, into, header) else {
        // A reset in between also ends here; its queue no longer runs, and nothing fails.
        if let Some(queues) = shared.queues.get() {
            queues.fail("SCSI request without header or room for the result");
        }
        return;
    };
    shared.in_flight.add();
    let (lun, id) = header[..16].split_at(8);
    let request = Arc::new(Request {
        shared: shared.clone(),
        chain: Some(chain),
        sense_size,
        out,
        into,
        id: id.try_into().map_or(0, u64::from_le_bytes),
        task: Mutex::default(),
        outcome: Mutex::default(),
        aborted: AtomicBool::new(false),
        waiting: Mutex::default(),
    });
    let at = address(lun).and_then(|(target, unit)| Some((shared.target(target)?, unit)));
    match at {
        None => lock(&request.outcome).response = response::BAD_TARGET,
        Some((_, unit)) if unit != 0 => match no_such_unit(&cdb) {
            Ok(data) => request.deliver(&data),
            Err(sense) => request.check(sense),
        },
        Some((target, _)) => request.execute(&target, &cdb),
    }
}

impl Request {
    fn execute(self: &Arc<Self>, target: &Arc<Target>, cdb: &[u8]) {
        let mut unit = target.unit();
        let mut step = unit.execute(cdb);
        if let Step::DataOut(len) = step {
            let mut data = vec![0; len];
            if self.out.get(0, &mut data).is_err() {
                return self.overrun();
            }
            lock(&self.outcome).moved = len as u64;
            step = unit.data(&data);
        }
        let sense = matches!(step, Step::Done(key) if key != 0).then(|| unit.sense());
        drop(unit);
        if let Some(sense) = sense {
            return self.check(sense);
        }
        match step {
            Step::DataIn(data) => self.deliver(&data),
            Step::Transfer(t) => {
                self.begin(target);
                self.transfer(t);
            }
            Step::Jobs(backend, jobs) => {
                self.begin(target);
                self.next_job(backend, jobs.into());
            }
            Step::Done(_) | Step::DataOut(_) | Step::Packet => {}
        }
    }

    /// The command takes its time: others can end it.
    fn begin(self: &Arc<Self>, target: &Arc<Target>) {
        let number = target.next_task.fetch_add(1, Ordering::Relaxed);
        *lock(&self.task) = Some((target.clone(), number));
        lock(&target.tasks).insert(number, Arc::downgrade(self));
    }

    /// Ends the command as soon as what it has asked of the medium is over; `by` waits for that.
    pub(super) fn abort(&self, by: &Arc<Management>, response: u8) {
        lock(&self.waiting).push(by.clone());
        if !self.aborted.swap(true, Ordering::SeqCst) {
            lock(&self.outcome).response = response;
        }
    }

    /// These bytes are the answer.
    fn deliver(&self, data: &[u8]) {
        if data.len() > self.into.len() {
            return self.overrun();
        }
        // Fails for a stale chain only.
        let _ = self.into.put(0, data);
        lock(&self.outcome).moved = data.len() as u64;
    }

    fn overrun(&self) {
        lock(&self.outcome).response = response::OVERRUN;
    }

    /// The command has failed.
    fn check(&self, sense: Vec<u8>) {
        let mut o = lock(&self.outcome);
        (o.status, o.sense) = (CHECK_CONDITION, sense);
    }

    fn transfer(self: &Arc<Self>, t: Transfer) {
        let (op, data) = match t.way {
            Way::In => (BlockOp::Read, &self.into),
            Way::Out => (BlockOp::Write, &self.out),
        };
        let Ok(data) = usize::try_from(t.len).map_err(|_| ()).and_then(|n| data.slice(0, n).map_err(|_| ())) else {
            return self.overrun();
        };
        lock(&self.outcome).moved = t.len;
        let mut after = VecDeque::new();
        if t.durable {
            after.push_back(Job { op: BlockOp::Flush, sector: Sector(0), len: 0 });
        }
        self.submit(t.backend, (op, t.sector, t.len), Box::new(GuestBuffer(data)), after);
    }

    fn next_job(self: &Arc<Self>, backend: Arc<dyn BlockBackend>, mut jobs: VecDeque<Job>) {
        if self.aborted.load(Ordering::SeqCst) {
            return;
        }
        if let Some(job) = jobs.pop_front() {
            let buffer = Sink(if job.op == BlockOp::Read { job.len as usize } else { 0 });
            self.submit(backend, (job.op, job.sector, job.len), Box::new(buffer), jobs);
        }
    }

    /// Asks the medium; `after` follows if it does as asked.
    fn submit(
        self: &Arc<Self>,
        backend: Arc<dyn BlockBackend>,
        (op, sector, len): (BlockOp, Sector, u64),
        buffer: Box<dyn BlockBuffer>,
        after: VecDeque<Job>,
    ) {
        let (request, next) = (self.clone(), backend.clone());
        let done = move |result: Result<(), BlockError>| match result {
            Ok(()) => request.next_job(next, after),
            Err(error) => request.failed(op, &error),
        };
        backend.submit(BlockRequest::new(op, sector, len, buffer, done));
    }

    fn failed(&self, op: BlockOp, error: &BlockError) {
        if error.kind != BlockErrorKind::Lost {
            tracing::warn!(?op, %error, "SCSI command failed");
        }
        let task = lock(&self.task).clone();
        match task {
            // Giving space back is a wish, which a disk may not know (SBC-4 §4.7.3.4.2).
            Some(_) if op == BlockOp::Discard && error.kind == BlockErrorKind::Unsupported => {}
            Some((target, _)) => {
                let sense = target.unit().failed(error.kind);
                self.check(sense);
            }
            None => lock(&self.outcome).response = response::FAILURE,
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if let Some((target, number)) = lock(&self.task).take() {
            lock(&target.tasks).remove(&number);
        }
        if let Some(chain) = self.chain.take() {
            let o = lock(&self.outcome);
            let data = (self.out.len().max(self.into.len())) as u64;
            let moved = if o.response == response::OK && o.status == GOOD { o.moved.min(data) } else { 0 };
            let sense = &o.sense[..o.sense.len().min(self.sense_size)];
            let mut result = vec![0; RESULT + self.sense_size];
            result[..4].copy_from_slice(&(sense.len() as u32).to_le_bytes());
            result[4..8].copy_from_slice(&((data - moved) as u32).to_le_bytes());
            (result[10], result[11]) = (o.status, o.response);
            result[RESULT..RESULT + sense.len()].copy_from_slice(sense);
            // Fails for a stale chain only.
            let _ = chain.writable.put(0, &result);
            let written = result.len() + if self.into.is_empty() { 0 } else { moved as usize };
            chain.complete(written as u32);
        }
        self.shared.finished();
    }
}
