//! The kernel's command line, as far as PID 1 is concerned.

use std::net::Ipv4Addr;

/// The address of the first network interface, as the host knows it in advance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) address: Ipv4Addr,
    pub(super) prefix: u8,
    pub(super) gateway: Ipv4Addr,
    pub(super) resolver: Ipv4Addr,
}

impl Address {
    /// `ADDRESS/PREFIX,GATEWAY,RESOLVER`.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(',');
        let (address, prefix) = parts.next()?.split_once('/')?;
        let prefix = prefix.parse().ok().filter(|p| (1..=32).contains(p))?;
        let mut next = || parts.next()?.parse().ok();
        Some(Self { address: address.parse().ok()?, prefix, gateway: next()?, resolver: next()? })
    }
}

/// Where the root file system is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RootSpec {
    /// The ext4 file system with this label.
    Label(String),
    /// This device.
    Device(String),
}

/// Settings from the command line; the table in the module above says what they mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cmdline {
    pub(super) root: Option<RootSpec>,
    pub(super) writable: bool,
    pub(super) shell: bool,
    pub(super) hostname: Option<String>,
    pub(super) network: bool,
    pub(super) address: Option<Address>,
    /// Devices of `console=`, in order, without `/dev/`.
    pub(super) consoles: Vec<String>,
}

impl Cmdline {
    pub(super) fn read() -> Self {
        Self::parse(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default())
    }

    pub(super) fn parse(text: &str) -> Self {
        let mut settings = Self {
            root: None,
            writable: true,
            shell: true,
            hostname: None,
            network: true,
            address: None,
            consoles: Vec::new(),
        };
        for word in text.split_whitespace() {
            match word.split_once('=').unwrap_or((word, "")) {
                ("ro", "") => settings.writable = false,
                ("rw", "") => settings.writable = true,
                ("root", spec) => {
                    settings.root = match spec.strip_prefix("LABEL=") {
                        Some(label) => Some(RootSpec::Label(label.to_owned())),
                        None => Some(RootSpec::Device(spec.to_owned())).filter(|_| spec.starts_with("/dev/")),
                    }
                }
                ("visor.console", value) => settings.shell = value != "off",
                ("visor.hostname", name) if !name.is_empty() => settings.hostname = Some(name.to_owned()),
                ("visor.net", value) => settings.network = value != "off",
                ("visor.address", value) => settings.address = Address::parse(value),
                ("console", device) => {
                    settings.consoles.extend(device.split(',').next().map(str::to_owned));
                }
                _ => {}
            }
        }
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_mean_what_the_table_says() {
        let c = Cmdline::parse(
            "quiet console=tty0 console=ttyS0,115200 root=LABEL=visor ro visor.console=off visor.hostname=otter\n",
        );
        assert_eq!(c.root, Some(RootSpec::Label("visor".into())));
        assert!(!c.writable && !c.shell && c.network);
        assert_eq!(c.hostname.as_deref(), Some("otter"));
        assert_eq!(c.consoles, ["tty0", "ttyS0"]);
        let c = Cmdline::parse("root=/dev/sda visor.console=shell visor.net=off");
        assert_eq!(c.root, Some(RootSpec::Device("/dev/sda".into())));
        assert!(c.writable && c.shell && !c.network);
        assert_eq!(Cmdline::parse("root=UUID=x").root, None);
        let a = Cmdline::parse("visor.address=10.0.2.15/24,10.0.2.2,10.0.2.3").address.unwrap();
        assert_eq!((a.address.to_string().as_str(), a.prefix), ("10.0.2.15", 24));
        assert_eq!((a.gateway.octets()[3], a.resolver.octets()[3]), (2, 3));
        for bad in ["", "10.0.2.15", "10.0.2.15/33,1.1.1.1,1.1.1.1", "10.0.2.15/24,1.1.1.1", "x/24,1.1.1.1,1.1.1.1"] {
            assert_eq!(Cmdline::parse(&format!("visor.address={bad}")).address, None, "{bad}");
        }
    }
}
