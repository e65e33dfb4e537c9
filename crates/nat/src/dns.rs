//! The resolver that guests see: names of guests are answered here, everything else is passed to the host's resolvers.
//!
//! Each question goes out from a socket of its own under an identifier of its own, both unpredictable; an answer counts only if
//! it comes from the resolver that was asked, with that identifier and that question (RFC 5452 §9). Nothing is cached, and
//! nothing that one guest asks reaches another.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use visor_net::{MacAddr, Protocol};

use crate::core::{Core, Kind, token};
use crate::host::{Batch, Host, SocketId};
use crate::table::{Id, Table};
use crate::timers::Timers;
use crate::wire::be16;
use crate::wire::emit::{Route, udp_frame};
use crate::{NatConfig, Time};

/// Questions under way.
const MAX_QUERIES: usize = 256;
/// Most bytes of a question; with all options that are in use they stay below 512.
const MAX_QUESTION: usize = 4096;
/// How long a resolver is waited for before the next one is asked.
const TRY: Duration = Duration::from_millis(2500);
/// Rounds over the resolvers.
const ROUNDS: usize = 2;
/// Most resolvers used; resolv.conf(5) says three.
const MAX_RESOLVERS: usize = 3;
/// Names live shortly: guests come and go.
const TTL: u32 = 5;

struct Query {
    guest: SocketAddr,
    asked: SocketAddr,
    mac: MacAddr,
    guest_id: u16,
    id: u16,
    message: Vec<u8>,
    /// Length of the question section, which starts at byte 12.
    question: usize,
    socket: SocketId,
    resolver: SocketAddr,
    tries: usize,
    deadline: Time,
}

/// The resolver.
pub(crate) struct Dns {
    names: BTreeMap<String, Vec<IpAddr>>,
    queries: Table<u64, Query>,
    next: u64,
    timers: Timers,
    batch: Batch,
}

impl Dns {
    pub(crate) fn new() -> Dns {
        let batch = Batch {
            buffers: vec![vec![0; crate::host::DATAGRAM_HEADROOM + crate::host::DATAGRAM_MAX].into_boxed_slice()],
            received: Vec::new(),
        };
        Dns { names: BTreeMap::new(), queries: Table::new(MAX_QUERIES), next: 0, timers: Timers::default(), batch }
    }

    /// Makes `name` known under `addresses`; none of them forgets it.
    pub(crate) fn set_name(&mut self, name: &str, addresses: Vec<IpAddr>) {
        let name = name.trim_matches('.').to_ascii_lowercase();
        if addresses.is_empty() {
            self.names.remove(&name);
        } else {
            self.names.insert(name, addresses);
        }
    }

    pub(crate) fn next_timer(&self) -> Option<Time> {
        self.timers.next()
    }

    /// A question of a guest.
    pub(crate) fn ask<H: Host>(
        &mut self,
        core: &mut Core<H>,
        mac: MacAddr,
        guest: SocketAddr,
        asked: SocketAddr,
        data: &[u8],
    ) {
        if data.len() < 12 || data.len() > MAX_QUESTION || data[2] & 0x80 != 0 {
            core.counters.malformed += 1;
            return;
        }
        let to_guest = Route { from_mac: core.config.mac, to_mac: mac };
        let id = be16(data, 0).unwrap_or(0);
        let answer = match Message::from_vec(data) {
            Ok(query) if query.queries.len() == 1 && query.metadata.op_code == OpCode::Query => {
                let local = self.local(&core.config, &query);
                // Nobody is asked about the rest of the world where there is no way to it.
                let nobody = || {
                    let mut message = Message::error_msg(id, OpCode::Query, ResponseCode::NXDomain);
                    message.add_queries(query.queries.clone());
                    message
                };
                local.or_else(|| core.config.closed.then(nobody))
            }
            Ok(query) => Some(Message::error_msg(id, query.metadata.op_code, ResponseCode::NotImp)),
            Err(_) => {
                core.counters.malformed += 1;
                Some(Message::error_msg(id, OpCode::Query, ResponseCode::FormErr))
            }
        };
        match answer.map(|a| a.to_vec()) {
            Some(Ok(bytes)) => core.reply(udp_frame(&bytes, asked, guest, to_guest)),
            Some(Err(_)) => {}
            None => self.forward(core, mac, guest, asked, data),
        }
    }

