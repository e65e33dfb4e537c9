//! VLAN membership of ports, and tags (IEEE 802.1Q-2022 §9).

use std::collections::BTreeSet;

use visor_net::{Frame, Offload, headers};

/// A VLAN, 1 to 4094.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct VlanId(u16);

/// Not a VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a VLAN; they are numbered 1 to 4094")]
pub struct VlanIdError(pub u16);

impl Default for VlanId {
    fn default() -> Self {
        VlanId::DEFAULT
    }
}

impl VlanId {
    /// The VLAN of ports that say nothing else.
    pub const DEFAULT: VlanId = VlanId(1);

    /// VLAN number `id`.
    ///
    /// # Errors
    /// [`VlanIdError`] outside 1 to 4094.
    pub fn new(id: u16) -> Result<Self, VlanIdError> {
        if (1..=4094).contains(&id) { Ok(VlanId(id)) } else { Err(VlanIdError(id)) }
    }

    /// Its number.
    pub fn number(self) -> u16 {
        self.0
    }
}

/// Which VLANs a port belongs to.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub enum Membership {
    /// One; frames carry no tag.
    Access(VlanId),
    /// Several; frames carry a tag.
    Trunk {
        /// The VLAN of frames without a tag; without one they are refused.
        native: Option<VlanId>,
        /// Those that pass; `None` for all.
        allowed: Option<BTreeSet<VlanId>>,
    },
}

impl Default for Membership {
    fn default() -> Self {
        Membership::Access(VlanId::DEFAULT)
    }
}

impl Membership {
    /// The VLAN of a frame that comes in or goes out here, `None` if it must not.
    pub fn classify(&self, frame: &[u8]) -> Option<VlanId> {
        // A tag with VLAN 0 carries a priority only.
        let tag = headers::vlan(frame).filter(|id| *id != 0);
        match (self, tag) {
            (Membership::Access(id), None) => Some(*id),
            (Membership::Access(_), Some(_)) => None,
            (Membership::Trunk { native, .. }, None) => *native,
            (Membership::Trunk { .. }, Some(tag)) => VlanId::new(tag).ok().filter(|id| self.carries(*id)),
        }
    }

    /// Whether frames of `vlan` go out here.
    pub(crate) fn carries(&self, vlan: VlanId) -> bool {
        match self {
            Membership::Access(id) => *id == vlan,
            Membership::Trunk { native, allowed } => {
                *native == Some(vlan) || allowed.as_ref().is_none_or(|a| a.contains(&vlan))
            }
        }
    }

    /// Whether frames of `vlan` carry a tag here.
    pub(crate) fn tags(&self, vlan: VlanId) -> bool {
        matches!(self, Membership::Trunk { native, .. } if *native != Some(vlan))
    }
}

/// Calls `f` with `frame` in the form in which it leaves: with the tag of `vlan`, or without one. `scratch` holds the bytes of a
/// frame that had to be changed.
pub(crate) fn retagged<R>(
    frame: Frame<'_>,
    vlan: VlanId,
    tagged: bool,
    scratch: &mut Vec<u8>,
    f: impl FnOnce(Frame<'_>) -> R,
) -> R {
    let has = headers::vlan(frame.data).is_some();
    if has == tagged || frame.data.len() < if has { 16 } else { 12 } {
        return f(frame);
    }
    let (addresses, rest) = frame.data.split_at(12);
    scratch.clear();
    scratch.extend_from_slice(addresses);
    if tagged {
        scratch.extend_from_slice(&[0x81, 0]);
        scratch.extend_from_slice(&vlan.0.to_be_bytes());
        scratch.extend_from_slice(rest);
    } else {
        scratch.extend_from_slice(&rest[4..]);
    }
    let shift =
        |(start, offset): (u16, u16)| (if tagged { start.saturating_add(4) } else { start.saturating_sub(4) }, offset);
    let offload = Offload { checksum: frame.offload.checksum.map(shift), ..frame.offload };
    f(Frame { data: scratch, offload })
}
