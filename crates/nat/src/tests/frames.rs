//! Frames of a guest, by hand.

use std::net::{IpAddr, SocketAddr};

use visor_net::MacAddr;

use crate::NatConfig;
use crate::wire::emit::{self, HEADROOM, Leave, Route, TcpHeader};
use crate::wire::ip::{Packet, parse_v4, parse_v6};
use crate::wire::tcp::Segment;
use crate::wire::{self, ETH, TYPE_IPV4};

pub(super) const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 1]);
pub(super) const GUEST: &str = "10.0.2.15";

pub(super) fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

pub(super) fn route() -> Route {
    Route { from_mac: MAC, to_mac: NatConfig::default().mac }
}

/// A UDP frame of the guest.
pub(crate) fn udp(from: &str, to: &str, data: &[u8]) -> Vec<u8> {
    emit::udp_frame(data, at(from), at(to), route())
}

/// An IP frame of the guest around any payload.
pub(super) fn ip(protocol: u8, from: &str, to: &str, payload: &[u8]) -> Vec<u8> {
    let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let mut buffer = vec![0; HEADROOM];
    buffer.extend_from_slice(payload);
    let start = emit::ip(&mut buffer, HEADROOM, payload.len(), protocol, from, to, route());
    buffer.split_off(start)
}

/// An echo request of the guest.
pub(super) fn echo(from: &str, to: &str, ident: u16, sequence: u16, data: &[u8]) -> Vec<u8> {
    let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let mut message = vec![if from.is_ipv4() { 8 } else { 128 }, 0, 0, 0];
    message.extend(ident.to_be_bytes());
    message.extend(sequence.to_be_bytes());
    message.extend_from_slice(data);
    emit::icmp_frame(&message, from, to, route())
}

/// A TCP segment of the guest.
pub(super) struct Tcp {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) window: u16,
}

impl Tcp {
    pub(super) fn new(from: &str, to: &str) -> Tcp {
        Tcp { from: at(from), to: at(to), window: 60000 }
    }

    pub(super) fn frame(&self, flags: u8, seq: u32, ack: u32, data: &[u8]) -> Vec<u8> {
        let header = TcpHeader {
            from: self.from,
            to: self.to,
            seq,
            ack,
            flags,
            window: self.window,
            mss: 1460,
            window_scale: None,
        };
        let mut buffer = vec![0; HEADROOM];
        buffer.extend_from_slice(data);
        emit::tcp(&mut buffer, HEADROOM, data.len(), &header, route(), Leave::default()).data.to_vec()
    }
}

/// The IP packet in a frame.
pub(super) fn packet(frame: &[u8]) -> Packet<'_> {
    let parse = if wire::be16(frame, 12) == Some(TYPE_IPV4) { parse_v4 } else { parse_v6 };
    parse(&frame[ETH..]).unwrap()
}

/// The TCP segment in a frame, whose checksum must be right.
pub(super) fn segment(frame: &[u8]) -> Segment<'_> {
    let packet = packet(frame);
    assert_eq!(packet.protocol, wire::TCP);
    let pseudo = wire::pseudo(packet.source, packet.destination, wire::TCP, packet.payload.len());
    assert!(wire::verify(pseudo, packet.payload), "checksum");
    Segment::parse(packet.payload).unwrap()
}

/// Sender, receiver and payload of a UDP frame, whose checksum must be right.
pub(super) fn datagram(frame: &[u8]) -> (SocketAddr, SocketAddr, Vec<u8>) {
    let packet = packet(frame);
    assert_eq!(packet.protocol, wire::UDP);
    let pseudo = wire::pseudo(packet.source, packet.destination, wire::UDP, packet.payload.len());
    assert!(wire::verify(pseudo, packet.payload), "checksum");
    let port = |at| wire::be16(packet.payload, at).unwrap();
    let from = SocketAddr::new(packet.source, port(0));
    (from, SocketAddr::new(packet.destination, port(2)), packet.payload[8..].to_vec())
}

/// The ICMP message of a frame, whose checksum must be right.
pub(super) fn icmp(frame: &[u8]) -> Vec<u8> {
    let packet = packet(frame);
    let pseudo = match packet.protocol {
        wire::ICMP => 0,
        p => wire::pseudo(packet.source, packet.destination, p, packet.payload.len()),
    };
    assert!(wire::verify(pseudo, packet.payload), "checksum");
    packet.payload.to_vec()
}
