//! Who is on the cable: leases of addresses, the Ethernet address behind each, and whether a sender may use its address.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustc_hash::FxHashMap;
use visor_net::MacAddr;

use crate::{NatConfig, Time};

/// IPv6 addresses that one guest may use at a time; systems make themselves a new temporary one each day.
const MAX_ADDRESSES6: usize = 16;
/// How long an address is held for a guest that it was offered to.
const OFFER: std::time::Duration = std::time::Duration::from_secs(60);

/// An address given to a guest. Saved leases keep addresses stable over restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Whose.
    pub mac: MacAddr,
    /// Which.
    pub address: Ipv4Addr,
    /// Kept for this guest whether it asks or not.
    pub reserved: bool,
}

struct Held {
    address: Ipv4Addr,
    reserved: bool,
    /// An offer that nobody took is forgotten then; `None`: taken.
    offered_until: Option<Time>,
    expires: Time,
    addresses6: Vec<Ipv6Addr>,
    owner: u16,
}

/// The guests of a network.
pub(crate) struct Guests {
    by_mac: BTreeMap<MacAddr, Held>,
    by_address: FxHashMap<Ipv4Addr, MacAddr>,
    by_address6: FxHashMap<Ipv6Addr, MacAddr>,
    owners: u16,
}

impl Guests {
    pub(crate) fn new() -> Guests {
        Guests {
            by_mac: BTreeMap::new(),
            by_address: FxHashMap::default(),
            by_address6: FxHashMap::default(),
            owners: 0,
        }
    }

    /// Leases in the order of their Ethernet addresses.
    pub(crate) fn leases(&self) -> Vec<Lease> {
        let taken = self.by_mac.iter().filter(|(_, h)| h.offered_until.is_none());
        taken.map(|(&mac, h)| Lease { mac, address: h.address, reserved: h.reserved }).collect()
    }

    /// Takes a saved or wanted lease over. False if the address is another guest's or not of the network.
    pub(crate) fn restore(&mut self, config: &NatConfig, lease: &Lease, now: Time) -> bool {
        let foreign = self.by_address.get(&lease.address).is_some_and(|m| *m != lease.mac);
        if foreign || !config.contains(lease.address) || config.is_own(lease.address.into()) {
            return false;
        }
        self.hold(lease.mac, lease.address, None, now + config.lease);
        if let Some(held) = self.by_mac.get_mut(&lease.mac) {
            held.reserved |= lease.reserved;
        }
        true
    }

    /// The address of a guest, be it only offered.
    #[cfg(test)]
    pub(crate) fn address_of(&self, mac: MacAddr) -> Option<Ipv4Addr> {
        self.by_mac.get(&mac).map(|h| h.address)
    }

    /// The Ethernet address behind an address.
    pub(crate) fn mac_of(&self, ip: IpAddr) -> Option<MacAddr> {
        match ip {
            IpAddr::V4(ip) => self.by_address.get(&ip).copied(),
            IpAddr::V6(ip) => self.by_address6.get(&ip).copied(),
        }
    }

    /// Small number of the guest, for tables that must be fair between guests.
    pub(crate) fn owner(&self, mac: MacAddr) -> u16 {
        self.by_mac.get(&mac).map_or(0, |h| h.owner)
    }

    /// Finds an address for `mac`: its own, else `wish` if free, else the first free one, else the longest expired one.
    pub(crate) fn offer(
        &mut self,
        config: &NatConfig,
        mac: MacAddr,
        wish: Option<Ipv4Addr>,
        now: Time,
    ) -> Option<Ipv4Addr> {
        if mac.is_multicast() {
            return None;
        }
        if let Some(held) = self.by_mac.get_mut(&mac) {
            if held.offered_until.is_some() {
                held.offered_until = Some(now + OFFER);
            }
            return Some(held.address);
        }
        let pool = u32::from(config.pool.0)..=u32::from(config.pool.1);
        let free = |ip: &Ipv4Addr| !self.by_address.contains_key(ip);
        let address = wish
            .filter(|ip| pool.contains(&u32::from(*ip)) && free(ip))
            .or_else(|| self.first_free(pool))
            .or_else(|| self.reclaim(now))?;
        self.hold(mac, address, Some(now + OFFER), now + config.lease);
        Some(address)
    }

    /// The guest takes `address`. False if it is not the one held for it.
    pub(crate) fn take(&mut self, config: &NatConfig, mac: MacAddr, address: Ipv4Addr, now: Time) -> bool {
        match self.by_mac.get_mut(&mac) {
            Some(held) if held.address == address => {
                held.offered_until = None;
                held.expires = now + config.lease;
                true
            }
            _ => false,
        }
    }

    /// The guest gives its address back; a reserved one stays its own.
    pub(crate) fn release(&mut self, mac: MacAddr, now: Time) {
        if let Some(held) = self.by_mac.get_mut(&mac) {
            held.expires = now;
        }
    }

    /// True if a packet from `mac` may have the source address `ip`. A guest with a network of its own (a pool of one address)
    /// need not ask for it first; addresses of IPv6 belong to whoever uses them first.
    pub(crate) fn may_use(&mut self, config: &NatConfig, mac: MacAddr, ip: IpAddr, now: Time) -> bool {
        match ip {
            IpAddr::V4(ip) => {
                let own = self.by_address.get(&ip) == Some(&mac);
                if own || config.pool.0 != config.pool.1 || ip != config.pool.0 {
                    return own;
                }
                self.offer(config, mac, None, now) == Some(ip) && self.take(config, mac, ip, now)
            }
            IpAddr::V6(ip) => match self.by_address6.get(&ip) {
                Some(owner) => *owner == mac,
                None => self.bind6(config, mac, ip, now),
            },
        }
    }

