//! Programs that judge visor's work from outside: those that this host lacks are taken from Debian's packages into visor's cache.

use std::env;
use std::ffi::OsString;
use std::path::Path;

use crate::shell::{cargo, root, step};

/// Debian packages and the programs of them that tests run.
const JUDGES: [(&str, &[&str]); 12] = [
    ("acpica-tools", &["iasl"]),
    ("bind9-dnsutils", &["dig"]),
    ("busybox", &["busybox"]),
    ("cryptsetup-bin", &["cryptsetup"]),
    ("curl", &["curl"]),
    ("e2fsprogs", &["debugfs", "e2fsck", "mke2fs"]),
    ("iperf3", &["iperf3"]),
    ("iproute2", &["ip", "ss"]),
    ("iputils-ping", &["ping"]),
    ("libnbd-bin", &["nbdcopy"]),
    ("procps", &["sysctl"]),
    ("qemu-utils", &["qemu-img", "qemu-io", "qemu-nbd"]),
];

/// A search path (`PATH`) on which all of them are found.
pub(crate) fn search_path() -> anyhow::Result<OsString> {
    // Ordinary users often lack the directories of the system's programs, of which some are here.
    let mut path: Vec<_> = env::var_os("PATH").iter().flat_map(env::split_paths).collect();
    path.extend(["/usr/sbin", "/sbin"].map(Into::into));
    let missing: Vec<String> = (JUDGES.iter())
        .flat_map(|(package, programs)| programs.iter().map(move |program| (package, *program)))
        .filter(|(_, program)| !path.iter().any(|directory| directory.join(program).is_file()))
        .map(|(package, program)| format!("{package}:{program}"))
        .collect();
    if !missing.is_empty() {
        let directory = root().join("target/judges");
        let mut fetch =
            cargo(&["run", "--quiet", "--locked", "--package", "visor-image", "--example", "programs", "--"]);
        step("judges", fetch.arg(&directory).args(&missing))?;
        // Behind all others: what is installed is used.
        path.push(directory);
    }
    Ok(env::join_paths(path.iter().map(AsRef::<Path>::as_ref))?)
}
