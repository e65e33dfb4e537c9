//! Small segments in a row, on their way to one host socket.
//!
//! A guest that splits its data itself sends a frame for each 1460 bytes. Calling the host for each would cost more than the
//! copy made here: what comes in a row goes to the socket in one piece, at the latest when the engine is polled next, which is
//! before the guest can see an acknowledgement.

use super::flow::{Flow, State};
use super::input::pass_on;
use super::{Fate, Tcp};
use crate::core::Core;
use crate::host::Host;
use crate::table::Id;
use crate::wire::tcp::{ACK, FIN, RST, SYN, Segment};

/// Bytes collected at most.
const MOST: usize = 64 << 10;
/// Larger segments go to the host themselves.
const SMALL: usize = 8 << 10;

/// What was collected, and for whom.
#[derive(Default)]
pub(crate) struct Staging {
    owner: Option<Id>,
    data: Vec<u8>,
}

impl Staging {
    /// The sequence number that comes next for `id`.
    fn next(&self, id: Id, flow: &Flow) -> u32 {
        match self.owner == Some(id) {
            true => flow.rcv_nxt.wrapping_add(self.data.len() as u32),
            false => flow.rcv_nxt,
        }
    }
}

impl Tcp {
    /// Collects the payload of a segment, if it is small and the next piece of an undisturbed flow. What it acknowledges is left
    /// to the caller.
    pub(super) fn stage<H: Host>(&mut self, core: &mut Core<H>, id: Id, segment: &Segment<'_>) -> bool {
        let Some((_, flow)) = self.table.get_mut(id) else { return false };
        let plain = segment.has(ACK) && !segment.has(SYN | FIN | RST) && flow.state == State::Open;
        let calm = !flow.guest_fin && !flow.blocked && flow.reorder.is_none();
        let len = segment.payload.len();
        let fits = (1..=SMALL).contains(&len) && segment.seq == self.staging.next(id, flow);
        // What lies beyond the advertised window is the host's to refuse.
        let inside =
            segment.seq.wrapping_add(len as u32).wrapping_sub(flow.rcv_nxt) <= flow.rcv_edge.wrapping_sub(flow.rcv_nxt);
        if !(plain && calm && fits && inside) {
            return false;
        }
        if self.staging.owner.is_some_and(|o| o != id) || self.staging.data.len() + len > MOST {
            self.unstage(core);
            if self.table.get(id).is_none_or(|(_, f)| f.blocked || f.rcv_nxt != segment.seq) {
                return false;
            }
        }
        self.staging.owner = Some(id);
        self.staging.data.extend_from_slice(segment.payload);
        true
    }

    /// Hands what was collected to the host.
    pub(crate) fn unstage<H: Host>(&mut self, core: &mut Core<H>) {
        let Some(id) = self.staging.owner.take() else { return };
        let mut fine = true;
        if let Some((_, flow)) = self.table.get_mut(id)
            && let Some(socket) = flow.socket
        {
            flow.acks = flow.acks.max(1);
            fine = pass_on(core, flow, socket, &self.staging.data).is_ok();
        }
        self.staging.data.clear();
        if fine { self.settle(core, id, Fate::Keep) } else { self.abort(core, id) }
    }
}