    /// The answer to a question about guests; `None`: somebody else knows.
    fn local(&self, config: &NatConfig, query: &Message) -> Option<Message> {
        let question = query.queries.first()?;
        let name = question.name().to_lowercase();
        let text = name.to_ascii();
        let text = text.trim_end_matches('.');
        let mut answer = Message::response(query.metadata.id, OpCode::Query);
        answer.metadata.recursion_desired = query.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        answer.metadata.authoritative = true;
        answer.add_query(question.clone());
        if question.query_class() != DNSClass::IN {
            return None;
        }
        let short = text.strip_suffix(config.domain.as_str()).and_then(|t| t.strip_suffix('.'));
        if let Some(addresses) = self.names.get(short.unwrap_or(text)) {
            for ip in addresses {
                let data = match (ip, question.query_type()) {
                    (IpAddr::V4(ip), RecordType::A | RecordType::ANY) => RData::A(A(*ip)),
                    (IpAddr::V6(ip), RecordType::AAAA | RecordType::ANY) => RData::AAAA(AAAA(*ip)),
                    _ => continue,
                };
                answer.add_answer(Record::from_rdata(question.name().clone(), TTL, data));
            }
            return Some(answer);
        }
        if short.is_some() || text == config.domain {
            answer.metadata.response_code = ResponseCode::NXDomain;
            return Some(answer);
        }
        self.reverse(config, &name, question.query_type(), answer)
    }

    /// Addresses of the network have names here or nowhere (RFC 6303).
    fn reverse(&self, config: &NatConfig, name: &Name, kind: RecordType, mut answer: Message) -> Option<Message> {
        let ip = name.parse_arpa_name().ok().filter(|net| net.prefix_len() == net.max_prefix_len())?.addr();
        let inside = match ip {
            IpAddr::V4(ip) => config.contains(ip),
            IpAddr::V6(ip) => config.contains6(ip),
        };
        if !inside {
            return None;
        }
        let found = self.names.iter().find(|(_, addresses)| addresses.contains(&ip)).map(|(n, _)| n);
        match found.and_then(|n| Name::from_ascii(format!("{n}.{}.", config.domain)).ok()) {
            Some(target) if kind == RecordType::PTR => {
                answer.add_answer(Record::from_rdata(name.clone(), TTL, RData::PTR(PTR(target))));
            }
            Some(_) => {}
            None => answer.metadata.response_code = ResponseCode::NXDomain,
        }
        Some(answer)
    }

    fn forward<H: Host>(
        &mut self,
        core: &mut Core<H>,
        mac: MacAddr,
        guest: SocketAddr,
        asked: SocketAddr,
        data: &[u8],
    ) {
        let Some(question) = question_len(data) else { return };
        if self.queries.is_full()
            && let Some(victim) = self.queries.victim()
        {
            core.counters.evicted += 1;
            self.finish(core, victim);
        }
        let query = Query {
            guest,
            asked,
            mac,
            guest_id: be16(data, 0).unwrap_or(0),
            id: 0,
            message: data.to_vec(),
            question,
            socket: SocketId(u32::MAX),
            resolver: guest,
            tries: 0,
            deadline: core.now,
        };
        self.next += 1;
        let owner = core.guests.owner(mac);
        let Some(id) = self.queries.insert(self.next, query, owner) else { return };
        self.send(core, id);
    }

    /// Asks the next resolver, or gives up.
    fn send<H: Host>(&mut self, core: &mut Core<H>, id: Id) {
        let mut resolvers = core.host.resolvers();
        resolvers.truncate(MAX_RESOLVERS);
        loop {
            let Some((_, query)) = self.queries.get_mut(id) else { return };
            if query.socket.0 != u32::MAX {
                core.host.close(query.socket);
                query.socket = SocketId(u32::MAX);
            }
            if query.tries >= ROUNDS * resolvers.len() {
                return self.fail(core, id);
            }
            query.resolver = resolvers[query.tries % resolvers.len()];
            query.tries += 1;
            query.id = core.host.random() as u16;
            let number = query.id.to_be_bytes();
            query.message[..2].copy_from_slice(&number);
            let v6 = query.resolver.is_ipv6();
            let Ok(socket) = core.host.datagram_open(token(Kind::Query, id), Protocol::Udp, v6) else { continue };
            query.socket = socket;
            if core.host.datagram_send(socket, query.resolver, &query.message).is_ok() {
                query.deadline = core.now + TRY;
                self.timers.add(query.deadline, id);
                return;
            }
        }
    }

