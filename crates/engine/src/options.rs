//! What a user may ask of an engine beyond its kind. An engine honours an option or refuses it; none is ignored.

use std::ops::Range;

/// Wishes of the user that concern the inside of an engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineOptions {
    /// 1: interpret; 2: translate. `None`: what the engine does by default.
    pub tier: Option<u8>,
    /// Execute each translated block a second time by the interpreter, on a copy of the state, and compare.
    pub lockstep: bool,
    /// Translate only blocks with these numbers, counted in the order of their first execution; interpret the others.
    pub translate_range: Option<Range<u64>>,
    /// Keep every status flag in translated code, those that are overwritten before anything reads them as well, so that what exceptions
    /// save of them is exact.
    pub exact_flags: bool,
    /// Size of the cache of translated code, in bytes.
    pub code_cache: Option<u64>,
    /// Have translated code count the guest instructions it executes, for [`crate::VcpuStats::instructions`], at the price of a few
    /// instructions a block; without it a translator reports none. An engine that counts anyway, or cannot count, takes no notice:
    /// this is the one option that is never refused.
    pub count: bool,
    /// Tell Linux `perf` the names of translated blocks.
    pub perf_map: bool,
}

impl EngineOptions {
    /// The name of an option that was given, if one was.
    pub fn given(&self) -> Option<&'static str> {
        let options = [
            (self.tier.is_some(), "--tier"),
            (self.lockstep, "--debug lockstep"),
            (self.translate_range.is_some(), "--debug translate-range"),
            (self.exact_flags, "--debug exact-flags"),
            (self.code_cache.is_some(), "--code-cache"),
            (self.perf_map, "--perf-map"),
        ];
        options.into_iter().find_map(|(given, name)| given.then_some(name))
    }
}
