//! Judging frames one by one, for a port between a guest and a switch.

use crate::Direction;

/// Decides which frames pass.
pub trait FrameFilter: Send {
    /// Whether `frame` may pass. [`Direction::Outbound`] frames come from the guest. Called with a lock held: it must not wait.
    fn pass(&mut self, direction: Direction, frame: &[u8]) -> bool;

    /// What the sender of the frame that was refused last is to be told, as a finished frame; `None` for nothing.
    fn answer(&mut self) -> Option<Vec<u8>> {
        None
    }
}
