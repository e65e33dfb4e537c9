//! The kernel's command line, as far as PID 1 is concerned.

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
    /// Devices of `console=`, in order, without `/dev/`.
    pub(super) consoles: Vec<String>,
}

impl Cmdline {
    pub(super) fn read() -> Self {
        Self::parse(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default())
    }

    pub(super) fn parse(text: &str) -> Self {
        let mut settings =
            Self { root: None, writable: true, shell: true, hostname: None, network: true, consoles: Vec::new() };
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
    }
}
