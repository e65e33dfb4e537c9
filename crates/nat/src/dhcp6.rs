//! DHCP for IPv6 (RFC 8415): resolver and search list for those who make their own addresses, and one address for those who ask.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use dhcproto::v6::{DhcpOption, DhcpOptions, IAAddr, IANA, Message, MessageType, OptionCode, Status, StatusCode};
use dhcproto::{Decodable, Encodable, Name};
use visor_net::MacAddr;

use crate::core::Core;
use crate::dhcp_options::reduced6;
use crate::host::Host;
use crate::wire::emit::{Route, udp_frame};

/// Longer messages than a frame's are not looked at.
const MAX_MESSAGE: usize = 1500;
/// Port of servers and relays.
pub(crate) const PORT: u16 = 547;
/// All servers and relays of the link.
pub(crate) const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// A message of a guest at its link-local address `from`.
pub(crate) fn input<H: Host>(core: &mut Core<H>, mac: MacAddr, from: SocketAddr, data: &[u8]) {
    let reduced = (data.len() <= MAX_MESSAGE).then(|| reduced6(data)).flatten();
    let message = reduced.and_then(|data| Message::from_bytes(&data).ok());
    let Some(request) = message else {
        core.counters.malformed += 1;
        return;
    };
    let own = duid(core.config.mac);
    let other = matches!(request.opts().get(OptionCode::ServerId), Some(DhcpOption::ServerId(id)) if *id != own);
    let client = match request.opts().get(OptionCode::ClientId) {
        Some(DhcpOption::ClientId(client)) => client.clone(),
        // Only questions for parameters may come without a name (RFC 8415 §18.3.6).
        _ if request.msg_type() == MessageType::InformationRequest && !other => {
            let reply = reply(core, &request, MessageType::Reply, None, own);
            return send(core, mac, from, &reply);
        }
        _ => return,
    };
    let rapid = request.opts().get(OptionCode::RapidCommit).is_some();
    let kind = match request.msg_type() {
        _ if other => return,
        MessageType::Solicit if !rapid => MessageType::Advertise,
        MessageType::Solicit
        | MessageType::Request
        | MessageType::Renew
        | MessageType::Rebind
        | MessageType::Confirm
        | MessageType::Release
        | MessageType::Decline
        | MessageType::InformationRequest => MessageType::Reply,
        _ => return,
    };
    let mut answer = reply(core, &request, kind, Some(client), own);
    match request.msg_type() {
        MessageType::Confirm => status(&mut answer, Status::Success),
        MessageType::Release | MessageType::Decline => {
            // An address is bound to its guest for good; there is nothing to give back.
            status(&mut answer, Status::Success);
        }
        MessageType::InformationRequest => {}
        _ => addresses(core, mac, &request, &mut answer),
    }
    if rapid && request.msg_type() == MessageType::Solicit {
        answer.opts_mut().insert(DhcpOption::RapidCommit);
    }
    send(core, mac, from, &answer);
}

/// Fills in an address for the association that the guest asks one for.
fn addresses<H: Host>(core: &mut Core<H>, mac: MacAddr, request: &Message, answer: &mut Message) {
    let Some(DhcpOption::IANA(asked)) = request.opts().get(OptionCode::IANA) else { return };
    // The host part of the guest's IPv4 address: one guest, one number.
    let mask = !core.config.mask();
    let now = core.now;
    let number = core.guests.offer(&core.config, mac, None, now).map(|ip| u32::from(ip) & mask);
    let address = number.and_then(|n| core.config.address6(0x1_0000_0000 | u64::from(n)));
    let address = address.filter(|ip| core.guests.may_use(&core.config, mac, IpAddr::V6(*ip), now));
    let lease = u32::try_from(core.config.lease.as_secs()).unwrap_or(u32::MAX);
    let mut opts = DhcpOptions::new();
    match address {
        Some(addr) => {
            opts.insert(DhcpOption::IAAddr(IAAddr {
                addr,
                preferred_life: lease / 2,
                valid_life: lease,
                opts: DhcpOptions::new(),
            }));
        }
        None => {
            core.counters.no_lease += 1;
            opts.insert(DhcpOption::StatusCode(StatusCode { status: Status::NoAddrsAvail, msg: String::new() }));
        }
    }
    answer.opts_mut().insert(DhcpOption::IANA(IANA { id: asked.id, t1: lease / 4, t2: lease / 8 * 3, opts }));
}

fn reply<H: Host>(
    core: &Core<H>,
    request: &Message,
    kind: MessageType,
    client: Option<Vec<u8>>,
    own: Vec<u8>,
) -> Message {
    let mut reply = Message::new_with_id(kind, request.xid());
    let options = reply.opts_mut();
    if let Some(client) = client {
        options.insert(DhcpOption::ClientId(client));
    }
    options.insert(DhcpOption::ServerId(own));
    if let Some(dns) = core.config.dns6() {
        options.insert(DhcpOption::DomainNameServers(vec![dns]));
    }
    if let Ok(domain) = Name::from_ascii(format!("{}.", core.config.domain)) {
        options.insert(DhcpOption::DomainSearchList(vec![domain]));
    }
    reply
}

fn status(answer: &mut Message, status: Status) {
    answer.opts_mut().insert(DhcpOption::StatusCode(StatusCode { status, msg: String::new() }));
}

/// The server's name: its Ethernet address (RFC 8415 §11.4).
fn duid(mac: MacAddr) -> Vec<u8> {
    let mut duid = vec![0, 3, 0, 1];
    duid.extend(mac.0);
    duid
}

fn send<H: Host>(core: &mut Core<H>, mac: MacAddr, to: SocketAddr, message: &Message) {
    let Ok(bytes) = message.to_vec() else { return };
    let route = Route { from_mac: core.config.mac, to_mac: mac };
    let from = SocketAddr::new(core.config.link_local().into(), PORT);
    core.reply(udp_frame(&bytes, from, to, route));
}
