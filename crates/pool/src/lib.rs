//! Pools: several stores - folders, exports of NBD servers - as one, whose volumes are striped over them, mirrored, or both.
//!
//! - [`Pool`] is the stores (members) and the volumes on them;
//! - [`Volume`] is a volume as a disk: it survives the loss of members as long as each part of it has one copy left;
//! - [`Layout`] says where a byte of a volume is.
//!
//! What keeps data from being lost or made up:
//!
//! - Each member's part of a volume carries a record of the volume with a generation. Whatever changes who has current data - a
//!   member that failed, one that was missing, one that was rebuilt - is a new generation, written by everybody who is current before
//!   anything else happens. A member with an older generation is out of date, whatever is on it.
//! - This host remembers the newest generation it has seen, so that a member that is out of date is not taken for current when it
//!   is alone.
//! - Before a region is written its copies are noted as maybe different; after a crash they are made equal again.
//! - Records are written in turn to two places and have a checksum: one of them is whole at any time.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod device;
mod error;
mod intent;
mod layout;
mod member;
mod pool;
mod record;
mod registry;
pub mod testing;
#[cfg(test)]
mod tests;
mod volume;

pub use error::{PoolError, PoolErrorKind};
pub use layout::Layout;
pub use member::{MemberState, Place};
pub use pool::{MemberInfo, NewVolume, Pool, PoolInfo, VolumeInfo};
pub use registry::Registry;
pub use volume::{Event, Health, Volume};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, PoolError>;

/// A new name for something, unlike all others: 32 hexadecimal digits.
pub(crate) fn unique() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|e| PoolError::new(PoolErrorKind::Io, format!("the host gives no random bytes: {e}")))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}
