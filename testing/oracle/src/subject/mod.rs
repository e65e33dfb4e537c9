//! Whatever can run cases.

mod engine;
mod guest;

pub use engine::EngineSubject;

use crate::case::{Case, Outcome};

/// A CPU under test, or the reference.
pub trait Subject {
    /// Its name in reports.
    fn name(&self) -> &str;

    /// Runs the cases independently of each other, in order, and returns one outcome for each.
    ///
    /// # Errors
    /// Where the subject itself fails; whatever a case does is an outcome.
    fn run(&mut self, cases: &[Case]) -> anyhow::Result<Vec<Outcome>>;
}
