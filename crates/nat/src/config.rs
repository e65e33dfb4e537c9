//! What a network looks like from inside: its addresses and limits.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use visor_net::MacAddr;

/// Addresses and limits of one translated network.
#[derive(Clone, Debug)]
pub struct NatConfig {
    /// Any address of the IPv4 network.
    pub network: Ipv4Addr,
    /// Bits of the network part, 8 to 29.
    pub prefix_len: u8,
    /// The router; it also stands for the host.
    pub gateway: Ipv4Addr,
    /// The resolver.
    pub dns: Ipv4Addr,
    /// First and last address given to guests.
    pub pool: (Ipv4Addr, Ipv4Addr),
    /// IPv6 network (the upper 64 bits count); `None`: no IPv6.
    pub prefix6: Option<Ipv6Addr>,
    /// Ethernet address of the router.
    pub mac: MacAddr,
    /// Most bytes of an IP packet on the guests' cable, 1280 to 65535.
    pub mtu: u16,
    /// Domain in which names of guests are known, without dots at its ends.
    pub domain: String,
    /// What guests that boot from the network are to fetch: a name for the server of files at the gateway's address, or a URL for
    /// boot loaders that know URLs. Up to 255 bytes.
    pub boot_file: Option<String>,
    /// How long a lease is valid.
    pub lease: Duration,
    /// There is no way out: guests are told of no router, and only each other's names are known. Ports of the host can be
    /// forwarded to guests all the same.
    pub closed: bool,
    /// The gateway's address leads to the host's loopback.
    pub allow_host_loopback: bool,
    /// Most TCP flows at a time.
    pub max_tcp: usize,
    /// Most UDP and ICMP flows at a time.
    pub max_datagram: usize,
    /// A TCP flow without any segment is forgotten after this (RFC 5382 REQ-5: at least 2 hours and 4 minutes).
    pub tcp_idle: Duration,
    /// A UDP flow (RFC 4787 REQ-5: at least 2 minutes, better 5).
    pub udp_idle: Duration,
    /// An echo flow (RFC 5508 REQ-2: at least 60 seconds).
    pub icmp_idle: Duration,
}

impl Default for NatConfig {
    fn default() -> Self {
        NatConfig {
            network: Ipv4Addr::new(10, 0, 2, 0),
            prefix_len: 24,
            gateway: Ipv4Addr::new(10, 0, 2, 2),
            dns: Ipv4Addr::new(10, 0, 2, 3),
            pool: (Ipv4Addr::new(10, 0, 2, 15), Ipv4Addr::new(10, 0, 2, 15)),
            prefix6: Some(Ipv6Addr::new(0xfd00, 0xa, 0, 2, 0, 0, 0, 0)),
            mac: MacAddr([0x52, 0x55, 10, 0, 2, 2]),
            mtu: 1500,
            domain: "internal".into(),
            boot_file: None,
            lease: Duration::from_secs(24 * 3600),
            closed: false,
            allow_host_loopback: false,
            max_tcp: 16384,
            max_datagram: 8192,
            tcp_idle: Duration::from_secs(7500),
            udp_idle: Duration::from_secs(300),
            icmp_idle: Duration::from_secs(60),
        }
    }
}

/// What is wrong with a [`NatConfig`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// The prefix length.
    #[error("a prefix of {0} bits; 8 to 29 are possible")]
    Prefix(u8),
    /// An address outside of the network, or its first or last one.
    #[error("{0} is not an address for hosts of the network")]
    Outside(Ipv4Addr),
    /// The pool is empty or holds the gateway or the resolver.
    #[error("the pool {0} to {1} is empty or holds the gateway or the resolver")]
    Pool(Ipv4Addr, Ipv4Addr),
    /// The name of the boot file.
    #[error("a boot file's name of {0} bytes; 1 to 255 without NUL are possible")]
    BootFile(usize),
    /// The MTU.
    #[error("an MTU of {0} bytes; 1280 to 65535 are possible")]
    Mtu(u16),
}

impl NatConfig {
    /// A network of many guests: `network`.1 is the router, .2 the resolver, the rest is the pool.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if the network is too small or too large.
    pub fn shared(network: Ipv4Addr, prefix_len: u8) -> Result<NatConfig, ConfigError> {
        if !(8..=29).contains(&prefix_len) {
            return Err(ConfigError::Prefix(prefix_len));
        }
        let base = u32::from(network) & mask(prefix_len);
        let last = base | !mask(prefix_len);
        let at = Ipv4Addr::from;
        let [_, b, c, _] = at(base).octets();
        let config = NatConfig {
            network: at(base),
            prefix_len,
            gateway: at(base + 1),
            dns: at(base + 2),
            pool: (at(base + 3), at(last - 1)),
            prefix6: Some(Ipv6Addr::new(0xfd00, (base >> 16) as u16, base as u16, u16::from(prefix_len), 0, 0, 0, 0)),
            mac: MacAddr([0x52, 0x55, 10, b, c, 1]),
            ..NatConfig::default()
        };
        config.check()?;
        Ok(config)
    }

    /// A network without a way out, for guests and the host: .1 is left to the host, .2 hands out addresses and names.
    ///
    /// # Errors
    ///
    /// As [`NatConfig::shared`].
    pub fn host_only(network: Ipv4Addr, prefix_len: u8) -> Result<NatConfig, ConfigError> {
        let shared = NatConfig::shared(network, prefix_len)?;
        Ok(NatConfig { gateway: shared.dns, closed: true, ..shared })
    }

