//! The cache of decoded basic blocks and its coherence with guest memory.
//!
//! A [`Block`] is keyed by the physical place of its bytes and the [`Mode`] they were decoded in, so that the same page
//! mapped at several linear addresses is decoded once. In front of it stands a direct-mapped jump cache keyed by linear RIP,
//! valid within one `code_generation` of the MMU. Its entries are a cache line each and hold all that a hit needs.
//!
//! A block is current while the stamp of its frame (of both, if its one instruction crosses a page) is the one it was decoded
//! under; see `visor_memory` for who moves stamps. Stale blocks are replaced when they are looked up, and stay in memory until
//! the whole cache starts over, so that nothing that still refers to them ever dangles.

use std::sync::atomic::{AtomicU32, Ordering};

use iced_x86::{Decoder, DecoderOptions, Instruction};
use rustc_hash::FxHashMap;
use visor_engine::DecoderStats;
use visor_memory::{Frame, Gpa, GuestMemory, PAGE, RamPage};

use crate::cpu::{CodeSize, Cpu, Mode};
use crate::decode::{MAX_LEN, lower, mark_too_long};
use crate::op::{Guest, Op};

/// Longest block, in instructions.
const MAX_OPS: usize = 64;
/// Ops kept before the cache starts over (48 to 80 bytes each).
const CAPACITY: usize = 400_000;
/// Entries of the jump cache: 64 bytes each.
const JUMPS: usize = 16384;

/// A straight run of decoded instructions.
#[derive(Debug)]
struct Block {
    /// At least one instruction.
    ops: Box<[Op]>,
    /// Frame and stamp of the first byte's page.
    first: (Frame, u32),
    /// Frame and stamp of the second page, if the only instruction crosses into one.
    second: Option<(Frame, u32)>,
}

impl Block {
    /// No byte of it has been written since it was decoded.
    #[inline(always)]
    fn current(&self, ram: &GuestMemory) -> bool {
        let f = ram.frames();
        f.stamp(self.first.0) == self.first.1 && self.second.is_none_or(|(frame, stamp)| f.stamp(frame) == stamp)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    /// Frame and offset of the first byte.
    at: u64,
    /// Frame of the second page for an instruction that crosses.
    second: Option<u32>,
    mode: Mode,
}

/// The ops of a block, from the first to one past the last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) first: *const Op,
    pub(crate) end: *const Op,
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Jump {
    lin: u64,
    generation: u64,
    /// Where the stamp of the first byte's frame is.
    stamp_at: *const AtomicU32,
    /// What it was.
    stamp: u32,
    mode: Mode,
    run: Run,
}

/// The stamp of an entry that never hits.
static NO_STAMP: AtomicU32 = AtomicU32::new(0);

/// Decoded blocks of one CPU.
pub(crate) struct Blocks {
    map: FxHashMap<Key, Block>,
    /// `JUMPS` entries.
    jumps: Vec<Jump>,
    /// The last block decoded from something that is not RAM; never found again.
    uncached: Option<Block>,
    /// Blocks that were replaced; jump entries may still name them.
    retired: Vec<Block>,
    /// Ops in `map` and `retired`.
    ops: usize,
    /// What became of blocks.
    pub(crate) stats: DecoderStats,
}

// SAFETY: the raw pointers refer to boxes owned by the same value.
unsafe impl Send for Blocks {}

impl std::fmt::Debug for Blocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Blocks({} blocks, {} ops)", self.map.len(), self.ops)
    }
}

impl Default for Blocks {
    fn default() -> Self {
        Blocks {
            map: FxHashMap::default(),
            jumps: vec![Jump::NONE; JUMPS],
            uncached: None,
            retired: Vec::new(),
            ops: 0,
            stats: DecoderStats::default(),
        }
    }
}

impl Jump {
    const NONE: Jump = Jump {
        lin: 0,
        generation: u64::MAX,
        stamp_at: &NO_STAMP,
        stamp: 1,
        mode: Mode { size: CodeSize::Bits16, protected: false, single: false },
        run: Run { first: std::ptr::null(), end: std::ptr::null() },
    };
}

impl Block {
    fn run(&self) -> Run {
        let ops = self.ops.as_ptr_range();
        Run { first: ops.start, end: ops.end }
    }
}