    fn fail<H: Host>(&mut self, core: &mut Core<H>, id: Id) {
        let Some((_, query)) = self.queries.get(id) else { return };
        let mut message = Message::error_msg(query.guest_id, OpCode::Query, ResponseCode::ServFail);
        if let Ok(asked) = Message::from_vec(&query.message) {
            message.metadata.message_type = MessageType::Response;
            message.add_queries(asked.queries);
        }
        if let Ok(bytes) = message.to_vec() {
            let route = Route { from_mac: core.config.mac, to_mac: query.mac };
            let frame = udp_frame(&bytes, query.asked, query.guest, route);
            core.reply(frame);
        }
        self.finish(core, id);
    }

    fn finish<H: Host>(&mut self, core: &mut Core<H>, id: Id) {
        if let Some((_, query)) = self.queries.remove(id)
            && query.socket.0 != u32::MAX
        {
            core.host.close(query.socket);
        }
    }

    /// The index of a query by its token.
    pub(crate) fn named(&self, index: u32, generation: u32) -> Option<Id> {
        self.queries.named(index, generation)
    }

    /// Something came for a query.
    pub(crate) fn receive<H: Host>(&mut self, core: &mut Core<H>, id: Id) {
        // A flood of wrong answers is looked at for so long, then the timer decides.
        for _ in 0..16 {
            let Some((_, query)) = self.queries.get(id) else { return };
            let socket = query.socket;
            self.batch.received.clear();
            let refused = core.host.datagram_receive(socket, &mut self.batch).is_err()
                || core.host.datagram_error(socket).is_some();
            let Some(&(len, from)) = self.batch.received.first() else {
                if refused {
                    self.send(core, id);
                }
                return;
            };
            let at = crate::host::DATAGRAM_HEADROOM;
            let Some(data) = self.batch.buffers[0].get_mut(at..at + len) else { return };
            if !fits(query, from, data) {
                core.counters.datagrams_dropped += 1;
                continue;
            }
            data[..2].copy_from_slice(&query.guest_id.to_be_bytes());
            let route = Route { from_mac: core.config.mac, to_mac: query.mac };
            let (asked, guest) = (query.asked, query.guest);
            let mut datagram = vec![0; crate::wire::emit::HEADROOM];
            datagram.extend_from_slice(data);
            let begin = crate::wire::emit::udp(&mut datagram, crate::wire::emit::HEADROOM, len, asked, guest);
            crate::fragment::send(core, &datagram[begin..], crate::wire::UDP, asked.ip(), guest.ip(), route);
            return self.finish(core, id);
        }
    }

    /// Asks further where a resolver was too slow.
    pub(crate) fn timers<H: Host>(&mut self, core: &mut Core<H>) {
        while let Some(id) = self.timers.due(core.now) {
            if self.queries.get(id).is_some_and(|(_, q)| q.deadline <= core.now) {
                self.send(core, id);
            }
        }
        let queries = &self.queries;
        self.timers.tidy(|id| queries.get(id).is_some(), queries.len());
    }
}

/// True if `data` from `from` answers `query`.
fn fits(query: &Query, from: SocketAddr, data: &[u8]) -> bool {
    let question = 12..12 + query.question;
    from.ip().to_canonical() == query.resolver.ip()
        && from.port() == query.resolver.port()
        && be16(data, 0) == Some(query.id)
        && data.get(2).is_some_and(|flags| flags & 0x80 != 0)
        && be16(data, 4) == Some(1)
        && data.get(question.clone()).is_some_and(|q| q.eq_ignore_ascii_case(&query.message[question]))
}

/// Length of the one question of a message (RFC 1035 §4.1.2); it cannot be compressed, since nothing stands before it.
fn question_len(data: &[u8]) -> Option<usize> {
    let mut at = 12;
    loop {
        let len = usize::from(*data.get(at)?);
        at += 1 + len;
        match len {
            0 => break,
            1..=63 => {}
            _ => return None,
        }
    }
    (at + 4 <= data.len()).then_some(at + 4 - 12)
}
