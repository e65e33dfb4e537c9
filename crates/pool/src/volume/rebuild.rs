//! Bringing members that are out of date up to date, while the volume is used.

use super::*;
use crate::layout::Piece;

impl Core {
    pub(super) fn rebuild(&self, progress: &mut dyn FnMut(u64, u64) -> bool) -> Result<usize> {
        let targets: Vec<(usize, usize)> = self.seats(Standing::Stale).into_iter().map(|(g, m, _)| (g, m)).collect();
        if targets.is_empty() {
            return Ok(0);
        }
        // From here on they get what is written.
        targets.iter().for_each(|(g, m)| self.set(*g, *m, Standing::Rebuilding));
        let copied = self.copy_all(&targets, progress);
        if let Err(e) = copied.and_then(|()| self.join(&targets)) {
            for (g, m) in &targets {
                if self.syncs(*g)[*m] == Standing::Rebuilding {
                    self.set(*g, *m, Standing::Stale);
                }
            }
            return Err(e);
        }
        Ok(targets.iter().filter(|(g, m)| self.syncs(*g)[*m] == Standing::Current).count())
    }

    fn copy_all(&self, targets: &[(usize, usize)], progress: &mut dyn FnMut(u64, u64) -> bool) -> Result<()> {
        let mut at = 0;
        while at < self.layout.size {
            let piece = self.layout.piece(at);
            let to: Vec<usize> = targets.iter().filter(|(g, _)| *g == piece.group).map(|(_, m)| *m).collect();
            if !to.is_empty() {
                self.copy_piece(&piece, &to)?;
            }
            at += piece.len;
            if !progress(at, self.layout.size) {
                return Err(PoolError::new(PoolErrorKind::Cancelled, "stopped; who was current is it still"));
            }
        }
        Ok(())
    }

    /// Copies a chunk, with writes to it kept out.
    fn copy_piece(&self, piece: &Piece, to: &[usize]) -> Result<()> {
        let _order = lock(&self.locks[(piece.chunk % LOCKS as u64) as usize]);
        let mut data = vec![0; piece.len as usize];
        let mut result = Err(std::io::Error::other("no current member is left"));
        for (_, _, r) in self.seats(Standing::Current).into_iter().filter(|(g, _, _)| *g == piece.group) {
            result = r.part.read_at(&mut data, DATA_AT + piece.at);
            if result.is_ok() {
                break;
            }
        }
        result.map_err(|e| PoolError::host("cannot read what is to be copied", e))?;
        for m in to {
            let Some(r) = &self.groups[piece.group][*m].replica else { continue };
            if self.syncs(piece.group)[*m] != Standing::Rebuilding {
                let what = format!("{} failed again", r.place);
                return Err(PoolError::new(PoolErrorKind::Io, what));
            }
            let written = match data.iter().all(|b| *b == 0) {
                true => r.part.release(DATA_AT + piece.at, piece.len),
                false => r.part.write_at(&data, DATA_AT + piece.at),
            };
            written.map_err(|e| PoolError::host(format!("cannot write to {}", r.place), e))?;
        }
        Ok(())
    }

    /// They have everything: a generation in which they are current.
    fn join(&self, targets: &[(usize, usize)]) -> Result<()> {
        // No region is noted between what they are given here and their being current.
        let _noting = lock(&self.noting);
        let _all: Vec<_> = self.locks.iter().map(lock).collect();
        for (g, m) in targets {
            let seat = &self.groups[*g][*m];
            let Some(r) = &seat.replica else { continue };
            let fail = |e| PoolError::host(format!("cannot write to {}", r.place), e);
            if self.syncs(*g)[*m] != Standing::Rebuilding {
                return Err(PoolError::new(PoolErrorKind::Io, format!("{} failed again", r.place)));
            }
            self.intent.read().unwrap_or_else(PoisonError::into_inner).write(&*r.part).map_err(fail)?;
            r.part.flush().map_err(fail)?;
        }
        for (g, m) in targets {
            self.set(*g, *m, Standing::Current);
        }
        self.advance(|_| {})
    }
}