    /// The address of the host in a network of [`NatConfig::host_only`].
    pub fn host_address(&self) -> Ipv4Addr {
        (u32::from(self.network) + 1).into()
    }

    /// Checks that the parts fit together.
    ///
    /// # Errors
    ///
    /// The first [`ConfigError`] found.
    pub fn check(&self) -> Result<(), ConfigError> {
        if !(8..=29).contains(&self.prefix_len) {
            return Err(ConfigError::Prefix(self.prefix_len));
        }
        if let Some(name) = &self.boot_file
            && (name.is_empty() || name.len() > 255 || name.contains('\0'))
        {
            return Err(ConfigError::BootFile(name.len()));
        }
        if self.mtu < 1280 {
            return Err(ConfigError::Mtu(self.mtu));
        }
        for ip in [self.gateway, self.dns, self.pool.0, self.pool.1] {
            if !self.contains(ip) || u32::from(ip) & !self.mask() == 0 || ip == self.broadcast() {
                return Err(ConfigError::Outside(ip));
            }
        }
        let pool = self.pool.0..=self.pool.1;
        if pool.is_empty() || pool.contains(&self.gateway) || pool.contains(&self.dns) {
            return Err(ConfigError::Pool(self.pool.0, self.pool.1));
        }
        Ok(())
    }

    /// The netmask as a number.
    pub(crate) fn mask(&self) -> u32 {
        mask(self.prefix_len)
    }

    /// The netmask.
    pub fn netmask(&self) -> Ipv4Addr {
        self.mask().into()
    }

    /// The broadcast address.
    pub fn broadcast(&self) -> Ipv4Addr {
        (u32::from(self.network) | !self.mask()).into()
    }

    /// True for addresses of the IPv4 network.
    pub fn contains(&self, ip: Ipv4Addr) -> bool {
        (u32::from(ip) ^ u32::from(self.network)) & self.mask() == 0
    }

    /// An address of the IPv6 network.
    pub(crate) fn address6(&self, host: u64) -> Option<Ipv6Addr> {
        let prefix = u128::from(self.prefix6?) >> 64 << 64;
        Some(Ipv6Addr::from(prefix | u128::from(host)))
    }

    /// The router's address in the IPv6 network.
    pub fn gateway6(&self) -> Option<Ipv6Addr> {
        self.address6(2)
    }

    /// The resolver's address in the IPv6 network.
    pub fn dns6(&self) -> Option<Ipv6Addr> {
        self.address6(3)
    }

    /// The router's link-local address.
    pub(crate) fn link_local(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2)
    }

    /// True for addresses of the IPv6 network.
    pub(crate) fn contains6(&self, ip: Ipv6Addr) -> bool {
        self.prefix6.is_some_and(|p| (u128::from(p) ^ u128::from(ip)) >> 64 == 0)
    }

    /// The addresses that no guest may have: the engine's own, and the host's.
    pub fn own_addresses(&self) -> Vec<IpAddr> {
        let six = [self.gateway6(), self.dns6(), self.prefix6.map(|_| self.link_local())];
        let host = self.closed.then(|| self.host_address());
        let four = [Some(self.gateway), Some(self.dns), host];
        let four = four.into_iter().flatten().map(IpAddr::from);
        four.chain(six.into_iter().flatten().map(IpAddr::from)).collect()
    }

    /// True for addresses behind which the engine itself sits.
    pub(crate) fn is_own(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => ip == self.gateway || ip == self.dns,
            IpAddr::V6(ip) => {
                self.prefix6.is_some()
                    && (ip == self.link_local() || Some(ip) == self.gateway6() || Some(ip) == self.dns6())
            }
        }
    }

    /// True for the addresses that stand for the host.
    pub(crate) fn is_gateway(&self, ip: IpAddr) -> bool {
        ip == IpAddr::V4(self.gateway) || self.gateway6().is_some_and(|g| ip == IpAddr::V6(g))
    }

    /// True for the resolver's addresses.
    pub(crate) fn is_dns(&self, ip: IpAddr) -> bool {
        ip == IpAddr::V4(self.dns) || self.dns6().is_some_and(|d| ip == IpAddr::V6(d))
    }
}

fn mask(prefix_len: u8) -> u32 {
    u32::MAX << (32 - prefix_len.clamp(1, 32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        assert_eq!(NatConfig::default().check(), Ok(()));
        let shared = NatConfig::shared(Ipv4Addr::new(192, 168, 7, 99), 28).unwrap();
        assert_eq!((shared.gateway, shared.broadcast()), ([192, 168, 7, 97].into(), [192, 168, 7, 111].into()));
        assert_eq!(shared.pool, ([192, 168, 7, 99].into(), [192, 168, 7, 110].into()));
        assert_eq!(NatConfig::shared(shared.network, 30).err(), Some(ConfigError::Prefix(30)));
        let bad = NatConfig { gateway: Ipv4Addr::new(10, 0, 3, 2), ..NatConfig::default() };
        assert_eq!(bad.check(), Err(ConfigError::Outside(bad.gateway)));
        let pool = ([10, 0, 2, 2].into(), [10, 0, 2, 9].into());
        assert_eq!(NatConfig { pool, ..NatConfig::default() }.check(), Err(ConfigError::Pool(pool.0, pool.1)));
    }
}
