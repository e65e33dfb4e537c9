//! The process of a network: a switch, its uplink, leases and policy, and a thread for each cable.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use visor_firewall::{Policy, Reach};
use visor_host_net::{CableListener, receive_greeting, send_greeting};
use visor_net::{FlowKey, MacAddr, Protocol};
use visor_switch::Hub;

use super::member::Member;
use super::message::{Answer, MAX_MESSAGE, NetworkStatus, Question, SharedSpec, words};
use super::place::Place;
use super::uplink::{Uplink, home};
use visor_nat::Translation;

pub(super) const MTU: u16 = 1500;
/// How often leases are looked at.
const LEASES: Duration = Duration::from_secs(1);
/// Most translations in an answer.
const MAX_LISTED: usize = 300;

/// A lease as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredLease {
    pub(super) mac: MacAddr,
    pub(super) address: std::net::Ipv4Addr,
}

pub(super) struct Server {
    pub(super) place: Place,
    pub(super) spec: SharedSpec,
    pub(super) hub: Hub,
    pub(super) uplink: Uplink,
    pub(super) policy: Policy,
    members: Mutex<BTreeMap<u64, Member>>,
    shells: Mutex<BTreeSet<u8>>,
    pub(super) next: AtomicU64,
    listener: CableListener,
    stopping: AtomicBool,
}

/// Runs the network at `place` until it is asked to stop, or nobody is left who could ask: its files or its socket have been removed,
/// and no guest is on it.
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
    let server = match Server::open(place.clone(), spec, listener) {
        Ok(server) => Arc::new(server),
        Err(e) => {
            let _ = std::fs::remove_file(&place.socket);
            return Err(e);
        }
    };
    let keeper = server.clone();
    std::thread::Builder::new().name("leases".into()).spawn(move || keeper.keep_leases())?;
    while !server.stopping.load(Ordering::SeqCst) {
        let cable = match server.listener.accept() {
            Ok(cable) => cable,
            Err(_) if server.stopping.load(Ordering::SeqCst) => break,
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
    if place.exists() {
        server.store_leases(&mut Vec::new());
    }
    match std::fs::remove_file(&place.socket) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

impl Server {
    fn open(place: Place, spec: SharedSpec, listener: CableListener) -> io::Result<Self> {
        let hub = Hub::new(MTU);
        let policy = Policy::new(Reach::Direct).in_vlan(home(&spec)?.number());
        let uplink = Uplink::connect(&place, &spec, &hub, &policy)?;
        Ok(Server {
            place,
            spec,
            hub,
            uplink,
            policy,
            members: Mutex::default(),
            shells: Mutex::default(),
            next: AtomicU64::new(0),
            listener,
            stopping: AtomicBool::new(false),
        })
    }

    pub(super) fn members(&self) -> MutexGuard<'_, BTreeMap<u64, Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn shells(&self) -> MutexGuard<'_, BTreeSet<u8>> {
        self.shells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One connection.
    fn serve(&self, cable: OwnedFd) {
        let Ok(question) = receive_greeting(&cable, MAX_MESSAGE) else { return };
        let answer = match serde_json::from_slice(&question) {
            Ok(Question::Plug(request)) => return self.plug(cable, &request),
            Ok(Question::Shell) => return self.shell(cable),
            Ok(Question::Stop) => return self.stop(&cable),
            Ok(Question::Guest { guest, request }) => {
                self.guest(&guest, &request).map_or_else(Answer::Refused, Answer::Value)
            }
            Ok(Question::Groups) => {
                self.read_groups();
                self.judge_again();
                Answer::value(&())
            }
            Ok(Question::Status) => Answer::Status(self.status()),
            Ok(Question::NatTable) => Answer::value(&self.translations()),
            Ok(Question::Why { protocol, source, destination }) => self.why(protocol, source, destination),
            Err(e) => Answer::Refused(format!("not understood: {e}")),
        };
        let _ = reply(&cable, &answer);
    }

    fn stop(&self, cable: &OwnedFd) {
        let _ = reply(cable, &Answer::value(&()));
        self.end();
    }

    fn end(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.listener.close();
    }

    fn status(&self) -> NetworkStatus {
        let nat = self.uplink.nat.as_ref();
        NetworkStatus {
            pid: std::process::id(),
            guests: self.members().values().map(|m| m.status.clone()).collect(),
            conflicts: self.hub.conflicts().iter().map(words).collect(),
            translations: nat.map_or(0, |nat| nat.with(|engine, now| engine.table(now).len())),
            host: self.uplink.host.clone(),
        }
    }

    pub(super) fn translations(&self) -> Vec<Translation> {
        let nat = self.uplink.nat.as_ref();
        let table = nat.map(|nat| nat.with(|engine, now| engine.table(now))).unwrap_or_default();
        table.into_iter().take(MAX_LISTED).collect()
    }

    pub(super) fn why(&self, protocol: Protocol, source: IpAddr, destination: SocketAddr) -> Answer {
        // Any port of the kind that systems choose by themselves.
        let source = SocketAddr::new(source, 49152);
        let mut why = self.policy.why(&FlowKey { protocol, source, destination });
        let obstacle =
            self.uplink.nat.as_ref().and_then(|nat| nat.with(|engine, _| engine.obstacle(destination, protocol)));
        if let (true, Some(because)) = (why.allowed, obstacle) {
            why.allowed = false;
            why.because = because.into();
            why.command = None;
        }
        Answer::why(&why)
    }

    /// Takes the security groups as they are stored.
    pub(super) fn read_groups(&self) {
        match self.place.store.groups() {
            Ok(groups) => self.policy.set_groups(groups),
            Err(e) => tracing::warn!(error = %e, "the security groups cannot be read"),
        }
    }

    /// Ends the connections that are no longer allowed: the translated ones, and those between guests.
    pub(super) fn judge_again(&self) {
        self.policy.judge_again();
        if let Some(nat) = &self.uplink.nat {
            nat.with(|engine, now| engine.judge_again(now));
        }
    }

    /// Writes leases down when they have changed.
    fn keep_leases(&self) {
        let mut last = Vec::new();
        while !self.stopping.load(Ordering::SeqCst) {
            let reachable = self.place.exists() && self.place.socket.exists();
            if reachable {
                self.store_leases(&mut last);
            } else if self.members().is_empty() {
                self.end();
            }
            std::thread::sleep(LEASES);
        }
    }

    fn store_leases(&self, last: &mut Vec<StoredLease>) {
        let Some(nat) = &self.uplink.nat else { return };
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

pub(super) fn reply(cable: &OwnedFd, answer: &Answer) -> io::Result<()> {
    send_greeting(cable, &serde_json::to_vec(answer)?)
}
