//! The network of a throw-away machine.

use std::path::PathBuf;
use std::sync::Arc;

use clap::ValueEnum;
use serde_json::json;
use visor_firewall::{Rule, RuleSet, What};
use visor_machine::{MachineSpec, NicModel, NicSpec};
use visor_net::{MacAddr, Network};
use visor_network::shared::{Plug, SharedNetwork, VlanSpec};
use visor_network::{
    Capturing, ForwardSpec, ForwardStatus, GuestRequest, NatNetwork, NatSpec, NetBoot, NetworkError, Store, random_mac,
};

use crate::report::Failure;

/// What the command line says about the network.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Network")]
pub(crate) struct NetworkArgs {
    /// What the guest is connected to: `nat`, a network of its own behind the host's address; `none`; or a network made with
    /// `visor net create`.
    #[arg(long, value_name = "NETWORK", default_value = "nat")]
    net: NetArg,
    /// The machine's name: `visor ls` shows it, other commands take it, and guests of the same network find it by it.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Which network device the guest finds.
    #[arg(long, value_enum, default_value_t = NicArg::Virtio)]
    nic: NicArg,
    /// The VLAN of the guest's device in a network made with `visor net create`; with --trunk, that of frames without a tag.
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u16).range(1..=4094))]
    vlan: Option<u16>,
    /// VLANs that the guest's device sees with their tags.
    #[arg(long, value_name = "ID,...", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=4094))]
    trunk: Vec<u16>,
    /// The device's Ethernet address; without it a random one.
    #[arg(long, value_name = "ADDRESS")]
    mac: Option<MacAddr>,
    /// Forward a port of the host to the guest: `8080:80`, `8080:80/udp`, `0.0.0.0:8080:80`; `80` picks a free port of the host and
    /// says which. The host listens on 127.0.0.1 unless an address is given.
    #[arg(short, long, value_name = "[[BIND:]HOST:]GUEST[/udp]")]
    publish: Vec<ForwardSpec>,
    /// Let the guest reach the host's own services under 10.0.2.2.
    #[arg(long)]
    allow_host_loopback: bool,
    /// Serve the files below this directory to the guest by TFTP at 10.0.2.2, for booting from the network (`--boot net`).
    #[arg(long, value_name = "DIRECTORY")]
    tftp: Option<PathBuf>,
    /// What a guest that boots from the network is told to fetch: a file below the directory of --tftp, or a URL, which iPXE
    /// knows.
    #[arg(long, value_name = "FILE|URL")]
    bootfile: Option<String>,
    /// Open the guest's firewall: a service (`http`), a port (`8080/tcp`) or a rule (`service ssh from 10.0.0.0/8`). Forwarded ports
    /// are open by themselves.
    #[arg(long, value_name = "RULE", value_parser = parse_rule)]
    fw_allow: Vec<Rule>,
    /// Write all network packets to this file (pcap).
    #[arg(long, value_name = "FILE")]
    capture: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum NetArg {
    /// The guest reaches what the host reaches, and nobody reaches the guest but through forwarded ports.
    Nat,
    /// No network device.
    None,
    /// With other guests.
    Shared(String),
}

impl std::str::FromStr for NetArg {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "nat" => NetArg::Nat,
            "none" => NetArg::None,
            name => NetArg::Shared(name.into()),
        })
    }
}

/// What a machine was plugged into. Clones are the same plug.
#[derive(Clone)]
pub(super) enum Attached {
    /// Nothing.
    None,
    /// A network of its own.
    Nat(Arc<NatNetwork>),
    /// A network with others.
    Shared(Arc<SharedNetwork>, Arc<Capturing>),
}

impl NetworkArgs {
    /// Gives the machine a name.
    pub(crate) fn set_name(&mut self, name: &str) {
        self.name = Some(name.into());
    }

    /// The name that the machine is to have.
    pub(crate) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }
}

impl Attached {
    /// Tells, once the machine is plugged in, what only the network knows.
    pub(super) fn report(&self, args: &NetworkArgs, tell: impl Fn(&str)) {
        let welcome = if let Attached::Shared(network, _) = self { network.welcome() } else { None };
        let Some(welcome) = welcome else { return };
        welcome.warnings.iter().for_each(|w| eprintln!("visor: warning: {w}"));
        if let Some(address) = welcome.address {
            tell(&format!("address {address}"));
        }
        report_forwards(
            &welcome.forwards,
            &publish(args, args.name.as_ref().map(|_| crate::net::places().store()).as_ref()),
            tell,
        );
    }

    /// Answers a question about the network, or makes a change.
    ///
    /// # Errors
    /// What is against it, in words.
    pub(super) fn request(&self, request: &GuestRequest) -> Result<serde_json::Value, String> {
        match self {
            Attached::None => Err("the machine has no network (it was started with --net none)".into()),
            Attached::Nat(network) => network.request(request),
            Attached::Shared(network, _) => network.request(request),
        }
    }

