//! What becomes of a guest's frame: who sent it, whether it may, and which protocol takes it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use visor_net::{Frame, MAX_FRAME, MacAddr, Offload, Protocol};

use crate::engine::NatEngine;
use crate::host::Host;
use crate::wire::arp::{Arp, mac};
use crate::wire::ip::{Packet, parse_v4, parse_v6};
use crate::wire::tcp::Segment;
use crate::wire::{self, ETH, TYPE_ARP, TYPE_IPV4, TYPE_IPV6, be16};
use crate::{datagram, dhcp4, dhcp6, icmp, tcp};

impl<H: Host> NatEngine<H> {
    /// Takes a frame. `None`: it was dropped, and counted if it was wrong.
    pub(crate) fn receive(&mut self, frame: Frame<'_>) -> Option<()> {
        let data = frame.data;
        let head = if data.len() <= MAX_FRAME { data.get(..ETH) } else { None };
        let Some(head) = head else { return self.malformed() };
        let (to, from) = (mac(head, 0)?, mac(head, 6)?);
        // A switch that does not know us yet floods; what is for others is no fault.
        if to != self.core.config.mac && !to.is_multicast() {
            return None;
        }
        if from.is_multicast() || from == self.core.config.mac {
            return self.spoofed();
        }
        let body = &data[ETH..];
        match be16(head, 12)? {
            TYPE_ARP => match Arp::parse(body) {
                Some(arp) => self.arp(from, &arp),
                None => self.malformed(),
            },
            TYPE_IPV4 => match parse_v4(body) {
                Some(packet) => self.packet(from, to, &packet, &frame.offload),
                None => self.malformed(),
            },
            TYPE_IPV6 if self.core.config.prefix6.is_some() => match parse_v6(body) {
                Some(packet) => self.packet(from, to, &packet, &frame.offload),
                None => self.malformed(),
            },
            _ => None,
        }
    }

    fn malformed(&mut self) -> Option<()> {
        self.core.counters.malformed += 1;
        None
    }

    fn spoofed(&mut self) -> Option<()> {
        self.core.counters.spoofed += 1;
        None
    }

    fn arp(&mut self, from: MacAddr, arp: &Arp) -> Option<()> {
        let probe = arp.sender == Ipv4Addr::UNSPECIFIED;
        let now = self.core.now;
        if arp.sender_mac != from
            || !(probe || self.core.guests.may_use(&self.core.config, from, arp.sender.into(), now))
        {
            return self.spoofed();
        }
        if arp.request && self.core.config.is_own(arp.target.into()) {
            let own = self.core.config.mac;
            let reply =
                Arp { request: false, sender_mac: own, sender: arp.target, target_mac: from, target: arp.sender };
            self.core.reply(reply.emit());
        }
        Some(())
    }

    fn packet(&mut self, from: MacAddr, to: MacAddr, packet: &Packet<'_>, offload: &Offload) -> Option<()> {
        // Before a guest has an address it can only ask for one.
        let anonymous = packet.source.is_unspecified();
        let now = self.core.now;
        if !anonymous && !self.core.guests.may_use(&self.core.config, from, packet.source, now) {
            return self.spoofed();
        }
        if anonymous && packet.fragment.is_some() {
            return self.malformed();
        }
        let Some(fragment) = packet.fragment else {
            return self.transport(from, to, packet, offload, anonymous);
        };
        let whole = self.reassembly.take(from, packet, fragment, now)?;
        let packet = Packet { payload: &whole.payload, whole: &whole.head, fragment: None, ..*packet };
        // What was cut into pieces has its checksum filled in.
        self.transport(from, to, &packet, &Offload { trusted: offload.trusted, ..Offload::default() }, anonymous)
    }

