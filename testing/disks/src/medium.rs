//! A file in memory that keeps what it was asked to do.

use std::io;
use std::sync::{Arc, Mutex};

use visor_block::{BlockBackend, BlockError, BlockErrorKind, BlockGeometry, BlockOp, BlockRequest, SECTOR};
use visor_qcow2::Storage;

/// What happened, in order.
#[derive(Clone, Debug)]
pub enum Op {
    /// The medium was given these bytes.
    Write(u64, Vec<u8>),
    /// It was told that a range reads as zeroes.
    Zero(u64, u64),
    /// It was cut or has grown.
    Resize(u64),
    /// A flush began.
    FlushBegins,
    /// A flush has ended: what the list has of these bytes before the place where it began is durable.
    FlushEnds {
        /// Place of [`Op::FlushBegins`].
        begun: usize,
        /// First byte.
        from: u64,
        /// Byte behind the last one.
        to: u64,
    },
    /// The guest has sent its request of this number.
    Sent(usize),
    /// The guest has seen its request of this number succeed.
    Answered(usize),
}

/// The list.
#[derive(Clone, Debug, Default)]
pub struct Log(Arc<Mutex<Vec<Op>>>);

impl Log {
    /// Adds to it; returns the place.
    pub fn push(&self, op: Op) -> usize {
        let mut list = self.0.lock().unwrap();
        list.push(op);
        list.len() - 1
    }

    /// All of it, leaving nothing.
    pub fn take(&self) -> Vec<Op> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// The file.
#[derive(Clone, Debug)]
pub struct Medium {
    bytes: Arc<Mutex<Vec<u8>>>,
    log: Log,
}

impl Medium {
    /// A file with `bytes` that writes into `log`.
    pub fn new(bytes: Vec<u8>, log: &Log) -> Self {
        Medium { bytes: Arc::new(Mutex::new(bytes)), log: log.clone() }
    }

    /// What it holds.
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }

    fn change(&self, op: Op) {
        let mut bytes = self.bytes.lock().unwrap();
        apply(&mut bytes, &op);
        self.log.push(op);
    }

    fn flush_range(&self, from: u64, to: u64) {
        // Others go on meanwhile, and what they write is not covered.
        let begun = self.log.push(Op::FlushBegins);
        std::thread::yield_now();
        self.log.push(Op::FlushEnds { begun, from, to });
    }
}

/// Carries out what `op` says.
pub(crate) fn apply(bytes: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Write(at, data) => {
            let (at, end) = (*at as usize, *at as usize + data.len());
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[at..end].copy_from_slice(data);
        }
        Op::Zero(at, len) => {
            let end = ((at + len) as usize).min(bytes.len());
            if (*at as usize) < end {
                bytes[*at as usize..end].fill(0);
            }
        }
        Op::Resize(size) => bytes.resize(*size as usize, 0),
        Op::FlushBegins | Op::FlushEnds { .. } | Op::Sent(_) | Op::Answered(_) => {}
    }
}

impl Storage for Medium {
    fn size(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().unwrap().len() as u64)
    }

    fn read_at(&self, data: &mut [u8], at: u64) -> io::Result<()> {
        let bytes = self.bytes.lock().unwrap();
        let from = bytes.get(at as usize..).unwrap_or_default();
        let n = data.len().min(from.len());
        data[..n].copy_from_slice(&from[..n]);
        data[n..].fill(0);
        Ok(())
    }

    fn write_at(&self, data: &[u8], at: u64) -> io::Result<()> {
        self.change(Op::Write(at, data.to_vec()));
        Ok(())
    }

    fn zero_at(&self, at: u64, len: u64) -> io::Result<()> {
        self.change(Op::Zero(at, len));
        Ok(())
    }

    fn release(&self, at: u64, len: u64) -> io::Result<()> {
        self.zero_at(at, len)
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        if self.size()? < at + len { self.set_size(at + len) } else { Ok(()) }
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.change(Op::Resize(size));
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.flush_range(0, u64::MAX);
        Ok(())
    }
}

/// A range of the file that is a store of its own, of fixed size: its flushes concern nothing else.
#[derive(Clone, Debug)]
pub struct MediumPart {
    /// The whole.
    pub medium: Medium,
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub len: u64,
}

impl MediumPart {
    fn at(&self, at: u64, len: u64) -> io::Result<u64> {
        let end = at.checked_add(len).filter(|end| *end <= self.len);
        end.map(|_| self.start + at).ok_or(io::ErrorKind::UnexpectedEof.into())
    }
}

impl Storage for MediumPart {
    fn size(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn read_at(&self, data: &mut [u8], at: u64) -> io::Result<()> {
        self.medium.read_at(data, self.at(at, data.len() as u64)?)
    }

    fn write_at(&self, data: &[u8], at: u64) -> io::Result<()> {
        self.medium.write_at(data, self.at(at, data.len() as u64)?)
    }

    fn zero_at(&self, at: u64, len: u64) -> io::Result<()> {
        self.medium.zero_at(self.at(at, len)?, len)
    }

    fn release(&self, at: u64, len: u64) -> io::Result<()> {
        self.zero_at(at, len)
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        self.at(at, len).map(|_| ())
    }

    fn set_size(&self, _size: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn flush(&self) -> io::Result<()> {
        self.medium.flush_range(self.start, self.start + self.len);
        Ok(())
    }
}

/// The file as a disk of its own, as below a layer that knows nothing of files.
#[derive(Clone, Debug)]
pub struct MediumDisk(pub Medium);

impl MediumDisk {
    fn serve(&self, request: &mut BlockRequest) -> Result<(), BlockError> {
        let at = request.check(&self.geometry())?;
        let done = match request.op {
            BlockOp::Read => {
                let mut data = vec![0; request.len as usize];
                let read = self.0.read_at(&mut data, at);
                request.buffer.put(0, &data)?;
                read
            }
            BlockOp::Write => {
                let mut data = vec![0; request.len as usize];
                request.buffer.get(0, &mut data)?;
                self.0.write_at(&data, at)
            }
            BlockOp::Flush => self.0.flush(),
            BlockOp::Discard => Ok(()),
            BlockOp::WriteZeroes { .. } => self.0.zero_at(at, request.len),
        };
        done.map_err(|e| BlockError::new(BlockErrorKind::Io, e.to_string()))
    }
}

impl BlockBackend for MediumDisk {
    fn geometry(&self) -> BlockGeometry {
        let sectors = self.0.bytes.lock().unwrap().len() as u64 / SECTOR;
        BlockGeometry { sectors, physical_block: 512, read_only: false }
    }

    fn submit(&self, mut request: BlockRequest) {
        let result = self.serve(&mut request);
        request.complete(result);
    }

    fn drain(&self) {}
}
