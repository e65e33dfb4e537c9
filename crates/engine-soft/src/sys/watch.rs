//! Telling the machine where execution has got to.
//!
//! What runs for the first time is looked up the slow way first, and only there watches are compared: they cost nothing.

use crate::cpu::Cpu;

impl Cpu {
    /// Reports the watches that a block at `lin` is the first to reach, and forgets them.
    #[cold]
    pub(crate) fn report_watches(&mut self, lin: u64) {
        let cpl = self.cpl;
        let (reached, left): (Vec<_>, Vec<_>) = self.watches.iter().partition(|w| w.is_at(lin, cpl));
        self.watches = left;
        for watch in reached {
            self.io().reached(watch, lin);
        }
    }
}