    fn transport(
        &mut self,
        from: MacAddr,
        to: MacAddr,
        packet: &Packet<'_>,
        offload: &Offload,
        anonymous: bool,
    ) -> Option<()> {
        let v4 = packet.source.is_ipv4();
        // IPv4's UDP may do without a checksum, IPv6's not (RFC 8200 §8.1).
        let none = packet.protocol == wire::UDP && v4 && be16(packet.payload, 6) == Some(0);
        let pseudo = match packet.protocol {
            wire::ICMP => 0,
            p => wire::pseudo(packet.source, packet.destination, p, packet.payload.len()),
        };
        if !(none || offload.trusted || offload.checksum.is_some() || wire::verify(pseudo, packet.payload)) {
            // Of other protocols nobody knows where a checksum stands; they go nowhere.
            if matches!(packet.protocol, wire::TCP | wire::UDP | wire::ICMP | wire::ICMP6) {
                self.core.counters.bad_checksum += 1;
            }
            return None;
        }
        let own = self.core.config.is_own(packet.destination);
        if !own && !is_local(packet.destination) && packet.hops <= 1 && !anonymous {
            icmp::time_exceeded(&mut self.core, from, packet);
            return None;
        }
        match packet.protocol {
            wire::UDP => self.udp(from, packet, anonymous),
            wire::ICMP6 if !v4 => self.icmp6(from, packet, anonymous),
            _ if anonymous || to.is_multicast() => None,
            wire::TCP => self.tcp(from, packet),
            wire::ICMP if v4 => self.echo(from, packet, own),
            _ => None,
        }
    }

    fn tcp(&mut self, from: MacAddr, packet: &Packet<'_>) -> Option<()> {
        let Some(segment) = Segment::parse(packet.payload) else { return self.malformed() };
        let key = tcp::Key {
            guest: SocketAddr::new(packet.source, segment.source_port),
            remote: SocketAddr::new(packet.destination, segment.destination_port),
        };
        self.tcp.input(&mut self.core, from, &segment, key);
        Some(())
    }

    fn udp(&mut self, from: MacAddr, packet: &Packet<'_>, anonymous: bool) -> Option<()> {
        let (Some(source), Some(destination), Some(len)) =
            (be16(packet.payload, 0), be16(packet.payload, 2), be16(packet.payload, 4))
        else {
            return self.malformed();
        };
        let Some(data) = packet.payload.get(8..usize::from(len)) else { return self.malformed() };
        let guest = SocketAddr::new(packet.source, source);
        let remote = SocketAddr::new(packet.destination, destination);
        match (packet.destination, destination) {
            (IpAddr::V4(ip), 67) if ip == Ipv4Addr::BROADCAST || ip == self.core.config.gateway => {
                dhcp4::input(&mut self.core, from, data);
            }
            _ if anonymous => return None,
            (IpAddr::V6(ip), dhcp6::PORT) if ip == dhcp6::ALL_SERVERS => {
                dhcp6::input(&mut self.core, from, guest, data);
            }
            // What is said to everybody on the cable is for its switch.
            (ip, _) if is_local(ip) || ip == IpAddr::V4(self.core.config.broadcast()) => return None,
            (ip, port) if ip == IpAddr::V4(self.core.config.gateway) && self.tftp.serves(port) => {
                self.tftp.input(&mut self.core, from, guest, port, data);
            }
            (ip, 53) if self.core.config.is_dns(ip) => self.dns.ask(&mut self.core, from, guest, remote, data),
            _ => {
                let key = datagram::Key { protocol: Protocol::Udp, guest, remote };
                self.datagrams.outbound(&mut self.core, from, packet, key, data);
            }
        }
        Some(())
    }

    fn echo(&mut self, from: MacAddr, packet: &Packet<'_>, own: bool) -> Option<()> {
        let (ident, _) = icmp::echo_request(packet)?;
        if own {
            icmp::echo(&mut self.core, from, packet);
            return Some(());
        }
        let key = datagram::Key {
            protocol: Protocol::Icmp,
            guest: SocketAddr::new(packet.source, ident),
            remote: SocketAddr::new(packet.destination, 0),
        };
        self.datagrams.outbound(&mut self.core, from, packet, key, packet.payload);
        Some(())
    }

    fn icmp6(&mut self, from: MacAddr, packet: &Packet<'_>, anonymous: bool) -> Option<()> {
        match packet.payload.first()? {
            133..=137 => self.advertiser.input(&mut self.core, from, packet),
            _ if anonymous => return None,
            _ => {
                let own = self.core.config.is_own(packet.destination);
                if !own && is_local(packet.destination) {
                    return None;
                }
                return self.echo(from, packet, own);
            }
        }
        Some(())
    }
}

/// True for addresses that mean the cable itself: multicast, broadcast, link-local of IPv6.
fn is_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_multicast() || ip == Ipv4Addr::BROADCAST,
        IpAddr::V6(ip) => ip.is_multicast() || ip.segments()[0] & 0xffc0 == 0xfe80 || ip == Ipv6Addr::UNSPECIFIED,
    }
}
