//! Code behind the rest: what a translation does where something is not as usual.

use super::{Build, Built};
use crate::translate::asm::{Hole, Holes, Rm};
use crate::translate::cache::At;
use crate::translate::frame::field;
use crate::translate::regs::Host;

/// Code to be put behind the rest.
pub(super) enum Cold {
    /// The instruction, which begins at `start`, is tried again once the TLB has its pages; or goes on at `ready`, behind its check,
    /// where it finds bytes of two pages; or is interpreted and goes on at `back`.
    Interpret { from: Holes, site: u32, start: usize, ready: Option<usize>, back: usize },
    /// The range of a group is not served: once the TLB has the page of the access itself, its code at `start` is tried again;
    /// otherwise it goes on at offset `off` of the page, where every access checks for itself.
    Range { from: Holes, site: u32, start: usize, off: u16 },
    /// A store hit a frame with code. R14 is to hold the host address of `range` behind it.
    WroteCode { from: Hole, at: i32, size: u32, site: u32, back: usize, range: Option<u8> },
    /// A way out.
    Way { from: Holes, way: u32, poll: bool },
    /// The branch, which begins at `start`, is tried again or interpreted, which ends the code.
    Leave { from: Holes, site: u32, start: usize },
}

impl Build<'_> {
    /// Puts the cold code behind the rest.
    pub(in crate::translate) fn finish(mut self, start: i64, entry: u32, instructions: u32) -> Built {
        let way = self.way(start);
        for cold in std::mem::take(&mut self.cold) {
            match cold {
                Cold::Interpret { from, site, start, ready, back } => {
                    from.into_iter().for_each(|h| self.asm.fill_here(h));
                    self.asm.constant(Host::R14, site.into());
                    self.call_stub(if ready.is_some() { self.stubs.call_load } else { self.stubs.call_refill });
                    let hole = self.asm.jmp();
                    self.asm.fill(hole, back as i64);
                    // Where the stub returns to have the instruction tried again.
                    let again = self.asm.jmp();
                    self.asm.fill(again, start as i64);
                    if let Some(ready) = ready {
                        let on = self.asm.jmp();
                        self.asm.fill(on, ready as i64);
                    }
                }
                Cold::Range { from, site, start, off } => {
                    from.into_iter().for_each(|h| self.asm.fill_here(h));
                    self.asm.constant(Host::R14, site.into());
                    self.call_stub(self.stubs.only_refill);
                    let apart = self.asm.jmp();
                    self.apart.push((apart, off));
                    let again = self.asm.jmp();
                    self.asm.fill(again, start as i64);
                }
                Cold::WroteCode { from, at, size, site, back, range } => {
                    self.asm.fill_here(from);
                    self.asm.add_constant(Host::R14, at);
                    self.asm.constant(Host::RCX, u64::from(size) << 32 | u64::from(site));
                    self.call_stub(self.stubs.wrote_code);
                    if let Some(n) = range {
                        self.asm.load(Host::R14, Rm::State(field!(ranges) + 8 * i32::from(n)));
                    }
                    let hole = self.asm.jmp();
                    self.asm.fill(hole, back as i64);
                }
                Cold::Way { from, way, poll } => {
                    from.into_iter().for_each(|h| self.asm.fill_here(h));
                    let cold = At(self.at.0 + self.asm.here() as u32);
                    if !poll {
                        self.ways[(way - self.first.1) as usize].cold = cold;
                    }
                    self.asm.constant(Host::R14, way.into());
                    self.jump_to_stub(if poll { self.stubs.poll } else { self.stubs.link });
                }
                Cold::Leave { from, site, start } => {
                    from.into_iter().for_each(|h| self.asm.fill_here(h));
                    self.asm.constant(Host::R14, site.into());
                    self.call_stub(self.stubs.call_refill);
                    // Never: branches end the code.
                    self.asm.raw(&[0x0f, 0x0b, 0x66, 0x90, 0x90]);
                    let again = self.asm.jmp();
                    self.asm.fill(again, start as i64);
                }
            }
        }
        self.ways_apart();
        let leave = self.asm.here() as u32;
        self.asm.constant(Host::R14, way.into());
        self.jump_to_stub(self.stubs.link);
        Built { code: self.asm.bytes, sites: self.sites, ways: self.ways, entry, leave, instructions }
    }

    /// What goes on where every access checks for itself leaves to there, or once that is linked jumps.
    fn ways_apart(&mut self) {
        let mut apart = std::mem::take(&mut self.apart);
        apart.sort_by_key(|(_, off)| *off);
        for same in apart.chunk_by(|a, b| a.1 == b.1) {
            let way = self.way(same[0].1.into());
            same.iter().for_each(|(h, _)| self.asm.fill_here(*h));
            let jump = self.asm.jmp();
            self.asm.fill_here(jump);
            let at = |offset: usize| At(self.at.0 + offset as u32);
            let (jump, cold) = (Some(at(jump.field())), at(self.asm.here()));
            let made = &mut self.ways[(way - self.first.1) as usize];
            (made.jump, made.cold, made.apart) = (jump, cold, true);
            self.asm.constant(Host::R14, way.into());
            self.jump_to_stub(self.stubs.link);
        }
    }
}
