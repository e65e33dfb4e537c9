//! Data through the data register, in blocks that the drive announces with DRQ and an interrupt (ATA/ATAPI-5 §9.5 to §9.8).
//!
//! The medium is read and written in larger chunks than the guest moves at a time, since each access of the guest's is two bytes.

use visor_block::{BlockOp, Sector, SharedBuffer};

use super::channel::{Channel, Drive, PACKET, Phase};
use super::transfer::After;
use crate::packet::reason;
use crate::step::status::{DRDY, DRQ, DSC};
use crate::step::{Transfer, Way};

/// Bytes moved between medium and host at a time; a multiple of every block size of disks.
const CHUNK: u64 = 64 << 10;
const SECTOR: usize = visor_block::SECTOR as usize;

/// Data on its way to the guest.
pub(super) struct PioIn {
    data: Vec<u8>,
    at: usize,
    /// Where the announced block ends.
    end: usize,
    /// What is to be read when `data` has gone.
    rest: Option<Transfer>,
}

/// Data on its way from the guest.
pub(super) struct PioOut {
    data: Vec<u8>,
    /// Where the announced block ends.
    end: usize,
    /// Bytes wanted.
    len: usize,
    /// Where they go; to the drive itself without.
    transfer: Option<Transfer>,
}

impl Transfer {
    /// The first chunk and what remains after it.
    fn split(self) -> (Sector, u64, Option<Transfer>) {
        let (sector, len) = (self.sector, self.len.min(CHUNK));
        let rest = Transfer { sector: Sector(sector.0 + len / visor_block::SECTOR), len: self.len - len, ..self };
        (sector, len, (rest.len > 0).then_some(rest))
    }
}

impl Channel {
    /// Offers `data` to the guest.
    pub(super) fn pio_in(&mut self, index: usize, data: Vec<u8>, rest: Option<Transfer>) {
        let Some(d) = &mut self.drives[index] else { return };
        let end = announce(d, data.len(), Way::In);
        d.phase = Phase::In(PioIn { data, at: 0, end, rest });
        self.interrupt(index);
    }

    /// Reads the next part of `t` for the guest.
    pub(super) fn read_chunk(&mut self, index: usize, t: Transfer) {
        let backend = t.backend.clone();
        let (sector, len, rest) = t.split();
        let buffer = SharedBuffer::new(vec![0; len as usize]);
        let after = After::Read { buffer: buffer.clone(), rest };
        self.submit(index, backend, (BlockOp::Read, sector, len), Box::new(buffer), after);
    }

    /// Asks the guest for the next part of `t`.
    pub(super) fn accept_chunk(&mut self, index: usize, t: Transfer) {
        self.pio_out(index, t.len.min(CHUNK) as usize, Some(t));
    }

    /// Asks the guest for `len` bytes. Only packet drives interrupt for the first block (ATA/ATAPI-5 §9.6).
    pub(super) fn pio_out(&mut self, index: usize, len: usize, transfer: Option<Transfer>) {
        let Some(d) = &mut self.drives[index] else { return };
        let end = announce(d, len, Way::Out);
        let packet = d.in_packet();
        d.phase = Phase::Out(PioOut { data: Vec::with_capacity(len), end, len, transfer });
        if packet {
            self.interrupt(index);
        }
    }

    /// The guest reads the data register.
    pub(super) fn read_data(&mut self, data: &mut [u8]) {
        data.fill(0);
        let index = self.selected();
        let Some(Drive { phase: Phase::In(p), .. }) = &mut self.drives[index] else {
            data.fill(0xff);
            return;
        };
        let n = data.len().min(p.end - p.at);
        data[..n].copy_from_slice(&p.data[p.at..p.at + n]);
        p.at += n;
        if p.at == p.end {
            self.block_read(index);
        }
    }

    /// The guest has read all of a block.
    fn block_read(&mut self, index: usize) {
        let Some(d) = &mut self.drives[index] else { return };
        let Phase::In(mut p) = std::mem::replace(&mut d.phase, Phase::Idle) else { return };
        if p.at < p.data.len() {
            p.end = p.at + announce(d, p.data.len() - p.at, Way::In);
            d.phase = Phase::In(p);
            self.interrupt(index);
        } else if let Some(rest) = p.rest {
            self.read_chunk(index, rest);
        } else {
            // Packet commands interrupt once more with their result (§9.8).
            let packet = d.in_packet();
            self.end(index, 0, packet);
        }
    }

    /// The guest writes the data register.
    pub(super) fn write_data(&mut self, data: &[u8]) {
        let index = self.selected();
        let Some(d) = &mut self.drives[index] else { return };
        match &mut d.phase {
            Phase::Packet(packet) => {
                let room = PACKET - packet.len();
                packet.extend_from_slice(&data[..data.len().min(room)]);
                if packet.len() == PACKET {
                    let packet = std::mem::take(packet);
                    self.run_packet(index, &packet);
                }
            }
            Phase::Out(p) => {
                let room = p.end - p.data.len();
                p.data.extend_from_slice(&data[..data.len().min(room)]);
                if p.data.len() == p.end {
                    self.block_written(index);
                }
            }
            _ => {}
        }
    }

    fn run_packet(&mut self, index: usize, packet: &[u8]) {
        let Some(d) = &mut self.drives[index] else { return };
        d.phase = Phase::Idle;
        let step = d.unit.packet(&mut d.r, packet);
        self.perform(index, step);
    }

    /// The guest has written all of a block.
    fn block_written(&mut self, index: usize) {
        let Some(d) = &mut self.drives[index] else { return };
        let Phase::Out(mut p) = std::mem::replace(&mut d.phase, Phase::Idle) else { return };
        if p.end < p.len {
            p.end += announce(d, p.len - p.end, Way::Out);
            d.phase = Phase::Out(p);
            self.interrupt(index);
            return;
        }
        let Some(t) = p.transfer else {
            let step = d.unit.data(&mut d.r, &p.data);
            self.perform(index, step);
            return;
        };
        let (backend, durable) = (t.backend.clone(), t.durable.then(|| t.backend.clone()));
        let (sector, len, rest) = t.split();
        let after = After::Wrote { rest, durable };
        self.submit(index, backend, (BlockOp::Write, sector, len), Box::new(SharedBuffer::new(p.data)), after);
    }
}

/// Announces the next block out of `left` bytes; returns its size.
fn announce(d: &mut Drive, left: usize, way: Way) -> usize {
    let size;
    if d.in_packet() {
        // Blocks but the last are of even size.
        size = if left <= d.limit { left } else { d.limit & !1 };
        (d.r.mid, d.r.high) = (size as u16 & 0xff, size as u16 >> 8);
        d.r.count = if way == Way::In { reason::TO_HOST } else { 0 };
        d.r.status = DRDY | DRQ;
    } else {
        size = left.min(d.unit.block(d.r.command) * SECTOR);
        d.r.status = DRDY | DSC | DRQ;
    }
    size
}
