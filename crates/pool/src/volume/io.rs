//! Requests of a volume.

use std::io;

use visor_block::{BlockError, BlockErrorKind, BlockOp, BlockRequest};
use visor_qcow2::Storage;

use super::*;
use crate::error::{block_kind, is_full};
use crate::layout::Piece;

impl Core {
    /// Carries out and completes a request.
    pub(super) fn serve(&self, mut request: BlockRequest) {
        let result = request.check(&self.geometry).and_then(|at| match request.op {
            BlockOp::Read => self.read(&mut request, at),
            BlockOp::Flush if self.geometry.read_only => Ok(()),
            BlockOp::Flush => self.flush(),
            BlockOp::Write => {
                (self.watch)();
                let mut data = vec![0; request.len.min(self.layout.chunk) as usize];
                self.pieces(at, request.len, |piece, done| {
                    let data = &mut data[..piece.len as usize];
                    request.buffer.get(done as usize, data)?;
                    self.change(piece, at + done, &|part: &dyn Storage| part.write_at(data, DATA_AT + piece.at))
                })
            }
            BlockOp::WriteZeroes { may_unmap } => self.pieces(at, request.len, |piece, done| {
                self.change(piece, at + done, &|part: &dyn Storage| match may_unmap {
                    true => part.release(DATA_AT + piece.at, piece.len),
                    false => part.zero_at(DATA_AT + piece.at, piece.len),
                })
            }),
            // What is discarded reads as anything, but the same every time.
            BlockOp::Discard => self.pieces(at, request.len, |piece, done| {
                self.change(piece, at + done, &|part: &dyn Storage| part.release(DATA_AT + piece.at, piece.len))
            }),
        });
        request.complete(result);
    }

    /// Calls `run` for each chunk's part of a range, with the bytes done before.
    fn pieces(
        &self,
        at: u64,
        len: u64,
        mut run: impl FnMut(&Piece, u64) -> std::result::Result<(), BlockError>,
    ) -> std::result::Result<(), BlockError> {
        let mut done = 0;
        while done < len {
            let mut piece = self.layout.piece(at + done);
            piece.len = piece.len.min(len - done);
            run(&piece, done)?;
            done += piece.len;
        }
        Ok(())
    }

    fn read(&self, request: &mut BlockRequest, at: u64) -> std::result::Result<(), BlockError> {
        let mut data = vec![0; request.len.min(self.layout.chunk) as usize];
        let mut done = 0;
        while done < request.len {
            let mut piece = self.layout.piece(at + done);
            piece.len = piece.len.min(request.len - done);
            let data = &mut data[..piece.len as usize];
            self.read_piece(&piece, data)?;
            request.buffer.put(done as usize, data)?;
            done += piece.len;
        }
        Ok(())
    }

    /// Reads from the first current member that can. All reads ask in the same order, so that what was never written
    /// completely reads the same every time.
    fn read_piece(&self, piece: &Piece, data: &mut [u8]) -> std::result::Result<(), BlockError> {
        let mut failed: Vec<(usize, io::Error)> = Vec::new();
        for (m, sync) in self.syncs(piece.group).into_iter().enumerate() {
            let Some(replica) = self.groups[piece.group][m].replica.as_ref().filter(|_| sync == Standing::Current)
            else {
                continue;
            };
            match replica.part.read_at(data, DATA_AT + piece.at) {
                Ok(()) => {
                    // Who cannot be read while another one can has failed. Nothing is lost if that cannot be written down.
                    for (m, e) in failed.iter().filter(|_| !self.geometry.read_only) {
                        if let Err(e) = self.degrade(piece.group, *m, e) {
                            tracing::error!("{e}");
                        }
                    }
                    return Ok(());
                }
                Err(e) => failed.push((m, e)),
            }
        }
        Err(self.all_failed("read", piece, failed.pop().map(|(_, e)| e)))
    }

