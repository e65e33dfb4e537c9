//! Links: jumps from translation to translation, so that the engine is not asked again.
//!
//! A way out of a translation begins as a jump to code of its own that leaves to the engine; once its target has been translated, the jump
//! leads there. Links within a page last as long as the two. Those between pages of the kernel hold while the kernel's addresses mean
//! what they meant, and are broken together.

use super::Map;
use crate::translate::cache::At;

impl Map {
    /// Lets way `id` lead to `to`, which is its target's translation.
    pub(in crate::translate) fn link(&mut self, id: u32, to: At) {
        let way = self.ways[id as usize];
        let Some(jump) = way.jump else { return };
        self.cache.redirect(jump, to);
        if !way.near {
            self.far.push((jump, way.cold));
        }
        self.stats.links += 1;
    }

    /// Breaks all links between pages of the kernel: other code may be there now.
    pub(in crate::translate) fn unlink_far(&mut self) {
        self.stats.unlinked += self.far.len() as u64;
        for (jump, cold) in self.far.drain(..) {
            self.cache.redirect(jump, cold);
        }
    }
}
