//! The control queue (virtio 1.2 §5.1.6.5): class, command, data | acknowledgement.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use visor_net::MacAddr;

use super::filter::{MAX_ADDRESSES, Table};
use super::{F_CTRL_GUEST_OFFLOADS, F_CTRL_RX, F_CTRL_VLAN, F_GUEST_CSUM, F_GUEST_TSO4, F_GUEST_TSO6, F_MQ};
use super::{Shared, lock};
use crate::Buffer;

const OK: u8 = 0;
const ERR: u8 = 1;

const RX: u8 = 0;
const MAC: u8 = 1;
const VLAN: u8 = 2;
const ANNOUNCE: u8 = 3;
const MQ: u8 = 4;
const GUEST_OFFLOADS: u8 = 5;

/// Guest offloads that can be switched at run time.
const SWITCHABLE: u64 = F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6;

impl Shared {
    /// Carries out what the driver has put into the control queue.
    pub(super) fn control(self: &Arc<Self>, queue: u16) {
        let Some(queues) = self.queues.get() else { return };
        for _ in 0..16 * u32::from(queues.size(queue)) {
            let Some(chain) = queues.next(queue) else { return };
            let mut head = [0; 2];
            if chain.writable.is_empty() || chain.readable.get(0, &mut head).is_err() {
                queues.fail("control command without class or acknowledgement");
                return;
            }
            let done = self.command(head[0], head[1], &chain.readable).is_some();
            let put = chain.writable.put(0, &[if done { OK } else { ERR }]).is_ok();
            chain.complete(u32::from(put));
        }
        // A driver that never stops: what it has put in stays until its next notification.
    }

    /// One command; `None` if it cannot be.
    fn command(&self, class: u8, command: u8, data: &Buffer) -> Option<()> {
        match (class, command) {
            (RX, _) if self.has(F_CTRL_RX) => {
                let on = read::<1>(data, 2)?[0] != 0;
                lock(&self.receive).filter.set_mode(command, on).then_some(())
            }
            (MAC, 0) if self.has(F_CTRL_RX) => {
                let (unicast, next) = table(data, 2)?;
                let (multicast, _) = table(data, next)?;
                lock(&self.receive).filter.set_tables(unicast, multicast);
                Some(())
            }
            (MAC, 1) => {
                lock(&self.receive).filter.mac = MacAddr(read(data, 2)?);
                Some(())
            }
            (VLAN, 0 | 1) if self.has(F_CTRL_VLAN) => {
                let id = u16::from_le_bytes(read(data, 2)?);
                lock(&self.receive).filter.set_vlan(id, command == 0).then_some(())
            }
            (ANNOUNCE, 0) => {
                self.announce.store(false, Ordering::SeqCst);
                Some(())
            }
            (MQ, 0) if self.has(F_MQ) => {
                let pairs = u16::from_le_bytes(read(data, 2)?);
                let valid = (1..=self.pairs).contains(&pairs);
                valid.then(|| lock(&self.receive).steering.pairs = pairs)
            }
            (GUEST_OFFLOADS, 0) if self.has(F_CTRL_GUEST_OFFLOADS) => {
                self.set_offloads(u64::from_le_bytes(read(data, 2)?))
            }
            _ => None,
        }
    }

    /// §5.1.6.5.6: which of the negotiated guest offloads are in force.
    fn set_offloads(&self, offloads: u64) -> Option<()> {
        if offloads & !(self.features.load(Ordering::Relaxed) & SWITCHABLE) != 0 {
            return None;
        }
        let accepts = Self::accepts(offloads);
        let mut port = lock(&self.port);
        lock(&self.receive).accepts = accepts;
        port.set_accepts(accepts);
        Some(())
    }
}

fn read<const N: usize>(data: &Buffer, at: usize) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    data.get(at, &mut bytes).ok()?;
    Some(bytes)
}

/// A list of addresses: its length in 32 bits, then the addresses. Also where it ends.
fn table(data: &Buffer, at: usize) -> Option<(Table, usize)> {
    let count = u32::from_le_bytes(read(data, at)?) as usize;
    let end = count.checked_mul(6)?.checked_add(at + 4)?;
    if end > data.len() {
        return None;
    }
    if count > MAX_ADDRESSES {
        return Some((Table { addresses: Vec::new(), overflow: true }, end));
    }
    let addresses = (0..count).map(|i| read(data, at + 4 + 6 * i).map(MacAddr)).collect::<Option<_>>()?;
    Some((Table { addresses, overflow: false }, end))
}
