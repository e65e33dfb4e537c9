//! The cache of decoded basic blocks and its coherence with guest memory.
//!
//! A [`Block`] is keyed by the physical place of its bytes and the [`Mode`] they were decoded in, so that the same page
//! mapped at several linear addresses is decoded once. In front of it stands a direct-mapped jump cache keyed by linear RIP,
//! valid within one `code_generation` of the MMU.
//!
//! A block is current while the stamp of its frame (of both, if its one instruction crosses a page) is the one it was decoded
//! under; see `visor_memory` for who moves stamps. Stale blocks are replaced when they are looked up.

use iced_x86::{Decoder, DecoderOptions, Instruction};
use rustc_hash::FxHashMap;
use visor_memory::{Frame, Gpa, GuestMemory, PAGE, RamPage};

use crate::cpu::{Cpu, Mode};
use crate::decode::{MAX_LEN, lower, mark_too_long};
use crate::op::{Guest, Op};

/// Longest block, in instructions.
const MAX_OPS: usize = 64;
/// Ops kept before the cache starts over (48 to 80 bytes each).
const CAPACITY: usize = 400_000;
/// Entries of the jump cache.
const JUMPS: usize = 4096;

/// A straight run of decoded instructions.
#[derive(Debug)]
pub(crate) struct Block {
    /// At least one instruction.
    pub(crate) ops: Box<[Op]>,
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

#[derive(Clone, Copy)]
struct Jump {
    lin: u64,
    generation: u64,
    mode: Mode,
    block: *const Block,
}

/// Decoded blocks of one CPU.
pub(crate) struct Blocks {
    map: FxHashMap<Key, Box<Block>>,
    jumps: Box<[Jump]>,
    /// The last block decoded from something that is not RAM; never found again.
    uncached: Option<Box<Block>>,
    /// Blocks replaced while they may still run; freed when the next one is looked up.
    retired: Vec<Box<Block>>,
    ops: usize,
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
        let none = Jump { lin: 0, generation: u64::MAX, mode: Mode::default(), block: std::ptr::null() };
        Blocks {
            map: FxHashMap::default(),
            jumps: vec![none; JUMPS].into_boxed_slice(),
            uncached: None,
            retired: Vec::new(),
            ops: 0,
        }
    }
}

impl Blocks {
    /// The block at linear address `lin` of `cpu`, which stays valid until the next call.
    ///
    /// # Errors
    /// The exception of an instruction fetch, in `cpu.fault`.
    #[inline(always)]
    pub(crate) fn find(&mut self, cpu: &mut Cpu, lin: u64, mode: Mode) -> Guest<*const Block> {
        let jump = &self.jumps[jump_index(lin)];
        if jump.lin == lin && jump.generation == cpu.mmu.generation(lin) && jump.mode == mode {
            // SAFETY: jump entries are cleared before the block they name is freed.
            if unsafe { (*jump.block).current(&cpu.ram) } {
                return Ok(jump.block);
            }
        }
        self.find_slow(cpu, lin, mode)
    }

    #[cold]
    #[inline(never)]
    fn find_slow(&mut self, cpu: &mut Cpu, lin: u64, mode: Mode) -> Guest<*const Block> {
        self.retired.clear();
        let place = cpu.fetch(lin)?;
        let Some(page) = place.page else {
            let mut bytes = [0u8; MAX_LEN];
            for (i, b) in bytes.iter_mut().enumerate() {
                cpu.io().mmio_read(Gpa(place.gpa.0 + i as u64), std::slice::from_mut(b));
            }
            let block = decode_one(cpu, &bytes, mode);
            return Ok(&**self.uncached.insert(block));
        };
        let offset = lin % PAGE;
        let key = Key { at: u64::from(page.frame.0) * PAGE + offset, second: None, mode };
        if let Some(block) = self.map.get(&key)
            && block.current(&cpu.ram)
        {
            let block: *const Block = &**block;
            return Ok(self.remember(cpu, lin, mode, block));
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
                    let block: *const Block = &**block;
                    return Ok(self.remember(cpu, lin, mode, block));
                }
                let block = decode_crossing(cpu, page, offset, next, mode);
                Ok(self.insert(cpu, lin, key, block))
            }
        }
    }

    fn insert(&mut self, cpu: &Cpu, lin: u64, key: Key, block: Block) -> *const Block {
        self.ops += block.ops.len();
        let block = Box::new(block);
        let at: *const Block = &*block;
        if let Some(old) = self.map.insert(key, block) {
            self.ops -= old.ops.len();
            let old_at: *const Block = &*old;
            self.jumps.iter_mut().filter(|j| j.block == old_at).for_each(|j| j.generation = u64::MAX);
            self.retired.push(old);
        }
        self.remember(cpu, lin, key.mode, at)
    }

    fn remember(&mut self, cpu: &Cpu, lin: u64, mode: Mode, block: *const Block) -> *const Block {
        self.jumps[jump_index(lin)] = Jump { lin, generation: cpu.mmu.generation(lin), mode, block };
        block
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.jumps.iter_mut().for_each(|j| j.generation = u64::MAX);
        self.map.clear();
        self.ops = 0;
    }
}

#[inline(always)]
fn jump_index(lin: u64) -> usize {
    (lin ^ (lin >> 12)) as usize & (JUMPS - 1)
}

/// Decodes instructions from `offset` of `page` up to the end of the block or the page; `None` if even the first one runs
/// over the page's end.
fn decode_run(cpu: &mut Cpu, page: RamPage, offset: u64, mode: Mode) -> Option<Block> {
    let room = (PAGE - offset) as usize;
    let limit = if mode.single { 1 } else { MAX_OPS };
    let mut bytes = [0u8; MAX_OPS * MAX_LEN];
    let len = room.min(limit * MAX_LEN);
    // Mark before reading: a write that comes later then moves the stamp.
    let stamp = cpu.ram.frames().mark_code(page.frame, offset, len as u64);
    read_page(page, offset, &mut bytes[..len]);
    let ops = decode_ops(cpu, &bytes[..len], mode, limit)?;
    Some(Block { ops: ops.into_boxed_slice(), first: (page.frame, stamp), second: None })
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
    *block
}

/// One instruction from a full window of bytes, not tied to any frame yet.
fn decode_one(cpu: &mut Cpu, bytes: &[u8; MAX_LEN], mode: Mode) -> Box<Block> {
    let mut decoder = Decoder::with_ip(mode.size.bits(), bytes, 0, options());
    let mut ins = decoder.decode();
    mark_too_long(&mut ins, bytes, mode.size.bits());
    let op = lower(cpu, &ins, mode, 0).op;
    let stamp = cpu.ram.frames().stamp(Frame(0));
    Box::new(Block { ops: Box::new([op]), first: (Frame(0), stamp), second: None })
}

/// Decoder options: the instructions of the virtual CPU, without those of vendors it does not imitate.
fn options() -> u32 {
    // F3 90 decodes as NOP, which is all that PAUSE does here; with REX.B it is XCHG R8, RAX.
    DecoderOptions::NO_PAUSE
}

/// Copies from a RAM page; other threads may write it meanwhile.
fn read_page(page: RamPage, offset: u64, out: &mut [u8]) {
    for (i, b) in out.iter_mut().enumerate() {
        // SAFETY: callers keep the range within the page, which lives as long as guest RAM.
        *b = unsafe { page.host.add(offset as usize + i).read_volatile() };
    }
}
