//! The process of a network: a switch, a translator, leases and policy, and a thread for each cable.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use visor_firewall::{Firewall, Guest, Policy, PortFilter, Reach, Rule, RuleSet};
use visor_host_net::{CableListener, CablePort, Nat, receive_greeting, send_greeting};
use visor_nat::{Forward, ForwardId, Lease, NatConfig};
use visor_net::{FlowKey, MacAddr, Protocol};
use visor_switch::{Filtered, Guard, Hub, PortConfig};

use super::message::{
    Answer, GuestStatus, MAX_MESSAGE, Mode, NetworkStatus, PlugRequest, Question, SharedSpec, Welcome, words,
};
use super::place::Place;
use crate::forward::{ForwardSpec, ForwardStatus};
use crate::nat::Translation;
use crate::splice::splice;

const MTU: u16 = 1500;
/// How often leases are looked at.
const LEASES: Duration = Duration::from_secs(1);
/// Most translations in an answer.
const MAX_LISTED: usize = 300;

/// A lease as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StoredLease {
    mac: MacAddr,
    address: std::net::Ipv4Addr,
}

struct Server {
    place: Place,
    spec: SharedSpec,
    hub: Hub,
    nat: Option<Nat>,
    policy: Policy,
    guests: Mutex<BTreeMap<u64, GuestStatus>>,
    next: AtomicU64,
    stopping: AtomicBool,
}

