//! DHCP for IPv4 (RFC 2131): one address for each Ethernet address, kept as long as the network lives.

use std::net::{Ipv4Addr, SocketAddr};

use dhcproto::v4::{DhcpOption, Flags, HType, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Encodable};
use visor_net::MacAddr;

use crate::core::Core;
use crate::dhcp_options::reduced4;
use crate::host::Host;
use crate::wire::emit::{Route, udp_frame};

/// Longer messages than a frame's are not looked at.
const MAX_MESSAGE: usize = 1500;
/// Bytes of the header's field for a boot file, which a zero ends.
const FILE_FIELD: usize = 128;

/// A message of a guest to the server.
pub(crate) fn input<H: Host>(core: &mut Core<H>, mac: MacAddr, data: &[u8]) {
    let reduced = (data.len() <= MAX_MESSAGE).then(|| reduced4(data)).flatten();
    let message = reduced.and_then(|data| Message::from_bytes(&data).ok());
    let Some(request) = message.filter(|m| m.opcode() == Opcode::BootRequest && m.htype() == HType::Eth) else {
        core.counters.malformed += 1;
        return;
    };
    // The decoder's chaddr() counts on a length that it has not checked.
    if request.hlen() != 6 {
        core.counters.malformed += 1;
        return;
    }
    // A guest speaks for itself only: what it asks for another would be an attack, and there are no relays.
    if request.chaddr() != mac.0 || request.giaddr() != Ipv4Addr::UNSPECIFIED {
        core.counters.spoofed += 1;
        return;
    }
    if let Some(reply) = answer(core, mac, &request) {
        send(core, mac, &request, &reply);
    }
}

/// The answer to a message, if it deserves one.
fn answer<H: Host>(core: &mut Core<H>, mac: MacAddr, request: &Message) -> Option<Message> {
    let now = core.now;
    let wish = match request.opts().get(OptionCode::RequestedIpAddress) {
        Some(DhcpOption::RequestedIpAddress(ip)) => Some(*ip),
        _ => None,
    };
    match request.opts().msg_type()? {
        MessageType::Discover => match core.guests.offer(&core.config, mac, wish, now) {
            Some(address) => Some(reply(core, request, MessageType::Offer, Some(address))),
            None => {
                core.counters.no_lease += 1;
                None
            }
        },
        MessageType::Request => {
            if let Some(DhcpOption::ServerIdentifier(server)) = request.opts().get(OptionCode::ServerIdentifier)
                && *server != core.config.gateway
            {
                return None;
            }
            // RFC 2131 §4.3.2: the address stands in the option, or in the header when the lease is renewed.
            let address = wish.unwrap_or(request.ciaddr());
            let held = core.guests.offer(&core.config, mac, Some(address), now);
            if held == Some(address) && core.guests.take(&core.config, mac, address, now) {
                return Some(reply(core, request, MessageType::Ack, Some(address)));
            }
            Some(reply(core, request, MessageType::Nak, None))
        }
        MessageType::Inform => Some(reply(core, request, MessageType::Ack, None)),
        MessageType::Release | MessageType::Decline => {
            core.guests.release(mac, now);
            None
        }
        _ => None,
    }
}

fn reply<H: Host>(core: &Core<H>, request: &Message, kind: MessageType, address: Option<Ipv4Addr>) -> Message {
    let config = &core.config;
    let mut reply = Message::new_with_id(
        request.xid(),
        if kind == MessageType::Ack { request.ciaddr() } else { Ipv4Addr::UNSPECIFIED },
        address.unwrap_or(Ipv4Addr::UNSPECIFIED),
        if kind == MessageType::Nak { Ipv4Addr::UNSPECIFIED } else { config.gateway },
        Ipv4Addr::UNSPECIFIED,
        request.chaddr(),
    );
    reply.set_opcode(Opcode::BootReply).set_flags(request.flags());
    let options = reply.opts_mut();
    options.insert(DhcpOption::MessageType(kind));
    options.insert(DhcpOption::ServerIdentifier(config.gateway));
    if let Some(id) = request.opts().get(OptionCode::ClientIdentifier) {
        // RFC 6842: the identifier comes back.
        options.insert(id.clone());
    }
    if kind == MessageType::Nak {
        return reply;
    }
    if let Some(file) = &config.boot_file {
        options.insert(DhcpOption::TFTPServerName(config.gateway.to_string().into_bytes()));
        options.insert(DhcpOption::BootfileName(file.clone().into_bytes()));
    }
    options.insert(DhcpOption::SubnetMask(config.netmask()));
    options.insert(DhcpOption::BroadcastAddr(config.broadcast()));
    if !config.closed {
        options.insert(DhcpOption::Router(vec![config.gateway]));
    }
    options.insert(DhcpOption::DomainNameServer(vec![config.dns]));
    options.insert(DhcpOption::DomainName(config.domain.clone()));
    options.insert(DhcpOption::InterfaceMtu(config.mtu));
    if address.is_some() {
        let lease = u32::try_from(config.lease.as_secs()).unwrap_or(u32::MAX);
        options.insert(DhcpOption::AddressLeaseTime(lease));
        options.insert(DhcpOption::Renewal(lease / 2));
        options.insert(DhcpOption::Rebinding(lease / 8 * 7));
    }
    // The header's fields too, which is where old boot loaders look (RFC 2131 §2); longer names are in the option alone.
    if let Some(file) = &config.boot_file {
        reply.set_siaddr(config.gateway);
        if file.len() < FILE_FIELD {
            reply.set_fname(file.as_bytes());
        }
    }
    reply
}

/// Sends the answer to where RFC 2131 §4.1 wants it.
fn send<H: Host>(core: &mut Core<H>, mac: MacAddr, request: &Message, reply: &Message) {
    let Ok(mut bytes) = reply.to_vec() else { return };
    // Clients of BOOTP's days drop what is shorter than its 300 bytes.
    if bytes.len() < 300 {
        bytes.resize(300, 0);
    }
    let nak = reply.opts().has_msg_type(MessageType::Nak);
    let (to, to_mac) = match request.ciaddr() {
        ip if !nak && ip != Ipv4Addr::UNSPECIFIED => (ip, mac),
        _ if nak || broadcast(request.flags()) => (Ipv4Addr::BROADCAST, MacAddr::BROADCAST),
        _ => (reply.yiaddr(), mac),
    };
    let route = Route { from_mac: core.config.mac, to_mac };
    let from = SocketAddr::new(core.config.gateway.into(), 67);
    core.reply(udp_frame(&bytes, from, SocketAddr::new(to.into(), 68), route));
}

fn broadcast(flags: Flags) -> bool {
    flags.broadcast()
}