    /// Does something to all copies of a piece, which starts at byte `at` of the volume.
    fn change(
        &self,
        piece: &Piece,
        at: u64,
        run: &dyn Fn(&dyn Storage) -> io::Result<()>,
    ) -> std::result::Result<(), BlockError> {
        self.note(at)?;
        let _order = lock(&self.locks[(piece.chunk % LOCKS as u64) as usize]);
        let mut failed: Vec<(usize, io::Error)> = Vec::new();
        let (mut good, mut full) = (0, None);
        for (m, sync) in self.syncs(piece.group).into_iter().enumerate() {
            let Some(replica) = self.groups[piece.group][m].replica.as_ref().filter(|_| sync != Standing::Stale) else {
                continue;
            };
            match run(&*replica.part) {
                Ok(()) => good += usize::from(sync == Standing::Current),
                Err(e) if is_full(&e) && sync == Standing::Current => full = Some(e),
                Err(e) => failed.push((m, e)),
            }
        }
        // Where there is no space, nobody has failed: it is done again when there is.
        if let Some(e) = full {
            return Err(self.failed("write", piece, e));
        }
        if good == 0 {
            return Err(self.all_failed("write", piece, failed.pop().map(|(_, e)| e)));
        }
        for (m, e) in failed {
            self.degrade(piece.group, m, &e).map_err(|e| BlockError {
                kind: BlockErrorKind::Io,
                what: e.to_string(),
                source: e.source,
            })?;
        }
        Ok(())
    }

    /// Notes on all current members that the copies of a region may differ, if that is not noted yet.
    fn note(&self, at: u64) -> std::result::Result<(), BlockError> {
        let noted = || self.intent.read().unwrap_or_else(PoisonError::into_inner).has(at);
        if self.layout.copies() == 1 || noted() {
            return Ok(());
        }
        let _noting = lock(&self.noting);
        if noted() {
            return Ok(());
        }
        let mut next = Intent::clone_of(&self.intent.read().unwrap_or_else(PoisonError::into_inner));
        let (place, sector) = next.set(at);
        for (g, m, r) in self.seats(Standing::Current) {
            if let Err(e) = r.part.write_at(&sector, place).and_then(|()| r.part.flush()) {
                let what = format!("cannot write to {}: {e}", r.place);
                if is_full(&e) || self.degrade(g, m, &e).is_err() {
                    return Err(BlockError { kind: block_kind(&e), what, source: Some(e) });
                }
            }
        }
        *self.intent.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }

    fn flush(&self) -> std::result::Result<(), BlockError> {
        for group in 0..self.groups.len() {
            let (mut good, mut failed) = (0, Vec::new());
            for (m, sync) in self.syncs(group).into_iter().enumerate() {
                let Some(r) = self.groups[group][m].replica.as_ref().filter(|_| sync == Standing::Current) else {
                    continue;
                };
                match r.part.flush() {
                    Ok(()) => good += 1,
                    Err(e) => failed.push((m, e)),
                }
            }
            let whole = Piece { group, at: 0, len: 0, chunk: 0 };
            if good == 0 {
                return Err(self.all_failed("flush", &whole, failed.pop().map(|(_, e)| e)));
            }
            for (m, e) in failed {
                // What it was given before may be gone.
                self.degrade(group, m, &e).map_err(|e| BlockError::new(BlockErrorKind::Io, e.to_string()))?;
            }
        }
        Ok(())
    }

    fn all_failed(&self, doing: &str, piece: &Piece, e: Option<io::Error>) -> BlockError {
        self.failed(doing, piece, e.unwrap_or_else(|| io::Error::other("no member is left")))
    }

    fn failed(&self, doing: &str, piece: &Piece, e: io::Error) -> BlockError {
        let name = lock(&self.record).record.name.clone();
        let what = format!("{doing} at chunk {} of the volume {name}", piece.chunk);
        BlockError { kind: block_kind(&e), what, source: Some(e) }
    }
}