/// Runs the network at `place` until it is asked to stop.
///
/// # Errors
/// What the host says: the socket cannot be made, or there are no sockets for a translator.
pub fn serve(place: &Place) -> io::Result<()> {
    let spec = place.spec()?;
    place.prepare_socket()?;
    let listener = match CableListener::bind(&place.socket) {
        // A socket that nobody listens on is what a process that was killed leaves behind.
        Err(e) if e.kind() == io::ErrorKind::AddrInUse && visor_host_net::connect_cable(&place.socket).is_err() => {
            std::fs::remove_file(&place.socket)?;
            CableListener::bind(&place.socket)?
        }
        other => other?,
    };
    let server = Arc::new(Server::open(place.clone(), spec)?);
    let keeper = server.clone();
    std::thread::Builder::new().name("leases".into()).spawn(move || keeper.keep_leases())?;
    while !server.stopping.load(Ordering::SeqCst) {
        let cable = match listener.accept() {
            Ok(cable) => cable,
            Err(e) => {
                // Too many open files, for one, pass.
                tracing::warn!(error = %e, "a cable cannot be plugged in");
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        let server = server.clone();
        std::thread::Builder::new().name("cable".into()).spawn(move || server.serve(cable))?;
    }
    server.store_leases(&mut Vec::new());
    std::fs::remove_file(&place.socket)
}

impl Server {
    fn open(place: Place, spec: SharedSpec) -> io::Result<Self> {
        let hub = Hub::new(MTU);
        let policy = Policy::new(Reach::Direct);
        let nat = match spec.mode {
            Mode::Internal => None,
            Mode::NatNetwork => Some(translator(&place, &spec, &hub, &policy)?),
        };
        Ok(Server {
            place,
            spec,
            hub,
            nat,
            policy,
            guests: Mutex::default(),
            next: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
        })
    }

    fn guests(&self) -> MutexGuard<'_, BTreeMap<u64, GuestStatus>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One connection.
    fn serve(&self, cable: OwnedFd) {
        let Ok(question) = receive_greeting(&cable, MAX_MESSAGE) else { return };
        let answer = match serde_json::from_slice(&question) {
            Ok(Question::Plug(request)) => return self.plug(cable, &request),
            Ok(Question::Status) => Answer::Status(self.status()),
            Ok(Question::NatTable) => Answer::value(&self.translations()),
            Ok(Question::Why { protocol, source, destination }) => self.why(&protocol, source, destination),
            Ok(Question::Stop) => Answer::value(&()),
            Err(e) => Answer::Refused(format!("not understood: {e}")),
        };
        let stop = matches!(serde_json::from_slice(&question), Ok(Question::Stop));
        if stop {
            self.stopping.store(true, Ordering::SeqCst);
        }
        let _ = reply(&cable, &answer);
        if stop {
            // The listener waits for a last connection.
            let _ = visor_host_net::connect_cable(&self.place.socket);
        }
    }

    /// Plugs a guest in, and stays until it goes.
    fn plug(&self, cable: OwnedFd, request: &PlugRequest) {
        let id = self.next.fetch_add(1, Ordering::SeqCst);
        let (welcome, forwards) = match self.admit(request) {
            Ok(admitted) => admitted,
            Err(why) => {
                let _ = reply(&cable, &Answer::Refused(why));
                return;
            }
        };
        let address = welcome.address;
        let guard = Guard { mac: Some(request.mac), ips: address.into_iter().collect(), no_servers: true };
        let port = self.hub.plug(PortConfig { name: request.guest.clone(), guard, ..PortConfig::default() });
        let filter = Arc::new(Mutex::new(PortFilter::new(self.policy.clone(), &request.guest)));
        self.guests().insert(id, GuestStatus { name: request.guest.clone(), mac: request.mac, address });
        if reply(&cable, &Answer::Welcome(welcome)).is_ok()
            && let Ok(cable) = CablePort::new(cable, MTU)
        {
            splice(cable, Filtered::new(port, filter));
        }
        self.guests().remove(&id);
        self.leave(&request.guest, &forwards);
    }

    /// Checks a guest and prepares everything for it.
    fn admit(&self, request: &PlugRequest) -> Result<(Welcome, Vec<ForwardId>), String> {
        let name = &request.guest;
        let valid = (1..=63).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !valid {
            return Err(format!("`{name}` is no name for a guest: use small letters, digits and dashes"));
        }
        if request.mac.is_multicast() {
            return Err(format!("{} is a group address", request.mac));
        }
        let mut warnings = Vec::new();
        {
            let guests = self.guests();
            if guests.values().any(|g| g.name == *name) {
                return Err(format!("there is a guest called {name} in this network already"));
            }
            if let Some(twin) = guests.values().find(|g| g.mac == request.mac) {
                warnings.push(format!(
                    "the guest {} of this network has the same Ethernet address {}: neither will work reliably",
                    twin.name, request.mac
                ));
            }
        }
        let address = self.nat.as_ref().and_then(|nat| nat.with(|engine, now| engine.assign(now, request.mac)));
        if self.nat.is_some() && address.is_none() {
            return Err("all addresses of this network are taken".into());
        }
        let address = address.map(IpAddr::from);
        let mut rules = RuleSet { inbound: request.rules.clone(), ..RuleSet::default() };
        if !self.spec.isolated {
            rules.inbound.push(self.neighbours()?);
        }
        let guest =
            Guest { addresses: address.into_iter().collect(), firewall: Firewall::new(rules), ..Guest::default() };
        self.policy.set_guest(name, guest);
        let forwarded = self.forward(name, address, &request.forwards);
        let (forwards, told) = match forwarded {
            Ok(done) => done,
            Err(why) => {
                self.policy.remove_guest(name);
                return Err(why);
            }
        };
        if let (Some(nat), Some(address)) = (&self.nat, address) {
            nat.with(|engine, _| engine.set_name(name, vec![address]));
        }
        let preset = self.nat.as_ref().zip(address).map(|(nat, address)| {
            nat.with(|engine, _| {
                let c = engine.config();
                format!("{address}/{},{},{}", c.prefix_len, c.gateway, c.dns)
            })
        });
        Ok((Welcome { mtu: MTU, address, preset, forwards: told, warnings }, forwards))
    }

    /// The rule by which guests of one network reach each other.
    fn neighbours(&self) -> Result<Rule, String> {
        // An internal network has no addresses of its own.
        let text = if self.nat.is_some() { format!("source {}", self.spec.subnet) } else { "everything".into() };
        text.parse().map_err(|e: visor_firewall::RuleError| e.to_string())
    }

    /// Forwards ports to a guest; all or none.
    fn forward(
        &self,
        name: &str,
        address: Option<IpAddr>,
        wishes: &[String],
    ) -> Result<(Vec<ForwardId>, Vec<String>), String> {
        let mut done: Vec<Forward> = Vec::new();
        for wish in wishes {
            let made = wish.parse::<ForwardSpec>().map_err(|e| e.to_string()).and_then(|spec| {
                let (Some(nat), Some(address)) = (&self.nat, address) else {
                    return Err("an internal network has no ports of the host to forward".into());
                };
                let guest = SocketAddr::new(address, spec.port);
                nat.with(|engine, _| engine.add_forward(spec.protocol, spec.bind, guest)).map_err(|e| {
                    let holder = crate::port_holder(spec.protocol, spec.bind);
                    let by = holder.map(|h| format!(", held by {} (process {})", h.name, h.pid)).unwrap_or_default();
                    format!("cannot listen on {}/{}: {e}{by}", spec.bind, spec.protocol)
                })
            });
            match made {
                Ok(f) => done.push(f),
                Err(why) => {
                    let ids: Vec<_> = done.iter().map(|f| f.id).collect();
                    self.unforward(&ids);
                    return Err(why);
                }
            }
        }
        let ports: BTreeSet<_> = done.iter().map(|f| (f.protocol, f.guest.port())).collect();
        let _ = self.policy.guest(name, |g| g.forwards = ports);
        let told =
            done.iter().map(|f| ForwardStatus { protocol: f.protocol, bind: f.bind, guest: f.guest }.to_string());
        Ok((done.iter().map(|f| f.id).collect(), told.collect()))
    }

    fn unforward(&self, ids: &[ForwardId]) {
        if let Some(nat) = &self.nat {
            nat.with(|engine, _| ids.iter().for_each(|id| _ = engine.remove_forward(*id)));
        }
    }

    fn leave(&self, name: &str, forwards: &[ForwardId]) {
        self.unforward(forwards);
        self.policy.remove_guest(name);
        if let Some(nat) = &self.nat {
            nat.with(|engine, _| engine.set_name(name, Vec::new()));
        }
    }

    fn status(&self) -> NetworkStatus {
        let translations = self.nat.as_ref().map_or(0, |nat| nat.with(|engine, now| engine.table(now).len()));
        NetworkStatus {
            pid: std::process::id(),
            guests: self.guests().values().cloned().collect(),
            conflicts: self.hub.conflicts().iter().map(words).collect(),
            translations,
        }
    }

    fn translations(&self) -> Vec<Translation> {
        let table = self.nat.as_ref().map(|nat| nat.with(|engine, now| engine.table(now))).unwrap_or_default();
        table.into_iter().take(MAX_LISTED).map(Translation::from).collect()
    }

    fn why(&self, protocol: &str, source: IpAddr, destination: SocketAddr) -> Answer {
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "icmp" => Protocol::Icmp,
            other => return Answer::Refused(format!("`{other}` is no protocol; there are tcp, udp and icmp")),
        };
        let source = SocketAddr::new(source, 49152);
        Answer::why(&self.policy.why(&FlowKey { protocol, source, destination }))
    }

    /// Writes leases down when they have changed.
    fn keep_leases(&self) {
        let mut last = Vec::new();
        while !self.stopping.load(Ordering::SeqCst) {
            self.store_leases(&mut last);
            std::thread::sleep(LEASES);
        }
    }

    fn store_leases(&self, last: &mut Vec<StoredLease>) {
        let Some(nat) = &self.nat else { return };
        let leases = nat.with(|engine, _| engine.leases());
        let leases: Vec<_> = leases.iter().map(|l| StoredLease { mac: l.mac, address: l.address }).collect();
        if leases != *last {
            if let Err(e) = self.place.write("leases.json", &leases) {
                tracing::warn!(error = %e, "leases cannot be stored");
            }
            *last = leases;
        }
    }
}

/// The translator, plugged into the switch, with the leases of its last life.
fn translator(place: &Place, spec: &SharedSpec, hub: &Hub, policy: &Policy) -> io::Result<Nat> {
    let invalid = |e| io::Error::new(io::ErrorKind::InvalidInput, e);
    let config = NatConfig::shared(spec.subnet.network(), spec.subnet.prefix_len()).map_err(invalid)?;
    let (nat, port) = Nat::open(NatConfig { allow_host_loopback: spec.allow_host_loopback, mtu: MTU, ..config })?;
    let leases: Vec<StoredLease> = place.read("leases.json").unwrap_or_default();
    nat.with(|engine, now| {
        engine.set_policy(Arc::new(policy.clone()));
        for l in leases {
            engine.restore_lease(now, &Lease { mac: l.mac, address: l.address, reserved: false });
        }
    });
    let uplink = hub.plug(PortConfig { name: "nat".into(), ..PortConfig::default() });
    std::thread::Builder::new().name("uplink".into()).spawn(move || splice(port, uplink))?;
    Ok(nat)
}

fn reply(cable: &OwnedFd, answer: &Answer) -> io::Result<()> {
    send_greeting(cable, &serde_json::to_vec(answer)?)
}
