//! Gives addresses to BARs where no firmware does, as for a kernel that the machine loads itself.

use crate::bar::{BarKind, BarRange};
use crate::bus::{PciBus, lock};
use crate::intx::DEFAULT_ROUTES;
use crate::{PciAddress, PciError};

/// 64-bit BARs of at least this size go above 4 GiB when there is room.
const LARGE: u64 = 64 << 20;

struct Request {
    slot: usize,
    at: PciAddress,
    index: u8,
    bar: BarRange,
}

impl PciBus {
    /// Places every BAR in the apertures, largest first, enables decoding, and notes each function's interrupt in its interrupt
    /// line register. Bus mastering stays off: drivers enable it. Call it with no vCPU running, after [`PciBus::add`] or reset.
    ///
    /// # Errors
    /// [`PciError::Aperture`] when an aperture is full; BARs placed until then stay enabled.
    pub fn assign_resources(&mut self) -> Result<(), PciError> {
        let mut requests = Vec::new();
        for (slot, s) in self.slots.iter().enumerate() {
            let mut function = lock(&s.function);
            let of = |index: u8| function.config().bar(index).map(|bar| Request { slot, at: s.at, index, bar });
            requests.extend((0..6).filter_map(of));
            if let Some(pin) = function.config().interrupt_pin() {
                function.config_mut().set_interrupt_line(DEFAULT_ROUTES[pin.pirq(s.at.device)]);
            }
        }
        requests.sort_by_key(|r| std::cmp::Reverse(r.bar.size));
        let a = &self.apertures;
        let (mut mem32, mut mem64, mut io) = (a.mem32.clone(), a.mem64.clone(), a.io.clone());
        for r in &requests {
            let base = match r.bar.kind {
                BarKind::Io => take(&mut io, r.bar.size),
                BarKind::Mem32 => take(&mut mem32, r.bar.size),
                BarKind::Mem64 if r.bar.size >= LARGE => {
                    take(&mut mem64, r.bar.size).or_else(|| take(&mut mem32, r.bar.size))
                }
                BarKind::Mem64 => take(&mut mem32, r.bar.size).or_else(|| take(&mut mem64, r.bar.size)),
            };
            let base = base.ok_or(PciError::Aperture { at: r.at, index: r.index, size: r.bar.size })?;
            let mut function = lock(&self.slots[r.slot].function);
            function.config_mut().point_bar(r.index, base);
            function.config_mut().enable(if r.bar.kind == BarKind::Io { 1 } else { 2 });
        }
        (0..self.slots.len()).for_each(|i| self.refresh(i));
        Ok(())
    }
}

/// Cuts `size` aligned addresses off the front of `space`.
fn take(space: &mut std::ops::Range<u64>, size: u64) -> Option<u64> {
    let base = space.start.checked_next_multiple_of(size)?;
    let end = base.checked_add(size)?;
    if end > space.end {
        return None;
    }
    space.start = end;
    Some(base)
}
