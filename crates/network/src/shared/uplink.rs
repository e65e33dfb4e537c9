//! What connects a network to the rest of the world: a translator, a tap device of the host, a bridge.

use std::io;
use std::sync::Arc;

use visor_firewall::Policy;
use visor_host_net::{Nat, TapPort};
use visor_nat::{Lease, NatConfig};
use visor_net::NetPort;
use visor_switch::{Guard, Hub, Membership, PortConfig, VlanId};

use super::message::{Mode, SharedSpec};
use super::place::Place;
use super::server::{MTU, StoredLease};
use crate::splice::splice;

/// See the module's documentation.
pub(super) struct Uplink {
    /// Hands out addresses and names, and translates unless the network is closed.
    pub(super) nat: Option<Nat>,
    /// How the host takes part, in words.
    pub(super) host: Option<String>,
}

impl Uplink {
    /// Connects `hub` as `spec` says.
    pub(super) fn connect(place: &Place, spec: &SharedSpec, hub: &Hub, policy: &Policy) -> io::Result<Uplink> {
        let home = home(spec)?;
        let nat = match spec.mode {
            Mode::Internal | Mode::Bridge => None,
            Mode::NatNetwork | Mode::HostOnly => Some(translator(place, spec, hub, policy, home)?),
        };
        let host = match (spec.mode, &nat) {
            (Mode::HostOnly, Some(nat)) => Some(interface(place, spec, nat, hub, home)),
            (Mode::Bridge, _) => Some(bridge(spec, hub, home)?),
            _ => None,
        };
        Ok(Uplink { nat, host })
    }
}

/// The VLAN of translator and host.
pub(super) fn home(spec: &SharedSpec) -> io::Result<VlanId> {
    let id = spec.vlan.map_or(Ok(VlanId::DEFAULT), VlanId::new);
    id.map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))
}

/// The translator, plugged into the switch, with the leases of its last life.
fn translator(place: &Place, spec: &SharedSpec, hub: &Hub, policy: &Policy, home: VlanId) -> io::Result<Nat> {
    let invalid = |e| io::Error::new(io::ErrorKind::InvalidInput, e);
    let make = if spec.mode == Mode::HostOnly { NatConfig::host_only } else { NatConfig::shared };
    let config = make(spec.subnet.network(), spec.subnet.prefix_len()).map_err(invalid)?;
    let (nat, port) = Nat::open(NatConfig { allow_host_loopback: spec.allow_host_loopback, mtu: MTU, ..config })?;
    let leases: Vec<StoredLease> = place.read("leases.json").unwrap_or_default();
    nat.with(|engine, now| {
        engine.set_policy(Arc::new(policy.clone()));
        engine.config().own_addresses().into_iter().for_each(|ip| policy.reserve(home.number(), ip));
        for l in leases {
            engine.restore_lease(now, &Lease { mac: l.mac, address: l.address, reserved: false });
        }
    });
    plug(hub, "nat", Membership::Access(home), Guard::default(), port)?;
    Ok(nat)
}

/// An interface of the host in a host-only network. Where that is not allowed the network is there all the same, and its maker is told
/// how else the host gets in.
fn interface(place: &Place, spec: &SharedSpec, nat: &Nat, hub: &Hub, home: VlanId) -> String {
    let address = nat.with(|engine, _| engine.config().host_address());
    let open = || {
        let tap = TapPort::open("visor%d")?;
        tap.set_address(address, spec.subnet.prefix_len())?;
        Ok::<_, visor_host_net::TapError>(tap)
    };
    match open() {
        Ok(tap) => {
            let name = tap.name().to_owned();
            let guard = Guard { ips: vec![address.into()], ..Guard::default() };
            match plug(hub, "host", Membership::Access(home), guard, tap) {
                Ok(()) => format!("the host is {address} by its interface {name}"),
                Err(e) => format!("the host is not connected: {e}"),
            }
        }
        Err(e) => format!("the host has no interface here ({e}); `visor net shell {}` is in the network", place.name),
    }
}

/// A tap device on a bridge of the host. VLANs other than the network's own leave with their tags.
fn bridge(spec: &SharedSpec, hub: &Hub, home: VlanId) -> io::Result<String> {
    let Some(name) = &spec.bridge else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the network names no bridge of the host"));
    };
    let tap = TapPort::open("visor%d").map_err(io::Error::other)?;
    tap.join_bridge(name).map_err(io::Error::other)?;
    let told = format!("on the host's bridge {name} by {}", tap.name());
    plug(hub, "bridge", Membership::Trunk { native: Some(home), allowed: None }, Guard::default(), tap)?;
    Ok(told)
}

fn plug(hub: &Hub, name: &str, vlans: Membership, guard: Guard, port: impl NetPort + 'static) -> io::Result<()> {
    let uplink = hub.plug(PortConfig { name: name.into(), vlans, guard });
    std::thread::Builder::new().name(name.into()).spawn(move || splice(port, uplink))?;
    Ok(())
}
