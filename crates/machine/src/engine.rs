//! Which engine runs the CPUs, and why.

use std::sync::Arc;

use visor_engine::{Engine, EngineError, EngineErrorKind, EngineOptions};
use visor_engine_kvm::KvmEngine;
use visor_engine_soft::{SoftEngine, SoftOptions};

/// The user's wish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// The fastest engine that works here.
    #[default]
    Auto,
    /// The software CPU.
    Soft,
    /// The host kernel's KVM.
    Kvm,
}

impl std::str::FromStr for EngineChoice {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "auto" => Ok(EngineChoice::Auto),
            "soft" => Ok(EngineChoice::Soft),
            "kvm" => Ok(EngineChoice::Kvm),
            other => Err(format!("no engine is called {other:?}; engines are auto, soft and kvm")),
        }
    }
}

/// An engine, and why it was chosen, in words for a person.
#[derive(Clone)]
pub struct ChosenEngine {
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// Why this one.
    pub reason: String,
}

impl std::fmt::Debug for ChosenEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.engine.caps().name, self.reason)
    }
}

/// Makes the engine for `choice`. [`EngineChoice::Auto`] tries the engines from the fastest to the one that works everywhere.
///
/// # Errors
/// Those of the engine that was asked for.
pub fn choose(choice: EngineChoice) -> Result<ChosenEngine, EngineError> {
    choose_with(choice, &EngineOptions::default())
}

/// As [`choose`], with options for the engine. Those of the software CPU choose it.
///
/// # Errors
/// Those of the engine that was asked for; [`EngineErrorKind::Invalid`] for options that it does not have.
pub fn choose_with(choice: EngineChoice, options: &EngineOptions) -> Result<ChosenEngine, EngineError> {
    match (choice, options.given()) {
        (EngineChoice::Soft, _) => soft("asked for".into(), options),
        (EngineChoice::Kvm, Some(option)) => {
            let what = format!("{option} is an option of the software CPU (--engine soft); KVM has nothing like it");
            Err(EngineError::new(EngineErrorKind::Invalid, what))
        }
        (EngineChoice::Kvm, None) => kvm().map(|engine| ChosenEngine { engine, reason: "asked for".into() }),
        (EngineChoice::Auto, Some(option)) => soft(format!("{option} is for it"), options),
        (EngineChoice::Auto, None) => match fast_kvm() {
            Ok(engine) => Ok(ChosenEngine { engine, reason: "KVM runs guests on the host's CPU".into() }),
            Err(why) => soft(why, options),
        },
    }
}

/// KVM, if it would be fast, or why not.
fn fast_kvm() -> Result<Arc<dyn Engine>, String> {
    // A KVM without hardware support (PVM) works, but emulates most guests at about a million instructions a second.
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpu.lines().find(|l| l.starts_with("flags")).unwrap_or_default();
    if !flags.split_whitespace().any(|f| f == "vmx" || f == "svm") {
        return Err("the host's CPU offers no hardware virtualization".into());
    }
    kvm().map_err(|e| format!("KVM cannot be used: {e}"))
}

fn soft(reason: String, options: &EngineOptions) -> Result<ChosenEngine, EngineError> {
    let options = SoftOptions::from_user(options)?;
    Ok(ChosenEngine { engine: Arc::new(SoftEngine::with_options(options)?), reason })
}

fn kvm() -> Result<Arc<dyn Engine>, EngineError> {
    Ok(Arc::new(KvmEngine::new()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_go_to_the_software_cpu_or_are_refused() {
        let one = EngineOptions { tier: Some(1), ..EngineOptions::default() };
        let auto = choose_with(EngineChoice::Auto, &one).unwrap();
        assert_eq!((auto.engine.caps().name, auto.reason.as_str()), ("soft", "--tier is for it"));
        assert_eq!(choose_with(EngineChoice::Soft, &one).unwrap().reason, "asked for");
        let refused = choose_with(EngineChoice::Kvm, &one).unwrap_err();
        assert_eq!(refused.kind, EngineErrorKind::Invalid);
        assert!(refused.to_string().starts_with("--tier is an option of the software CPU"), "{refused}");
        let nine = EngineOptions { tier: Some(9), ..EngineOptions::default() };
        assert!(choose_with(EngineChoice::Soft, &nine).is_err());
    }
}
