//! Telling a host program that waits in a poll of its own that something has happened.

use std::sync::{Arc, OnceLock};

/// Told of events; clones tell the same listener.
#[derive(Clone, Default)]
pub(crate) struct Listener(Arc<OnceLock<Box<dyn Fn() + Send + Sync>>>);

impl Listener {
    /// Sets who is told; only the first one counts.
    pub(crate) fn set(&self, f: impl Fn() + Send + Sync + 'static) {
        let _ = self.0.set(Box::new(f));
    }

    pub(crate) fn tell(&self) {
        if let Some(f) = self.0.get() {
            f();
        }
    }
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.get().is_some() { "a listener" } else { "no listener" })
    }
}
