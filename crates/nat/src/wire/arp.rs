//! ARP for IPv4 over Ethernet (RFC 826).

use std::net::Ipv4Addr;

use visor_net::MacAddr;

use super::{ETH, TYPE_ARP, be16, v4};

/// An ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arp {
    /// Request, not reply.
    pub(crate) request: bool,
    pub(crate) sender_mac: MacAddr,
    pub(crate) sender: Ipv4Addr,
    pub(crate) target_mac: MacAddr,
    pub(crate) target: Ipv4Addr,
}

impl Arp {
    /// Parses the payload of an Ethernet frame.
    pub(crate) fn parse(data: &[u8]) -> Option<Arp> {
        let request = match (be16(data, 0)?, be16(data, 2)?, be16(data, 4)?, be16(data, 6)?) {
            (1, 0x0800, 0x0604, 1) => true,
            (1, 0x0800, 0x0604, 2) => false,
            _ => return None,
        };
        Some(Arp {
            request,
            sender_mac: mac(data, 8)?,
            sender: v4(data, 14)?,
            target_mac: mac(data, 18)?,
            target: v4(data, 24)?,
        })
    }

    /// The whole frame, addressed to `target_mac`.
    pub(crate) fn emit(&self) -> Vec<u8> {
        let mut frame = Vec::with_capacity(ETH + 28);
        frame.extend(self.target_mac.0);
        frame.extend(self.sender_mac.0);
        frame.extend(TYPE_ARP.to_be_bytes());
        frame.extend([0, 1, 8, 0, 6, 4, 0, if self.request { 1 } else { 2 }]);
        frame.extend(self.sender_mac.0);
        frame.extend(self.sender.octets());
        frame.extend(self.target_mac.0);
        frame.extend(self.target.octets());
        frame
    }
}

/// The Ethernet address at `at`.
pub(crate) fn mac(data: &[u8], at: usize) -> Option<MacAddr> {
    Some(MacAddr(data.get(at..at + 6)?.try_into().ok()?))
}