    /// Where it is plugged in, for `visor info`.
    pub(super) fn describe(&self) -> serde_json::Value {
        match self {
            Attached::None => serde_json::Value::Null,
            Attached::Nat(network) => {
                let forwards: Vec<String> = network.forwards().iter().map(ToString::to_string).collect();
                json!({ "network": "nat", "forwards": forwards })
            }
            Attached::Shared(network, _) => {
                let welcome = network.welcome();
                let address = welcome.as_ref().and_then(|w| w.address);
                let forwards = network.request(&GuestRequest::Ports).unwrap_or_default();
                let forwards = serde_json::from_value::<Vec<ForwardStatus>>(forwards).unwrap_or_default();
                let forwards: Vec<String> = forwards.iter().map(ToString::to_string).collect();
                json!({ "network": network.name(), "address": address, "forwards": forwards })
            }
        }
    }

    /// Completes the capture.
    pub(super) fn finish(&self) -> Result<(), Failure> {
        let done = match self {
            Attached::None => Ok(None),
            Attached::Nat(network) => network.stop_capture(),
            Attached::Shared(_, capturing) => capturing.stop(),
        };
        done.map_err(|e| anyhow::Error::from(e).context("the packet capture is not complete"))?;
        Ok(())
    }
}

/// A port that was picked is known to nobody else, so it is told always.
fn report_forwards(forwards: &[String], publish: &[ForwardSpec], tell: impl Fn(&str)) {
    for (forward, wish) in forwards.iter().zip(publish) {
        if wish.bind.port() == 0 {
            eprintln!("visor: {forward}");
        } else {
            tell(forward);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum NicArg {
    /// Fast; needs a virtio driver.
    Virtio,
    /// Intel 82540EM, which nearly every system knows.
    E1000,
}

/// A rule, or just the name of a service or a port.
pub(crate) fn parse_rule(text: &str) -> Result<Rule, String> {
    let bare = !text.contains(char::is_whitespace) && !matches!(text, "ping" | "everything");
    let rule = match text.starts_with(|c: char| c.is_ascii_digit()) {
        true if bare => What::port(text).map(Rule::allow),
        false if bare => What::service(text).map(Rule::allow),
        _ => text.parse(),
    };
    rule.map_err(|e| e.to_string())
}

/// Makes the network and plugs a device of `spec` into it; `image`: it boots an image of ours, which takes advice. `tell` gets what was decided.
pub(super) fn attach(
    args: &NetworkArgs,
    spec: &mut MachineSpec,
    image: bool,
    tell: impl Fn(&str),
) -> Result<Attached, Failure> {
    if let Some(name) = &args.name {
        spec.name.clone_from(name);
    }
    if args.net == NetArg::None {
        let useless = [
            (args.mac.is_some(), "--mac"),
            (!args.publish.is_empty(), "--publish"),
            (args.allow_host_loopback, "--allow-host-loopback"),
            (args.tftp.is_some(), "--tftp"),
            (args.bootfile.is_some(), "--bootfile"),
            (!args.fw_allow.is_empty(), "--fw-allow"),
            (args.capture.is_some(), "--capture"),
            (args.vlan.is_some() || !args.trunk.is_empty(), "--vlan"),
        ];
        return match useless.iter().find(|(given, _)| *given) {
            Some((_, option)) => Err(Failure::new(format!("{option} needs a network, and there is none"))
                .hint("leave out `--net none`, or that option")),
            None => Ok(Attached::None),
        };
    }
    let store = args.name.as_ref().map(|_| crate::net::places().store());
    let mac = mac(args, store.as_ref());
    let publish = publish(args, store.as_ref());
    let model = if args.nic == NicArg::E1000 { NicModel::E1000 } else { NicModel::Virtio };
    if let NetArg::Shared(name) = &args.net {
        let attached = shared(args, spec, image, name, (model, mac, &publish))?;
        tell(&format!("network {name}, device {model:?} {mac}"));
        return Ok(attached);
    }
    if args.vlan.is_some() || !args.trunk.is_empty() {
        return Err(Failure::new("a guest that is alone in its network has no VLANs")
            .hint("make a network for several: visor net create lab; then --net lab --vlan 10"));
    }
    let nat = NatSpec {
        store,
        guest: spec.name.clone(),
        allow_host_loopback: args.allow_host_loopback,
        forwards: publish.clone(),
        rules: RuleSet { inbound: args.fw_allow.clone(), ..RuleSet::default() },
        boot: net_boot(args)?,
    };
    let network = NatNetwork::open(nat).map_err(failure)?;
    if let Some(path) = &args.capture {
        network.start_capture(path).map_err(failure)?;
    }
    let preset = network.preset();
    let own = args.name.as_deref().unwrap_or_default();
    advise(spec, image, &[("visor.hostname", own), ("visor.address", &preset)]);
    let forwards: Vec<String> = network.forwards().iter().map(ToString::to_string).collect();
    report_forwards(&forwards, &publish, &tell);
    tell(&format!("network nat, device {model:?} {mac}"));
    spec.nics.push(NicSpec { model, mac, network: network.clone(), rom: None });
    Ok(Attached::Nat(network))
}

/// The device's address: that of a machine with a name stays, so that its lease does.
fn mac(args: &NetworkArgs, store: Option<&Store>) -> MacAddr {
    let kept = || {
        let (store, name) = (store?, args.name.as_deref()?);
        store.mac(name).map_err(|e| eprintln!("visor: warning: the machine gets another MAC each time: {e}")).ok()
    };
    args.mac.or_else(kept).unwrap_or_else(random_mac)
}

/// The ports of the command line, then those that are forwarded whenever a machine of that name runs.
fn publish(args: &NetworkArgs, store: Option<&Store>) -> Vec<ForwardSpec> {
    let mut all = args.publish.clone();
    let kept = store.zip(args.name.as_deref()).map(|(s, name)| s.ports(name)).unwrap_or_default();
    let listens = |f: &ForwardSpec| (f.protocol, f.bind);
    all.extend(kept.into_iter().filter(|k| !args.publish.iter().any(|p| listens(p) == listens(k))));
    all
}

/// What the guest finds when it boots from the network.
fn net_boot(args: &NetworkArgs) -> Result<NetBoot, Failure> {
    let file = &args.bootfile;
    if let Some(name) = file.as_ref().filter(|f| args.tftp.is_none() && !f.contains("://")) {
        return Err(Failure::new(format!("nobody serves the boot file {name}"))
            .hint("--tftp DIRECTORY serves the files of a directory; or give a URL"));
    }
    if let (Some(directory), Some(name)) = (&args.tftp, file)
        && !name.contains("://")
        && !directory.join(name.trim_start_matches('/')).is_file()
    {
        return Err(Failure::new(format!("there is no file {name} below {}", directory.display()))
            .hint("--bootfile names a file below the directory of --tftp"));
    }
    Ok(NetBoot { directory: args.tftp.clone(), file: file.clone() })
}

/// Tells the init of our images what is known in advance, so that the first command has a network. The user's words come after.
fn advise(spec: &mut MachineSpec, image: bool, words: &[(&str, &str)]) {
    for (key, value) in words.iter().filter(|(_, value)| image && !value.is_empty()) {
        spec.cmdline.insert_str(0, &format!("{key}={value} "));
    }
}

/// Plugs a device of `spec` into a network with others.
fn shared(
    args: &NetworkArgs,
    spec: &mut MachineSpec,
    image: bool,
    name: &str,
    (model, mac, publish): (NicModel, MacAddr, &[ForwardSpec]),
) -> Result<Attached, Failure> {
    if args.allow_host_loopback {
        return Err(Failure::new("--allow-host-loopback is decided when a network is made")
            .hint(format!("visor net create {name} --allow-host-loopback")));
    }
    if args.tftp.is_some() || args.bootfile.is_some() {
        return Err(Failure::new("--tftp and --bootfile are for a network of the guest's own").hint("leave out --net"));
    }
    if args.name.is_none() {
        let [.., a, b, c] = mac.0;
        spec.name = format!("vm-{a:02x}{b:02x}{c:02x}");
    }
    let place = crate::net::running(name)?;
    let forwards = publish.iter().map(ToString::to_string).collect();
    let plug = Plug {
        forwards,
        rules: args.fw_allow.clone(),
        vlans: VlanSpec { untagged: args.vlan, tagged: args.trunk.clone() },
        named: args.name.is_some(),
    };
    let network = Arc::new(SharedNetwork::new(place, plug));
    let guest = spec.name.clone();
    let plugged = network.prepare(&guest, mac);
    plugged.map_err(|e| anyhow::Error::from(e).context(format!("cannot plug into the network {name}")))?;
    let preset = network.welcome().and_then(|w| w.preset);
    advise(spec, image, &[("visor.hostname", &guest), ("visor.address", preset.as_deref().unwrap_or_default())]);
    let capturing = Arc::new(Capturing::new(network.clone()));
    if let Some(path) = &args.capture {
        capturing.start(path).map_err(failure)?;
    }
    spec.nics.push(NicSpec { model, mac, network: capturing.clone(), rom: None });
    Ok(Attached::Shared(network, capturing))
}

fn failure(error: NetworkError) -> Failure {
    let hint = match &error {
        NetworkError::Taken { at, protocol, .. } => Some(format!(
            "stop it, or give another port: `-p 0:GUEST/{protocol}` picks a free one instead of {}",
            at.port()
        )),
        NetworkError::Listen { at, .. } if at.port() < 1024 => {
            Some(format!("ports below 1024 need privileges; give one above, such as {}", u32::from(at.port()) + 8000))
        }
        NetworkError::BootFiles { .. } => Some("--tftp wants a directory that you may read".into()),
        NetworkError::Nat(_) => Some("`--net none` starts the machine without a network".into()),
        _ => None,
    };
    let failure = Failure::from(anyhow::Error::from(error));
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_may_be_short() {
        let parse = |t: &str| parse_rule(t).map(|r| r.to_string());
        assert_eq!(parse("http"), Ok("service http".into()));
        assert_eq!(parse("8080/udp"), Ok("port 8080/udp".into()));
        assert_eq!(parse("service ssh from 10.0.0.0/8"), Ok("service ssh from 10.0.0.0/8".into()));
        assert_eq!(parse("ping"), Ok("ping".into()));
        assert!(parse("htttp").is_err() && parse("99999").is_err());
    }
}
