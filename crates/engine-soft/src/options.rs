//! What a user may ask of the software engine.

use std::ops::Range;

use visor_engine::{EngineError, EngineErrorKind, EngineOptions};

use crate::host::HostFeatures;

/// How guest code is executed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tier {
    /// Tier 1: instruction by instruction.
    Interpreter,
    /// Tier 2: what is executed often is translated to host code.
    #[default]
    Translator,
}

/// Settings of the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SoftOptions {
    /// How guest code is executed.
    pub tier: Tier,
    /// Execute each translated block a second time by the interpreter, on a copy of the state, and compare.
    pub lockstep: bool,
    /// Translate only blocks with these numbers, counted in the order of their first execution by each CPU.
    pub bisect: Option<Range<u64>>,
    /// Translated code keeps every status flag, even if it is overwritten before anything reads it: exceptions save them exactly.
    pub exact_flags: bool,
    /// Size of the code cache in bytes, [`CODE_CACHE_MIN`] to [`CODE_CACHE_MAX`].
    pub code_cache: u64,
    /// Count the guest instructions that translated code executes. Without it tier 2 reports no number of instructions at all.
    pub count: bool,
    /// Translate code that is met for the first time, rather than when it proves to be used. For tests.
    pub eager: bool,
    /// Decode again what was emitted and prove that it touches nothing of the host's. What fails is told, and interpreted; with `eager`
    /// it is a panic.
    pub verify: bool,
    /// Features of the host that translated code does as if they were absent. For tests.
    pub absent: HostFeatures,
    /// Name translated blocks in `/tmp/perf-PID.map`.
    pub perf_map: bool,
}

/// Smallest code cache, in bytes: some thousand blocks.
pub const CODE_CACHE_MIN: u64 = 1 << 20;
/// Largest code cache, in bytes: jumps within it reach two gigabytes.
pub const CODE_CACHE_MAX: u64 = 1 << 30;
/// Size of the code cache if nothing is said.
pub const CODE_CACHE_DEFAULT: u64 = 64 << 20;

/// The translator is built in.
const HAS_TRANSLATOR: bool = true;

impl Default for SoftOptions {
    fn default() -> Self {
        SoftOptions {
            tier: Tier::default(),
            lockstep: false,
            bisect: None,
            exact_flags: false,
            code_cache: CODE_CACHE_DEFAULT,
            count: false,
            eager: false,
            verify: cfg!(debug_assertions),
            absent: HostFeatures::default(),
            perf_map: false,
        }
    }
}

impl SoftOptions {
    /// Reads what the user asked for.
    ///
    /// # Errors
    /// [`EngineErrorKind::Invalid`] for values out of range and for options that the tier has no use for.
    pub fn from_user(user: &EngineOptions) -> Result<Self, EngineError> {
        let default = SoftOptions::default();
        let tier = match user.tier {
            None => default.tier,
            Some(1) => Tier::Interpreter,
            Some(2) => Tier::Translator,
            Some(n) => return invalid(format!("there is no tier {n}: 1 interprets, 2 translates")),
        };
        if tier == Tier::Translator && !HAS_TRANSLATOR {
            return invalid("tier 2, the translator, is not built into this visor; tier 1 is what it has".to_owned());
        }
        let other = EngineOptions { tier: None, ..user.clone() };
        if let (Tier::Interpreter, Some(option)) = (tier, other.given()) {
            return invalid(format!("{option} is for translated code, and tier 1 interprets"));
        }
        let code_cache = user.code_cache.unwrap_or(default.code_cache);
        if !(CODE_CACHE_MIN..=CODE_CACHE_MAX).contains(&code_cache) {
            let (min, max) = (CODE_CACHE_MIN >> 20, CODE_CACHE_MAX >> 20);
            return invalid(format!("a code cache has {min} to {max} MiB, not {} KiB", code_cache >> 10));
        }
        if let Some(range) = user.translate_range.as_ref().filter(|r| r.is_empty()) {
            return invalid(format!("there is no block in the range {}..{}", range.start, range.end));
        }
        let (lockstep, bisect, perf_map) = (user.lockstep, user.translate_range.clone(), user.perf_map);
        let (exact_flags, count) = (user.exact_flags, user.count);
        Ok(SoftOptions { tier, lockstep, bisect, exact_flags, code_cache, count, perf_map, ..default })
    }
}

fn invalid<T>(what: String) -> Result<T, EngineError> {
    Err(EngineError::new(EngineErrorKind::Invalid, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(user: EngineOptions) -> String {
        let e = SoftOptions::from_user(&user).unwrap_err();
        assert_eq!(e.kind, EngineErrorKind::Invalid);
        e.to_string()
    }

    #[test]
    fn nothing_asked_is_the_default() {
        assert_eq!(SoftOptions::from_user(&EngineOptions::default()).unwrap(), SoftOptions::default());
        let one = EngineOptions { tier: Some(1), ..EngineOptions::default() };
        assert_eq!(SoftOptions::from_user(&one).unwrap().tier, Tier::Interpreter);
        assert!(refusal(EngineOptions { tier: Some(3), ..EngineOptions::default() }).contains("no tier 3"));
    }

    #[test]
    fn options_of_the_translator_are_not_ignored_by_the_interpreter() {
        let one = || EngineOptions { tier: Some(1), ..EngineOptions::default() };
        assert!(refusal(EngineOptions { lockstep: true, ..one() }).starts_with("--debug lockstep is for"));
        assert!(refusal(EngineOptions { translate_range: Some(0..9), ..one() }).starts_with("--debug translate-range"));
        assert!(refusal(EngineOptions { exact_flags: true, ..one() }).starts_with("--debug exact-flags"));
        assert!(refusal(EngineOptions { code_cache: Some(8 << 20), ..one() }).starts_with("--code-cache"));
        assert!(refusal(EngineOptions { perf_map: true, ..one() }).starts_with("--perf-map"));
    }

    #[test]
    fn the_translator_takes_its_options_or_is_refused() {
        let two = || EngineOptions { tier: Some(2), ..EngineOptions::default() };
        if !HAS_TRANSLATOR {
            assert!(refusal(two()).contains("tier 2"));
            return;
        }
        let all = EngineOptions {
            lockstep: true,
            translate_range: Some(3..7),
            exact_flags: true,
            code_cache: Some(8 << 20),
            perf_map: true,
            ..two()
        };
        let expected = SoftOptions {
            tier: Tier::Translator,
            lockstep: true,
            bisect: Some(3..7),
            exact_flags: true,
            code_cache: 8 << 20,
            count: false,
            eager: false,
            verify: SoftOptions::default().verify,
            absent: HostFeatures::default(),
            perf_map: true,
        };
        assert_eq!(SoftOptions::from_user(&all).unwrap(), expected);
        assert!(refusal(EngineOptions { code_cache: Some(4096), ..two() }).contains("1 to 1024 MiB"));
        assert!(refusal(EngineOptions { translate_range: Some(7..7), ..two() }).contains("no block"));
    }
}
