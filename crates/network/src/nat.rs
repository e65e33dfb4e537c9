//! One guest behind a translator of its own.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::json;
use visor_firewall::{
    Address, Explanation, Firewall, Guest, HOME, Policy, PolicyError, Reach, Reload, Rule, RuleSet, Scope,
};
use visor_host_net::{Directory, Nat, NatPort};
use visor_nat::{BootFiles, Counters, NatConfig, Translation};
use visor_net::{Direction, FlowKey, MacAddr, NetPort, Network, Protocol};
use visor_switch::{Capture, CaptureSlot, Captured};

use crate::forward::{ForwardSpec, ForwardStatus, listen};
use crate::holder::Holder;
use crate::live::{GuestRequest, Rules, initial};
use crate::store::Store;

/// Most translations in an answer.
const MAX_LISTED: usize = 2000;

/// A network to be made.
#[derive(Clone, Debug, Default)]
pub struct NatSpec {
    /// The guest's name.
    pub guest: String,
    /// The host's loopback is reached under the router's address.
    pub allow_host_loopback: bool,
    /// Ports of the host that lead to the guest.
    pub forwards: Vec<ForwardSpec>,
    /// The guest's firewall.
    pub rules: RuleSet,
    /// Where its permanent rules and the security groups are kept; `None` for a guest that is thrown away.
    pub store: Option<Store>,
    /// What the guest finds when it boots from the network.
    pub boot: NetBoot,
}

/// What a guest that boots from its network finds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetBoot {
    /// Files below this directory are served by TFTP at the router's address.
    pub directory: Option<PathBuf>,
    /// What it is told to fetch: a name below the directory, or a URL.
    pub file: Option<String>,
}