impl Blocks {
    /// The ops of the block at linear address `lin` of `cpu`, which stay valid until the next call.
    ///
    /// # Errors
    /// The exception of an instruction fetch, in `cpu.fault`.
    #[inline(always)]
    pub(crate) fn find(&mut self, cpu: &mut Cpu, lin: u64, mode: Mode) -> Guest<Run> {
        debug_assert_eq!(self.jumps.len(), JUMPS);
        // SAFETY: the index is below JUMPS, the length of the vector.
        let jump = unsafe { self.jumps.get_unchecked(jump_index(lin)) };
        // SAFETY: stamps live as long as guest RAM, which the CPU keeps, or for ever.
        let stamp = unsafe { (*jump.stamp_at).load(Ordering::Acquire) };
        if jump.lin == lin
            && jump.generation == cpu.mmu.generation(lin)
            && jump.mode.bits() == mode.bits()
            && stamp == jump.stamp
        {
            return Ok(jump.run);
        }
        self.find_slow(cpu, lin, mode)
    }

    #[cold]
    #[inline(never)]
    fn find_slow(&mut self, cpu: &mut Cpu, lin: u64, mode: Mode) -> Guest<Run> {
        let place = cpu.fetch(lin)?;
        if !cpu.watches.is_empty() {
            cpu.report_watches(lin);
        }
        let Some(page) = place.page else {
            let mut bytes = [0u8; MAX_LEN];
            for (i, b) in bytes.iter_mut().enumerate() {
                cpu.io().mmio_read(Gpa(place.gpa.0 + i as u64), std::slice::from_mut(b));
            }
            let block = decode_one(cpu, &bytes, mode);
            return Ok(self.uncached.insert(block).run());
        };
        let offset = lin % PAGE;
        let key = Key { at: u64::from(page.frame.0) * PAGE + offset, second: None, mode };
        if let Some(block) = self.map.get(&key)
            && block.current(&cpu.ram)
        {
            self.jumps[jump_index(lin)] = jump(cpu, lin, mode, block);
            return Ok(block.run());
        }
        if self.ops > CAPACITY {
            self.clear();
        }
        match decode_run(cpu, page, offset, mode) {
            Some(block) => Ok(self.insert(cpu, lin, key, block)),
            None => {
                // The first instruction needs bytes of the next page. Its own page is code as well.
                let next = cpu.fetch((lin & !(PAGE - 1)).wrapping_add(PAGE))?;
                let Some(next) = next.page else { return cpu.fail(visor_x86::Exception::gp(0)) };
                let key = Key { second: Some(next.frame.0), ..key };
                if let Some(block) = self.map.get(&key)
                    && block.current(&cpu.ram)
                {
                    return Ok(block.run());
                }
                let block = decode_crossing(cpu, page, offset, next, mode);
                Ok(self.insert(cpu, lin, key, block))
            }
        }
    }

    fn insert(&mut self, cpu: &Cpu, lin: u64, key: Key, block: Block) -> Run {
        self.ops += block.ops.len();
        let run = block.run();
        if block.second.is_none() {
            self.jumps[jump_index(lin)] = jump(cpu, lin, key.mode, &block);
        }
        self.stats.blocks += 1;
        let stale = self.map.insert(key, block);
        self.stats.stale += u64::from(stale.is_some());
        self.retired.extend(stale);
        run
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.stats.flushes += 1;
        self.jumps.fill(Jump::NONE);
        self.map.clear();
        self.retired.clear();
        self.ops = 0;
    }
}

/// The jump entry for a block within one page. Those that cross are looked up in full, as both their stamps must be.
fn jump(cpu: &Cpu, lin: u64, mode: Mode, block: &Block) -> Jump {
    let (frame, stamp) = block.first;
    let stamp_at = std::ptr::from_ref(cpu.ram.frames().stamp_cell(frame));
    Jump { lin, generation: cpu.mmu.generation(lin), stamp_at, stamp, mode, run: block.run() }
}

#[inline(always)]
fn jump_index(lin: u64) -> usize {
    (lin ^ (lin >> 14)) as usize & (JUMPS - 1)
}

