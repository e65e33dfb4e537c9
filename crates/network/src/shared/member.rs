//! Guests of a network: admitting one, what can be asked about it while it is there, and its leaving.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use visor_firewall::{Address, Firewall, Guest, PortFilter, Rule, RuleSet, What};
use visor_host_net::CablePort;
use visor_nat::{ForwardId, Translation};
use visor_net::{MacAddr, Protocol};
use visor_switch::{Capture, CaptureSlot, Captured, Filtered, Guard, Membership, PortConfig, SwitchPort, VlanId};

use super::message::{Answer, GuestStatus, PlugRequest, Welcome, vlans};
use super::server::{MTU, Server, reply};
use super::uplink::home;
use crate::forward::{ForwardSpec, ForwardStatus, listen};
use crate::live::{GuestRequest, Rules, initial};
use crate::splice::splice;

/// A guest that is plugged in.
pub(super) struct Member {
    pub(super) status: GuestStatus,
    forwards: Vec<ForwardId>,
    /// The rules that it was started with.
    given: RuleSet,
    named: bool,
    capture: CaptureSlot,
}

impl Server {
    /// Plugs a guest in, and stays until it goes.
    pub(super) fn plug(&self, cable: OwnedFd, request: &PlugRequest) {
        let id = self.next.fetch_add(1, Ordering::SeqCst);
        let admitted = self.admit(id, request);
        let (welcome, port) = match admitted {
            Ok(admitted) => admitted,
            Err(why) => {
                let _ = reply(&cable, &Answer::Refused(why));
                return;
            }
        };
        let capture = self.members().get(&id).map(|m| m.capture.clone()).unwrap_or_default();
        let port = self.filtered(&request.guest, port);
        if reply(&cable, &Answer::Welcome(welcome)).is_ok()
            && let Ok(cable) = CablePort::new(cable, MTU)
        {
            splice(cable, Captured::new(port, capture));
        }
        self.leave(id, &request.guest);
    }

    /// A port of the switch behind the firewall of `guest`, who is judged in the VLAN in which the switch puts a frame.
    fn filtered(&self, guest: &str, port: PortConfig) -> Filtered<SwitchPort> {
        let vlans = port.vlans.clone();
        let filter = PortFilter::new(self.policy.clone(), guest)
            .with_vlans(move |frame: &[u8]| vlans.classify(frame).map(VlanId::number));
        Filtered::new(self.hub.plug(port), Arc::new(Mutex::new(filter)))
    }

    /// Checks a guest and prepares everything for it.
    fn admit(&self, id: u64, request: &PlugRequest) -> Result<(Welcome, PortConfig), String> {
        let name = &request.guest;
        let warnings = self.check(request)?;
        let home = home(&self.spec).map_err(|e| e.to_string())?;
        let membership = request.vlans.membership(home).map_err(|e| e.to_string())?;
        let at_home = match &membership {
            Membership::Access(vlan) => *vlan == home,
            Membership::Trunk { native, .. } => *native == Some(home),
        };
        // In other VLANs nobody of ours hands out addresses.
        let nat = self.uplink.nat.as_ref().filter(|_| at_home);
        let address = nat.and_then(|nat| nat.with(|engine, now| engine.assign(now, request.mac))).map(IpAddr::from);
        if nat.is_some() && address.is_none() {
            return Err("all addresses of this network are taken".into());
        }
        let mut given = RuleSet { inbound: request.rules.clone(), ..RuleSet::default() };
        given.inbound.extend(self.neighbours(address.is_some())?);
        let rules = initial(request.named.then_some(&self.place.store), name, &given);
        let addresses = address.map(|ip| Address { vlan: home.number(), ip }).into_iter().collect();
        self.policy.set_guest(name, Guest { addresses, firewall: Firewall::new(rules), ..Guest::default() });
        self.read_groups();
        let status = GuestStatus {
            name: name.clone(),
            mac: request.mac,
            address,
            vlans: (membership != Membership::Access(home)).then(|| vlans(&membership)),
        };
        let member =
            Member { status, forwards: Vec::new(), given, named: request.named, capture: CaptureSlot::default() };
        self.members().insert(id, member);
        let mut forwards = Vec::new();
        for wish in &request.forwards {
            match self.add_forward(id, wish) {
                Ok(status) => forwards.push(status.to_string()),
                Err(why) => {
                    self.leave(id, name);
                    return Err(why);
                }
            }
        }
        if let (Some(nat), Some(address)) = (nat, address) {
            nat.with(|engine, _| engine.set_name(name, vec![address]));
        }
        let preset = address.and_then(|a| self.preset(a));
        // Behind a trunk there are other guests' addresses as well.
        let ips = address.into_iter().filter(|_| matches!(membership, Membership::Access(_))).collect();
        let guard = Guard { mac: Some(request.mac), ips, no_servers: at_home };
        let port = PortConfig { name: name.clone(), guard, vlans: membership };
        Ok((Welcome { mtu: MTU, address, preset, mac: None, forwards, warnings }, port))
    }

