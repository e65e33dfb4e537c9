//! Frames by hand, for seeds: whole ones, with right checksums.

use visor_net::checksum;

/// The guest's address.
pub(crate) const GUEST: [u8; 4] = [10, 0, 2, 15];
/// The guest's and the gateway's Ethernet addresses.
pub(crate) const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
/// Somebody outside.
pub(crate) const OUTSIDE: [u8; 4] = [192, 0, 2, 9];
/// The guest's IPv6 address.
pub(crate) const GUEST6: [u8; 16] = [0xfd, 0, 0, 0x0a, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0x15];

fn be(n: usize) -> [u8; 2] {
    (n as u16).to_be_bytes()
}

/// An Ethernet frame of the guest.
pub(crate) fn ethernet(to: [u8; 6], kind: u16, data: &[u8]) -> Vec<u8> {
    [&to[..], &GUEST_MAC, &kind.to_be_bytes(), data].concat()
}

/// The gateway's address, as `visor-nat` has it by default.
pub(crate) fn gateway_mac() -> [u8; 6] {
    visor_nat::NatConfig::default().mac.0
}

fn sum_at(mut data: Vec<u8>, at: usize, pseudo: u16) -> Vec<u8> {
    let sum = !checksum::add(checksum::sum(&data), pseudo);
    data[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    data
}

/// An IPv4 packet.
pub(crate) fn ip4(protocol: u8, from: [u8; 4], to: [u8; 4], data: &[u8]) -> Vec<u8> {
    let head = [&[0x45, 0][..], &be(20 + data.len()), &[0, 1, 0, 0, 64, protocol, 0, 0], &from, &to].concat();
    [sum_at(head, 10, 0), data.to_vec()].concat()
}

/// An IPv6 packet.
pub(crate) fn ip6(next: u8, from: [u8; 16], to: [u8; 16], data: &[u8]) -> Vec<u8> {
    [&[0x60, 0, 0, 0][..], &be(data.len()), &[next, 255], &from, &to, data].concat()
}

/// A message of `protocol` with its checksum at `at`, in IPv4.
pub(crate) fn in_ip4(protocol: u8, to: [u8; 4], message: Vec<u8>, at: usize) -> Vec<u8> {
    let addresses = [GUEST, to].concat();
    let pseudo = if protocol == 1 { 0 } else { checksum::pseudo(&addresses, protocol, message.len()) };
    ethernet(gateway_mac(), 0x0800, &ip4(protocol, GUEST, to, &sum_at(message, at, pseudo)))
}

/// The same in IPv6.
pub(crate) fn in_ip6(protocol: u8, from: [u8; 16], to: [u8; 16], message: Vec<u8>, at: usize) -> Vec<u8> {
    let pseudo = checksum::pseudo(&[from, to].concat(), protocol, message.len());
    ethernet(gateway_mac(), 0x86dd, &ip6(protocol, from, to, &sum_at(message, at, pseudo)))
}

/// A UDP message.
pub(crate) fn datagram(from: u16, to: u16, data: &[u8]) -> Vec<u8> {
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &be(8 + data.len()), &[0, 0], data].concat()
}

/// A UDP frame of the guest to the outside.
pub(crate) fn udp(data: &[u8]) -> Vec<u8> {
    udp_to(OUTSIDE, 40000, 9, data)
}

/// A UDP frame of the guest.
pub(crate) fn udp_to(to: [u8; 4], from_port: u16, port: u16, data: &[u8]) -> Vec<u8> {
    in_ip4(17, to, datagram(from_port, port, data), 6)
}

/// A TCP segment.
pub(crate) fn segment(port: u16, flags: u8, seq: u32, ack: u32, options: &[u8], data: &[u8]) -> Vec<u8> {
    let words = (5 + options.len() / 4) as u8;
    [
        &40000u16.to_be_bytes()[..],
        &port.to_be_bytes(),
        &seq.to_be_bytes(),
        &ack.to_be_bytes(),
        &[words << 4, flags],
        &60000u16.to_be_bytes(),
        &[0, 0, 0, 0],
        options,
        data,
    ]
    .concat()
}

/// A TCP frame of the guest to the outside that carries data.
pub(crate) fn tcp(data: &[u8]) -> Vec<u8> {
    in_ip4(6, OUTSIDE, segment(80, 0x18, 1001, 1, &[], data), 16)
}

/// An ICMP echo request.
pub(crate) fn echo(to: [u8; 4], data: &[u8]) -> Vec<u8> {
    in_ip4(1, to, [&[8, 0, 0, 0, 0, 7, 0, 1], data].concat(), 2)
}

/// An ARP request.
pub(crate) fn arp(whose: [u8; 4]) -> Vec<u8> {
    let body = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &GUEST_MAC, &GUEST, &[0; 6], &whose].concat();
    ethernet([0xff; 6], 0x0806, &body)
}

/// A DHCP message of the guest with these options.
pub(crate) fn dhcp(options: &[u8]) -> Vec<u8> {
    let mut m = vec![1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0x80, 0];
    m.resize(28, 0);
    m.extend(GUEST_MAC);
    m.resize(236, 0);
    m.extend([0x63, 0x82, 0x53, 0x63]);
    m.extend_from_slice(options);
    let packet = datagram(68, 67, &m);
    let pseudo = checksum::pseudo(&[[0; 4], [255; 4]].concat(), 17, packet.len());
    ethernet([0xff; 6], 0x0800, &ip4(17, [0; 4], [255; 4], &sum_at(packet, 6, pseudo)))
}

/// A question for the address of `name`.
pub(crate) fn dns_question(name: &str, kind: u16) -> Vec<u8> {
    let mut m = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        m.push(label.len() as u8);
        m.extend(label.bytes());
    }
    m.push(0);
    [&m[..], &kind.to_be_bytes(), &[0, 1]].concat()
}