/// Why a network could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The host's port is taken.
    #[error("port {at}/{protocol} of the host is taken{}", by(.holder))]
    Taken {
        /// TCP or UDP.
        protocol: Protocol,
        /// Where the host was to listen.
        at: SocketAddr,
        /// By whom.
        holder: Option<Holder>,
    },
    /// The host does not let us listen.
    #[error("the host does not let visor listen on {at}/{protocol}")]
    Listen {
        /// TCP or UDP.
        protocol: Protocol,
        /// Where.
        at: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// No such forward.
    #[error("port {0} of the guest is not forwarded")]
    NoForward(String),
    /// The translator cannot work.
    #[error("the address translator cannot start")]
    Nat(#[source] io::Error),
    /// The directory of boot files.
    #[error("cannot serve the files below {path}")]
    BootFiles {
        /// The directory.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The capture's file.
    #[error("cannot write the capture {path}")]
    Capture {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The firewall.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

fn by(holder: &Option<Holder>) -> String {
    holder.as_ref().map(|h| format!(" by {} (process {})", h.name, h.pid)).unwrap_or_default()
}

/// See the crate's documentation.
pub struct NatNetwork {
    nat: Nat,
    /// Until the guest's device is plugged in.
    port: Mutex<Option<NatPort>>,
    policy: Policy,
    guest: String,
    given: RuleSet,
    store: Option<Store>,
    capture: CaptureSlot,
}

impl NatNetwork {
    /// A network for one guest.
    ///
    /// # Errors
    /// [`NetworkError`] where the host gives no sockets, or a port to be forwarded is taken.
    pub fn open(spec: NatSpec) -> Result<Arc<Self>, NetworkError> {
        let config = NatConfig {
            allow_host_loopback: spec.allow_host_loopback,
            boot_file: spec.boot.file,
            ..NatConfig::default()
        };
        let files = spec.boot.directory.map(|path| {
            let failed = |source| NetworkError::BootFiles { path: path.display().to_string(), source };
            Directory::open(&path).map_err(failed)
        });
        let files = files.transpose()?;
        // An IPv6 address is the guest's own choice; the only guest of a policy answers for any address.
        let addresses = BTreeSet::from([Address { vlan: HOME, ip: config.pool.0.into() }]);
        let (nat, port) = Nat::open(config).map_err(NetworkError::Nat)?;
        let policy = Policy::new(Reach::Forwarded);
        let rules = initial(spec.store.as_ref(), &spec.guest, &spec.rules);
        policy.set_guest(&spec.guest, Guest { addresses, firewall: Firewall::new(rules), ..Guest::default() });
        nat.with(|engine, _| {
            engine.set_policy(Arc::new(policy.clone()));
            engine.set_boot_files(files.map(|f| Box::new(f) as Box<dyn BootFiles>));
        });
        let network = NatNetwork {
            nat,
            port: Mutex::new(Some(port)),
            policy,
            guest: spec.guest,
            given: spec.rules,
            store: spec.store,
            capture: CaptureSlot::default(),
        };
        network.read_groups();
        for forward in spec.forwards {
            network.add_forward(forward)?;
        }
        Ok(Arc::new(network))
    }

    /// The guest's address.
    pub fn address(&self) -> IpAddr {
        self.nat.with(|engine, _| engine.config().pool.0.into())
    }

    /// What a guest can be told before it asks: `ADDRESS/PREFIX,ROUTER,RESOLVER`.
    pub fn preset(&self) -> String {
        self.nat.with(|engine, _| {
            let c = engine.config();
            format!("{}/{},{},{}", c.pool.0, c.prefix_len, c.gateway, c.dns)
        })
    }

    /// Forwards a port. What is forwarded is allowed.
    ///
    /// # Errors
    /// [`NetworkError::Taken`], [`NetworkError::Listen`].
    pub fn add_forward(&self, spec: ForwardSpec) -> Result<ForwardStatus, NetworkError> {
        let forward = listen(&self.nat, spec, self.address())?;
        self.policy.guest(&self.guest, |g| g.forwards.insert((spec.protocol, spec.port)))?;
        Ok(ForwardStatus::from(&forward))
    }

    /// Ends the forwarding to a port of the guest. Connections that exist go on.
    ///
    /// # Errors
    /// [`NetworkError::NoForward`].
    pub fn remove_forward(&self, protocol: Protocol, port: u16) -> Result<(), NetworkError> {
        let removed = self.nat.with(|engine, _| {
            let all = engine.forwards().iter().filter(|f| f.protocol == protocol && f.guest.port() == port);
            let ids: Vec<_> = all.map(|f| f.id).collect();
            ids.into_iter().filter(|id| engine.remove_forward(*id)).count()
        });
        if removed == 0 {
            return Err(NetworkError::NoForward(format!("{port}/{protocol}")));
        }
        self.policy.guest(&self.guest, |g| g.forwards.remove(&(protocol, port)))?;
        Ok(())
    }

    /// The forwarded ports, oldest first.
    pub fn forwards(&self) -> Vec<ForwardStatus> {
        self.nat.with(|engine, _| engine.forwards().iter().map(ForwardStatus::from).collect())
    }

    /// The translations under way.
    pub fn translations(&self) -> Vec<Translation> {
        self.nat.with(|engine, now| engine.table(now))
    }

    /// What the translator has counted.
    pub fn counters(&self) -> Counters {
        self.nat.with(|engine, _| engine.counters())
    }

    /// Adds a rule to the firewall, or removes it; false if that is so already. A rule that goes ends the connections that only
    /// it allowed, when it was in force.
    pub fn change_rule(&self, scope: Scope, direction: Direction, rule: &Rule, add: bool) -> bool {
        let change = |g: &mut Guest| match add {
            true => g.firewall.add(scope, direction, rule.clone()),
            false => g.firewall.remove(scope, direction, rule),
        };
        let changed = self.policy.guest(&self.guest, change).unwrap_or(false);
        if changed && scope == Scope::Runtime {
            self.nat.with(|engine, now| engine.judge_again(now));
        }
        changed
    }

    /// Puts the permanent rules in force; `preview` only tells what that would do.
    pub fn reload(&self, preview: bool) -> Reload {
        let act = |g: &mut Guest| if preview { g.firewall.preview() } else { g.firewall.reload() };
        self.policy.guest(&self.guest, act).unwrap_or_default()
    }

    /// The firewall as it is.
    pub fn firewall(&self) -> Firewall {
        self.policy.guest(&self.guest, |g| g.firewall.clone()).unwrap_or_default()
    }

    /// Why a connection is allowed or not: from the guest if `source` is its address, else to it.
    pub fn why(&self, protocol: Protocol, source: IpAddr, destination: SocketAddr) -> Explanation {
        // Any port of the kind that systems choose by themselves.
        let flow = FlowKey { protocol, source: SocketAddr::new(source, 49152), destination };
        let mut why = self.policy.why(&flow);
        let inward = destination.ip() == self.address();
        if why.allowed && inward {
            let port = (protocol, destination.port());
            if !self.policy.guest(&self.guest, |g| g.forwards.contains(&port)).unwrap_or(false) {
                why.allowed = false;
                why.because +=
                    &format!(", but no port of the host leads to port {}/{protocol} of {}", port.1, self.guest);
                why.command = Some(format!("visor port add {} {}/{protocol}", self.guest, port.1));
            }
        } else if why.allowed {
            self.obstacle(&flow, &mut why);
        }
        why
    }

    /// What the policy allows may be impossible all the same.
    fn obstacle(&self, flow: &FlowKey, why: &mut Explanation) {
        let IpAddr::V4(to) = flow.destination.ip() else { return };
        let (found, alone) = self.nat.with(|engine, _| {
            let alone = engine.config().contains(to);
            (engine.obstacle(flow.destination, flow.protocol), alone)
        });
        if let Some(because) = found.or(alone.then_some("nobody else is in this network")) {
            *why = Explanation { allowed: false, because: because.into(), rule: None, command: None };
        }
    }

    /// Answers a question or makes a change, as asked by another process.
    ///
    /// # Errors
    /// What is against it, in words.
    pub fn request(&self, request: &GuestRequest) -> Result<serde_json::Value, String> {
        let rules = Rules { policy: &self.policy, guest: &self.guest, given: &self.given, store: self.store.as_ref() };
        if let Some(done) = rules.request(request, || _ = self.nat.with(|engine, now| engine.judge_again(now))) {
            return done;
        }
        let words = |e: NetworkError| crate::words(&e);
        Ok(match request {
            GuestRequest::AddPort(text) => {
                let spec = text.parse::<ForwardSpec>().map_err(|e| e.to_string())?;
                json!(self.add_forward(spec).map_err(words)?)
            }
            GuestRequest::RemovePort { protocol, port } => json!(self.remove_forward(*protocol, *port).map_err(words)?),
            GuestRequest::Ports => json!(self.forwards()),
            GuestRequest::NatTable => json!(self.translations().into_iter().take(MAX_LISTED).collect::<Vec<_>>()),
            GuestRequest::Why { protocol, source, destination: (to, port) } => {
                let own = self.address();
                json!(self.why(*protocol, source.unwrap_or(own), SocketAddr::new(to.unwrap_or(own), *port)))
            }
            GuestRequest::StartCapture(path) => json!(self.start_capture(path).map_err(words)?),
            GuestRequest::StopCapture => json!(self.stop_capture().map_err(|e| e.to_string())?),
            GuestRequest::Groups => {
                self.read_groups();
                json!(self.nat.with(|engine, now| engine.judge_again(now)))
            }
            other => return Err(format!("not understood: {other:?}")),
        })
    }

    fn read_groups(&self) {
        let Some(store) = &self.store else { return };
        match store.groups() {
            Ok(groups) => self.policy.set_groups(groups),
            Err(e) => tracing::warn!(error = %e, "the security groups cannot be read"),
        }
    }

    /// Begins to write what passes to a pcap file; ends a capture that is under way.
    ///
    /// # Errors
    /// [`NetworkError::Capture`].
    pub fn start_capture(&self, path: &Path) -> Result<(), NetworkError> {
        crate::capturing::start(&self.capture, path)
    }

    /// Ends the capture; the number of packets in it, if there was one.
    ///
    /// # Errors
    /// What went wrong when it was written.
    pub fn stop_capture(&self) -> io::Result<Option<u64>> {
        self.capture.stop().map(Capture::finish).transpose()
    }

    fn port(&self) -> MutexGuard<'_, Option<NatPort>> {
        self.port.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Network for NatNetwork {
    fn name(&self) -> &str {
        "nat"
    }

    fn plug(&self, _guest: &str, mac: MacAddr) -> io::Result<Box<dyn NetPort>> {
        let port = self.port().take();
        let port = port.ok_or_else(|| io::Error::new(io::ErrorKind::AlreadyExists, "another device is plugged in"))?;
        // The address is the device's before it asks: a guest may have been told it in advance.
        self.nat.with(|engine, now| engine.assign(now, mac));
        Ok(Box::new(Captured::new(port, self.capture.clone())))
    }
}