    /// Whether name and Ethernet address are usable; what is to be said about them all the same.
    fn check(&self, request: &PlugRequest) -> Result<Vec<String>, String> {
        let name = &request.guest;
        let valid = (1..=63).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !valid {
            return Err(format!("`{name}` is no name for a guest: use small letters, digits and dashes"));
        }
        if request.mac.is_multicast() {
            return Err(format!("{} is a group address", request.mac));
        }
        let members = self.members();
        if members.values().any(|m| m.status.name == *name) {
            return Err(format!("there is a guest called {name} in this network already"));
        }
        let twin = members.values().find(|m| m.status.mac == request.mac);
        let words = |twin: &Member| {
            format!(
                "the guest {} of this network has the same Ethernet address {}: neither will work reliably",
                twin.status.name, request.mac
            )
        };
        Ok(twin.map(words).into_iter().collect())
    }

    /// `ADDRESS/PREFIX,ROUTER,RESOLVER`.
    pub(super) fn preset(&self, address: IpAddr) -> Option<String> {
        let nat = self.uplink.nat.as_ref()?;
        Some(nat.with(|engine, _| {
            let c = engine.config();
            format!("{address}/{},{},{}", c.prefix_len, c.gateway, c.dns)
        }))
    }

    /// The rule by which guests of one network reach each other. On a bridge everybody of the host's network is there.
    fn neighbours(&self, addressed: bool) -> Result<Option<Rule>, String> {
        if self.spec.isolated || self.spec.mode == super::Mode::Bridge {
            return Ok(None);
        }
        // Where nobody of ours hands out addresses, guests choose them.
        let text = if addressed { format!("source {}", self.spec.subnet) } else { "everything".into() };
        text.parse().map(Some).map_err(|e: visor_firewall::RuleError| e.to_string())
    }

    /// Answers a question about a guest, or makes a change.
    pub(super) fn guest(&self, name: &str, request: &GuestRequest) -> Result<Value, String> {
        let found = {
            let members = self.members();
            let found = members.iter().find(|(_, m)| m.status.name == name);
            found.map(|(id, m)| (*id, m.given.clone(), m.named, m.status.address, m.capture.clone()))
        };
        let (id, given, named, address, capture) =
            found.ok_or_else(|| format!("no guest of this network is called `{name}`"))?;
        let store = named.then_some(&self.place.store);
        let rules = Rules { policy: &self.policy, guest: name, given: &given, store };
        if let Some(done) = rules.request(request, || self.judge_again()) {
            return done;
        }
        match request {
            GuestRequest::AddPort(text) => self.add_forward(id, text).map(|f| json!(f)),
            GuestRequest::RemovePort { protocol, port } => {
                self.remove_forward(id, *protocol, *port).map(|()| Value::Null)
            }
            GuestRequest::Ports => {
                let mine = |f: &&visor_nat::Forward| Some(f.guest.ip()) == address;
                let all = |nat: &visor_host_net::Nat| {
                    nat.with(|e, _| e.forwards().iter().filter(mine).map(ForwardStatus::from).collect::<Vec<_>>())
                };
                Ok(json!(self.uplink.nat.as_ref().map(all).unwrap_or_default()))
            }
            GuestRequest::NatTable => {
                let mine = |t: &Translation| Some(t.guest.ip()) == address || address.is_none();
                Ok(json!(self.translations().into_iter().filter(mine).collect::<Vec<_>>()))
            }
            GuestRequest::Why { protocol, source, destination: (to, port) } => {
                let own = || address.ok_or_else(|| format!("{name} has no address of this network"));
                let source = source.map_or_else(own, Ok)?;
                match self.why(*protocol, source, SocketAddr::new(to.map_or_else(own, Ok)?, *port)) {
                    Answer::Value(value) => Ok(value),
                    _ => Err("not understood".into()),
                }
            }
            GuestRequest::StartCapture(path) => {
                crate::capturing::start(&capture, path).map(|()| Value::Null).map_err(|e| crate::words(&e))
            }
            GuestRequest::StopCapture => {
                let done = capture.stop().map(Capture::finish).transpose();
                done.map(|n| json!(n)).map_err(|e| e.to_string())
            }
            other => Err(format!("not understood: {other:?}")),
        }
    }