/// Decodes instructions from `offset` of `page` up to the end of the block or the page; `None` if even the first one runs
/// over the page's end.
fn decode_run(cpu: &mut Cpu, page: RamPage, offset: u64, mode: Mode) -> Option<Block> {
    let room = (PAGE - offset) as usize;
    let limit = if mode.single { 1 } else { MAX_OPS };
    let mut bytes = [0u8; MAX_OPS * MAX_LEN];
    let window = room.min(limit * MAX_LEN);
    read_page(page, offset, &mut bytes[..window]);
    let mut ops = decode_ops(cpu, &bytes[..window], mode, limit);
    // Only the bytes that the block is made of are code: whatever lies behind them may be data that is written often. They
    // must be marked before they are read, so that a write that comes later moves the stamp: read again what may have
    // changed before the mark.
    let mut len = ops.as_deref().map_or(window, length);
    let mut stamp = cpu.ram.frames().mark_code(page.frame, offset, len as u64);
    let mut again = [0u8; MAX_OPS * MAX_LEN];
    read_page(page, offset, &mut again[..len]);
    if again[..len] != bytes[..len] {
        len = window;
        stamp = cpu.ram.frames().mark_code(page.frame, offset, len as u64);
        read_page(page, offset, &mut again[..len]);
        ops = decode_ops(cpu, &again[..len], mode, limit);
    }
    Some(Block { ops: ops?.into_boxed_slice(), first: (page.frame, stamp), second: None })
}

/// Bytes from the first of `ops` to the end of the last.
fn length(ops: &[Op]) -> usize {
    ops.last().map_or(0, |op| usize::from(op.off) + usize::from(op.len))
}

fn decode_ops(cpu: &mut Cpu, bytes: &[u8], mode: Mode, limit: usize) -> Option<Vec<Op>> {
    let mut decoder = Decoder::with_ip(mode.size.bits(), bytes, 0, options());
    let mut ops: Vec<Op> = Vec::new();
    let mut ins = Instruction::default();
    while ops.len() < limit && decoder.can_decode() {
        let at = decoder.position();
        decoder.decode_out(&mut ins);
        // Too few bytes left to tell what the instruction is: it may go on in the next page.
        if ins.is_invalid() && bytes.len() - at < MAX_LEN && decoder.last_error() == iced_x86::DecoderError::NoMoreBytes
        {
            break;
        }
        if let Some(window) = bytes[at..].first_chunk() {
            mark_too_long(&mut ins, window, mode.size.bits());
        }
        let lowered = lower(cpu, &ins, mode, at as u16);
        ops.push(lowered.op);
        if lowered.ends {
            break;
        }
    }
    (!ops.is_empty()).then_some(ops)
}

fn decode_crossing(cpu: &mut Cpu, page: RamPage, offset: u64, next: RamPage, mode: Mode) -> Block {
    let here = (PAGE - offset) as usize;
    let mut bytes = [0u8; MAX_LEN];
    let first = cpu.ram.frames().mark_code(page.frame, offset, here as u64);
    let second = cpu.ram.frames().mark_code(next.frame, 0, (MAX_LEN - here) as u64);
    read_page(page, offset, &mut bytes[..here]);
    read_page(next, 0, &mut bytes[here..]);
    let mut block = decode_one(cpu, &bytes, mode);
    block.first = (page.frame, first);
    block.second = Some((next.frame, second));
    block
}

/// One instruction from a full window of bytes, not tied to any frame yet.
fn decode_one(cpu: &mut Cpu, bytes: &[u8; MAX_LEN], mode: Mode) -> Block {
    let mut decoder = Decoder::with_ip(mode.size.bits(), bytes, 0, options());
    let mut ins = decoder.decode();
    mark_too_long(&mut ins, bytes, mode.size.bits());
    let op = lower(cpu, &ins, mode, 0).op;
    let stamp = cpu.ram.frames().stamp(Frame(0));
    Block { ops: Box::new([op]), first: (Frame(0), stamp), second: None }
}

/// Decoder options: the instructions of the virtual CPU, without those of vendors it does not imitate.
fn options() -> u32 {
    // F3 90 decodes as NOP with a prefix (`decode::is_pause`); with REX.B it is XCHG R8, RAX.
    DecoderOptions::NO_PAUSE
}

/// Copies from a RAM page; other threads may write it meanwhile.
pub(crate) fn read_page(page: RamPage, offset: u64, out: &mut [u8]) {
    // SAFETY: callers keep the range within the page, which lives as long as guest RAM.
    let at = unsafe { page.host.add(offset as usize) };
    let (words, rest) = out.as_chunks_mut::<8>();
    for (i, word) in words.iter_mut().enumerate() {
        // SAFETY: as above.
        *word = unsafe { crate::mmu::peek::<u64>(at.add(8 * i)) }.to_le_bytes();
    }
    let done = 8 * words.len();
    for (i, b) in rest.iter_mut().enumerate() {
        // SAFETY: as above.
        *b = unsafe { at.add(done + i).read_volatile() };
    }
}