    fn bind6(&mut self, config: &NatConfig, mac: MacAddr, ip: Ipv6Addr, now: Time) -> bool {
        let local = ip.segments()[0] & 0xffc0 == 0xfe80;
        if !(local || config.contains6(ip)) || config.is_own(ip.into()) {
            return false;
        }
        // Every guest has a place of its own in the table of leases, so the pool bounds this table too.
        if self.offer(config, mac, None, now).is_none() {
            return false;
        }
        let Some(held) = self.by_mac.get_mut(&mac) else { return false };
        if held.addresses6.len() >= MAX_ADDRESSES6 {
            let oldest = held.addresses6.remove(0);
            self.by_address6.remove(&oldest);
        }
        held.addresses6.push(ip);
        self.by_address6.insert(ip, mac);
        true
    }

    fn first_free(&self, pool: std::ops::RangeInclusive<u32>) -> Option<Ipv4Addr> {
        // At most one step more than there are guests.
        pool.map(Ipv4Addr::from).find(|ip| !self.by_address.contains_key(ip))
    }

    fn reclaim(&mut self, now: Time) -> Option<Ipv4Addr> {
        let dead = |h: &Held| !h.reserved && (h.offered_until.is_some_and(|t| t <= now) || h.expires <= now);
        let (&mac, _) = self.by_mac.iter().filter(|(_, h)| dead(h)).min_by_key(|(_, h)| h.expires)?;
        let held = self.by_mac.remove(&mac)?;
        self.by_address.remove(&held.address);
        for ip in held.addresses6 {
            self.by_address6.remove(&ip);
        }
        Some(held.address)
    }

    fn hold(&mut self, mac: MacAddr, address: Ipv4Addr, offered_until: Option<Time>, expires: Time) {
        let (reserved, addresses6, owner) = match self.by_mac.remove(&mac) {
            Some(old) => {
                self.by_address.remove(&old.address);
                (old.reserved, old.addresses6, old.owner)
            }
            None => {
                self.owners = (self.owners + 1) % 1024;
                (false, Vec::new(), self.owners)
            }
        };
        self.by_address.insert(address, mac);
        self.by_mac.insert(mac, Held { address, reserved, offered_until, expires, addresses6, owner });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const C: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);

    #[test]
    fn leases_belong_to_one_guest() {
        let config = NatConfig::shared(Ipv4Addr::new(10, 9, 0, 0), 29).unwrap();
        let mut guests = Guests::new();
        let at = |n| Ipv4Addr::new(10, 9, 0, n);
        assert_eq!(guests.offer(&config, A, Some(at(5)), Time(0)), Some(at(5)));
        assert_eq!(guests.offer(&config, B, Some(at(5)), Time(0)), Some(at(3)));
        assert!(guests.take(&config, A, at(5), Time(0)) && !guests.take(&config, B, at(5), Time(0)));
        assert!(guests.may_use(&config, A, at(5).into(), Time(0)));
        assert!(!guests.may_use(&config, B, at(5).into(), Time(0)), "an address of another guest");
        assert!(!guests.may_use(&config, C, at(4).into(), Time(0)), "an address nobody was given");
        let wanted = Lease { mac: C, address: at(4), reserved: true };
        assert!(guests.restore(&config, &wanted, Time(0)));
        assert!(!guests.restore(&config, &Lease { mac: B, ..wanted }, Time(0)));
        assert_eq!(guests.leases(), [Lease { mac: A, address: at(5), reserved: false }, wanted]);
        // 10.9.0.6 goes to the fourth; the fifth gets the address that B never took.
        let (d, e) = (MacAddr([2, 0, 0, 0, 0, 4]), MacAddr([2, 0, 0, 0, 0, 5]));
        assert_eq!(guests.offer(&config, d, None, Time(1)), Some(at(6)));
        assert_eq!(guests.offer(&config, e, None, Time(1)), None);
        assert_eq!(guests.offer(&config, e, None, Time(61_000_000)), Some(at(3)));
        assert_eq!(guests.address_of(B), None);
    }

    #[test]
    fn a_guest_alone_needs_no_lease_but_has_only_its_address() {
        let config = NatConfig::default();
        let mut guests = Guests::new();
        assert!(!guests.may_use(&config, A, Ipv4Addr::new(10, 0, 2, 16).into(), Time(0)));
        assert!(guests.may_use(&config, A, config.pool.0.into(), Time(0)));
        assert!(!guests.may_use(&config, B, config.pool.0.into(), Time(0)));
        let six: IpAddr = config.address6(77).unwrap().into();
        assert!(guests.may_use(&config, A, six, Time(0)) && !guests.may_use(&config, B, six, Time(0)));
        assert!(!guests.may_use(&config, A, config.gateway6().unwrap().into(), Time(0)));
        assert!(!guests.may_use(&config, A, "2001:db8::1".parse().unwrap(), Time(0)));
        for n in 100..100 + MAX_ADDRESSES6 as u64 {
            assert!(guests.may_use(&config, A, config.address6(n).unwrap().into(), Time(0)));
        }
        assert_eq!(guests.mac_of(six), None, "the oldest address went");
    }
}
