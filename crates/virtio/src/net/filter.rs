//! Which frames the driver wants (virtio 1.2 §5.1.6.5.1 to §5.1.6.5.3).

use visor_net::{MacAddr, headers};

/// Most addresses of each kind; of a longer list every address of the kind passes, as the specification allows.
pub(super) const MAX_ADDRESSES: usize = 64;

/// The modes of §5.1.6.5.1, by the number of their command.
const PROMISCUOUS: usize = 0;
const ALL_MULTICAST: usize = 1;
const ALL_UNICAST: usize = 2;
const NO_MULTICAST: usize = 3;
const NO_UNICAST: usize = 4;
const NO_BROADCAST: usize = 5;

/// The filter.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    /// The device's address.
    pub(super) mac: MacAddr,
    modes: [bool; 6],
    unicast: Table,
    multicast: Table,
    /// A bit for each VLAN; without the feature tags do not matter.
    vlans: Option<Box<[u64; 64]>>,
}

/// A list of addresses.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub(super) addresses: Vec<MacAddr>,
    pub(super) overflow: bool,
}

impl Table {
    fn has(&self, to: MacAddr) -> bool {
        self.overflow || self.addresses.contains(&to)
    }
}

impl Filter {
    /// As after a reset: everything passes until the driver says otherwise.
    pub(super) fn new(mac: MacAddr) -> Self {
        let mut modes = [false; 6];
        modes[PROMISCUOUS] = true;
        Filter { mac, modes, unicast: Table::default(), multicast: Table::default(), vlans: None }
    }

    /// Sets a mode by its command; false if there is none.
    pub(super) fn set_mode(&mut self, command: u8, on: bool) -> bool {
        self.modes.get_mut(usize::from(command)).map(|m| *m = on).is_some()
    }

    pub(super) fn set_tables(&mut self, unicast: Table, multicast: Table) {
        (self.unicast, self.multicast) = (unicast, multicast);
    }

    /// Begins to look at VLAN tags.
    pub(super) fn filter_vlans(&mut self) {
        self.vlans = Some(Box::new([0; 64]));
    }

    /// Lets a VLAN pass or not; false if there is no such VLAN.
    pub(super) fn set_vlan(&mut self, id: u16, pass: bool) -> bool {
        let Some(word) = self.vlans.as_mut().and_then(|v| v.get_mut(usize::from(id / 64))) else { return false };
        let bit = 1 << (id % 64);
        *word = if pass { *word | bit } else { *word & !bit };
        true
    }

    /// Whether the driver wants the frame.
    pub(super) fn passes(&self, frame: &[u8]) -> bool {
        let Some(to) = frame.first_chunk::<6>() else { return false };
        if let (Some(vlans), Some(id)) = (&self.vlans, headers::vlan(frame))
            && vlans[usize::from(id / 64)] & 1 << (id % 64) == 0
        {
            return false;
        }
        self.wants(MacAddr(*to))
    }

    fn wants(&self, to: MacAddr) -> bool {
        let on = |mode: usize| self.modes[mode];
        if on(PROMISCUOUS) {
            true
        } else if to == MacAddr::BROADCAST {
            !on(NO_BROADCAST)
        } else if to.is_multicast() {
            !on(NO_MULTICAST) && (on(ALL_MULTICAST) || self.multicast.has(to))
        } else {
            !on(NO_UNICAST) && (on(ALL_UNICAST) || to == self.mac || self.unicast.has(to))
        }
    }
}
