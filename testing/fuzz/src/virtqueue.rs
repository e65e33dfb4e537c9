//! A driver for virtio devices that keeps the rules where the input does not say otherwise, so that what it breaks is deep inside.

use std::cell::RefCell;

use crate::pc::Pc;
use crate::{Input, Script};

/// Guest memory for queues: 16 KiB each from here.
const RINGS: u64 = 0x10_0000;
const STRIDE: u64 = 0x4000;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
/// Queues that the driver sets up.
const QUEUES: u64 = 16;

/// Operations of the device's own.
const START: u8 = 0;
const CHAIN: u8 = 1;
const KICK: u8 = 2;
/// The first that is left for the kind of device.
pub(crate) const MORE: u8 = 3;

/// The driver's side of all queues.
#[derive(Default)]
pub(crate) struct Driver {
    /// Next descriptor, and available index, of each queue.
    next: RefCell<[(u16, u16); QUEUES as usize]>,
}

impl Driver {
    /// Does operation `op` if it is the driver's.
    pub(crate) fn operate(&self, pc: &Pc, op: u8, input: &mut Input<'_>) {
        match op {
            START => self.start(pc, input.u64()),
            CHAIN => self.chain(pc, input),
            KICK => kick(pc, input.u8()),
            _ => {}
        }
    }

    /// Negotiates what is offered, less `without`, and sets all queues up.
    fn start(&self, pc: &Pc, without: u64) {
        *self.next.borrow_mut() = Default::default();
        let Some(regs) = pc.bar(0, 4) else { return };
        let write = |at: u64, len: usize, value: u64| _ = pc.mmio.write(regs + at, &value.to_le_bytes()[..len]);
        let read = |at: u64, len: usize| {
            let mut data = [0; 8];
            pc.mmio.read(regs + at, &mut data[..len]);
            u64::from_le_bytes(data)
        };
        [0, 1, 3].iter().for_each(|status| write(0x14, 1, *status));
        for half in 0..2 {
            write(0, 4, half);
            let offered = read(4, 4);
            write(8, 4, half);
            // Version 1 (bit 32) is not negotiable.
            write(0xc, 4, offered & !(without >> (32 * half)) | half);
        }
        write(0x14, 1, 0xb);
        for q in 0..read(0x12, 2).min(QUEUES) {
            let base = RINGS + q * STRIDE;
            pc.write(base, &[0; USED as usize + 8]);
            write(0x16, 2, q);
            write(0x1a, 2, q + 1);
            write(0x20, 8, base);
            write(0x28, 8, base + AVAILABLE);
            write(0x30, 8, base + USED);
            write(0x1c, 2, 1);
        }
        write(0x14, 1, 0xf);
    }

    /// Offers a chain, whose data the input has.
    fn chain(&self, pc: &Pc, input: &mut Input<'_>) {
        let (q, parts, odd) = (u64::from(input.u8()) % QUEUES, input.below(9), input.u8());
        let base = RINGS + q * STRIDE;
        let mut all = self.next.borrow_mut();
        let (next, avail) = &mut all[q as usize];
        let head = *next;
        for part in 0..parts {
            let (flags, len) = (input.u8(), u32::from(input.u16()) << (input.u8() % 20));
            let at = 0x8_0000 + q * 0x8000 + u64::from(*next % 64) * 0x200;
            if flags & 2 == 0 {
                pc.write(at, input.bytes());
            }
            let more = u16::from(part + 1 < parts);
            // Odd chains: wherever it points, whatever its flags.
            let (at, flags) =
                if odd & 0x80 != 0 { (input.u64(), u16::from(flags)) } else { (at, u16::from(flags & 2) | more) };
            let link = if odd & 0x40 != 0 { u16::from(input.u8()) } else { (*next + 1) % 64 };
            let d = [&at.to_le_bytes()[..], &len.to_le_bytes(), &flags.to_le_bytes(), &link.to_le_bytes()].concat();
            pc.write(base + 16 * u64::from(*next), &d);
            *next = (*next + 1) % 64;
        }
        // Queues have 64 to 256 entries; the ring of a larger one is written where that of a smaller one repeats.
        for size in [64u16, 128, 256] {
            pc.write(base + AVAILABLE + 4 + 2 * u64::from(*avail % size), &head.to_le_bytes());
        }
        *avail = avail.wrapping_add(1 + u16::from(odd & 0x20 != 0) * u16::from(odd & 0x1f));
        pc.write(base + AVAILABLE + 2, &avail.to_le_bytes());
        kick(pc, q as u8);
    }
}

fn kick(pc: &Pc, queue: u8) {
    if let Some(regs) = pc.bar(0, 4) {
        pc.mmio.write(regs + 0x3000 + 4 * u64::from(queue), &u16::from(queue).to_le_bytes());
    }
}

/// Part of a chain in a seed: what the driver writes, or how many bytes it has room for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Piece<'a> {
    Out(&'a [u8]),
    In(u16),
}

/// A seed that starts the driver.
pub(crate) fn started() -> Script {
    Script::new().extra(START).raw(&[0; 8])
}

/// A chain that keeps the rules.
pub(crate) fn chain(script: Script, queue: u8, pieces: &[Piece<'_>]) -> Script {
    pieces.iter().fold(script.extra(CHAIN).raw(&[queue, pieces.len() as u8, 0]), |s, piece| match piece {
        Piece::Out(data) => s.raw(&[0]).raw(&(data.len() as u16).to_le_bytes()).raw(&[0]).bytes(data),
        Piece::In(len) => s.raw(&[2]).raw(&len.to_le_bytes()).raw(&[0]),
    })
}
