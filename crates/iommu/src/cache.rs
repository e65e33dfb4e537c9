//! What is remembered of the tables: the context cache and the IOTLB (VT-d §6.1, §6.2). Only translations that exist are kept,
//! as a unit without caching mode must do.

use std::collections::HashMap;

use visor_pci::SourceId;

use crate::tables::Context;
use crate::walk::Page;

/// Most pages kept; a full IOTLB is emptied.
const PAGES: usize = 4096;
/// Page sizes, as logarithms.
const SHIFTS: [u8; 3] = [12, 21, 30];

/// Context cache and IOTLB.
#[derive(Default)]
pub(crate) struct Cache {
    contexts: HashMap<SourceId, Context>,
    pages: HashMap<(u16, u8, u64), Page>,
}

/// Which translations to forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pages {
    All,
    Domain(u16),
    /// 2^`mask` pages of 4 KiB at `at`, a multiple of their size.
    Range {
        domain: u16,
        at: u64,
        mask: u8,
    },
}

/// Which contexts to forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contexts {
    All,
    Domain(u16),
    /// The functions of a domain whose id equals `source` in all but the low three bits that `mask` leaves out.
    Device {
        domain: u16,
        source: u16,
        mask: u16,
    },
}

impl Cache {
    pub(crate) fn context(&self, source: SourceId) -> Option<Context> {
        self.contexts.get(&source).copied()
    }

    /// There are at most 65536 sources, and as many as the machine has functions in fact.
    pub(crate) fn keep_context(&mut self, source: SourceId, context: Context) {
        self.contexts.insert(source, context);
    }

    pub(crate) fn page(&self, domain: u16, at: u64) -> Option<Page> {
        SHIFTS.iter().find_map(|shift| self.pages.get(&(domain, *shift, at >> shift))).copied()
    }

    pub(crate) fn keep_page(&mut self, domain: u16, at: u64, page: Page) {
        if self.pages.len() >= PAGES {
            self.pages.clear();
        }
        self.pages.insert((domain, page.shift, at >> page.shift), page);
    }

    pub(crate) fn forget_pages(&mut self, which: Pages) {
        match which {
            Pages::All => self.pages.clear(),
            Pages::Domain(d) => self.pages.retain(|(domain, ..), _| *domain != d),
            Pages::Range { domain, at, mask: 0 } => {
                for shift in SHIFTS {
                    self.pages.remove(&(domain, shift, at >> shift));
                }
            }
            Pages::Range { domain, at, mask } => {
                let bits = u32::from(mask) + 12;
                self.pages.retain(|(d, shift, n), _| {
                    // The larger of page and range decides how many bits must agree.
                    let common = bits.max(u32::from(*shift));
                    let start = n << shift;
                    *d != domain || start.checked_shr(common) != at.checked_shr(common)
                });
            }
        }
    }

    pub(crate) fn forget_contexts(&mut self, which: Contexts) {
        match which {
            Contexts::All => self.contexts.clear(),
            Contexts::Domain(d) => self.contexts.retain(|_, c| c.domain != d),
            Contexts::Device { domain, source, mask } => {
                self.contexts.retain(|s, c| c.domain != domain || (s.0 ^ source) & !mask != 0);
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.contexts.len(), self.pages.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled() -> Cache {
        let mut c = Cache::default();
        for (domain, at, shift) in [(1, 0x1000, 12), (1, 0x2000, 12), (1, 0x40_0000, 21), (2, 0x1000, 12)] {
            c.keep_page(domain, at, Page { at: 0, shift, read: true, write: true });
        }
        c
    }

    #[test]
    fn ranges_forget_what_they_touch() {
        let left = |which| {
            let mut c = filled();
            c.forget_pages(which);
            [(1, 0x1000), (1, 0x2000), (1, 0x40_0000), (2, 0x1000)].map(|(d, at)| c.page(d, at).is_some())
        };
        assert_eq!(left(Pages::All), [false; 4]);
        assert_eq!(left(Pages::Domain(1)), [false, false, false, true]);
        assert_eq!(left(Pages::Range { domain: 1, at: 0x1000, mask: 0 }), [false, true, true, true]);
        assert_eq!(left(Pages::Range { domain: 1, at: 0x2000, mask: 1 }), [true, false, true, true]);
        assert_eq!(
            left(Pages::Range { domain: 1, at: 0x40_3000, mask: 0 }),
            [true, true, false, true],
            "inside a large page"
        );
        assert_eq!(left(Pages::Range { domain: 1, at: 0x50_0000, mask: 2 }), [true, true, false, true], "part of one");
        assert_eq!(left(Pages::Range { domain: 1, at: 0, mask: 18 }), [false, false, false, true]);
        assert_eq!(left(Pages::Range { domain: 1, at: 0, mask: 63 }), [false, false, false, true]);
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let mut c = Cache::default();
        for n in 0..3 * PAGES as u64 {
            c.keep_page(1, n << 12, Page { at: 0, shift: 12, read: true, write: true });
        }
        assert!(c.sizes().1 <= PAGES);
    }
}