    /// Forwards a port to a guest.
    fn add_forward(&self, id: u64, wish: &str) -> Result<ForwardStatus, String> {
        let spec = wish.parse::<ForwardSpec>().map_err(|e| e.to_string())?;
        let (name, address) = match self.members().get(&id) {
            Some(m) => (m.status.name.clone(), m.status.address),
            None => return Err("the guest has gone".into()),
        };
        let (Some(nat), Some(address)) = (&self.uplink.nat, address) else {
            return Err("no ports of the host can be forwarded to a guest that has no address of this network".into());
        };
        let forward = listen(nat, spec, address).map_err(|e| crate::words(&e))?;
        let ports = BTreeSet::from([(forward.protocol, forward.guest.port())]);
        let _ = self.policy.guest(&name, |g| g.forwards.extend(ports));
        if let Some(m) = self.members().get_mut(&id) {
            m.forwards.push(forward.id);
        }
        Ok(ForwardStatus::from(&forward))
    }

    /// Ends the forwarding to a port of a guest.
    fn remove_forward(&self, id: u64, protocol: Protocol, port: u16) -> Result<(), String> {
        let Some(nat) = &self.uplink.nat else { return Err("this network has no forwarded ports".into()) };
        let (name, address) = match self.members().get(&id) {
            Some(m) => (m.status.name.clone(), m.status.address),
            None => return Err("the guest has gone".into()),
        };
        let gone: Vec<ForwardId> = nat.with(|engine, _| {
            let fits = |f: &&visor_nat::Forward| {
                f.protocol == protocol && f.guest.port() == port && Some(f.guest.ip()) == address
            };
            let ids: Vec<_> = engine.forwards().iter().filter(fits).map(|f| f.id).collect();
            ids.into_iter().filter(|id| engine.remove_forward(*id)).collect()
        });
        if gone.is_empty() {
            return Err(format!("port {port}/{protocol} of the guest is not forwarded"));
        }
        if let Some(m) = self.members().get_mut(&id) {
            m.forwards.retain(|f| !gone.contains(f));
        }
        let _ = self.policy.guest(&name, |g| g.forwards.remove(&(protocol, port)));
        Ok(())
    }

    fn leave(&self, id: u64, name: &str) {
        let Some(member) = self.members().remove(&id) else { return };
        if let Some(nat) = &self.uplink.nat {
            nat.with(|engine, _| {
                member.forwards.iter().for_each(|id| _ = engine.remove_forward(*id));
                engine.set_name(name, Vec::new());
            });
        }
        self.policy.remove_guest(name);
    }

    /// Plugs in a shell of the host's user. It has a guest's place in the policy, and all may come in: nothing but its own programs
    /// answers there.
    pub(super) fn shell(&self, cable: OwnedFd) {
        // The lowest number that no other shell has, so that addresses are used again.
        let slot = {
            let mut shells = self.shells();
            let slot = (0..=u8::MAX).find(|n| shells.insert(*n));
            let Some(slot) = slot else { return };
            slot
        };
        // No guest's name has a blank in it.
        let name = format!("shell {slot}");
        let mac = MacAddr([0x52, 0x56, 0, 0, 0, slot]);
        let address = self.uplink.nat.as_ref().and_then(|nat| nat.with(|engine, now| engine.assign(now, mac)));
        let preset = address.and_then(|a| self.preset(a.into()));
        match (address, preset) {
            (Some(address), Some(preset)) => {
                let guard = Guard { mac: Some(mac), ips: vec![address.into()], no_servers: true };
                let home = home(&self.spec).unwrap_or_default();
                let own = Address { vlan: home.number(), ip: address.into() };
                let firewall =
                    Firewall::new(RuleSet { inbound: vec![Rule::allow(What::Everything)], ..RuleSet::default() });
                self.policy.set_guest(&name, Guest { addresses: [own].into(), firewall, ..Guest::default() });
                let port = PortConfig { name: name.clone(), vlans: Membership::Access(home), guard };
                let port = self.filtered(&name, port);
                let address = Some(address.into());
                let preset = Some(preset);
                let (forwards, warnings) = (Vec::new(), Vec::new());
                let welcome = Welcome { mtu: MTU, address, preset, mac: Some(mac), forwards, warnings };
                if reply(&cable, &Answer::Welcome(welcome)).is_ok()
                    && let Ok(cable) = CablePort::new(cable, MTU)
                {
                    splice(cable, port);
                }
            }
            _ => {
                let why = match self.uplink.nat {
                    Some(_) => "all addresses of this network are taken",
                    None => "this network has no place for the host",
                };
                let _ = reply(&cable, &Answer::Refused(why.into()));
            }
        }
        self.policy.remove_guest(&name);
        self.shells().remove(&slot);
    }
}
