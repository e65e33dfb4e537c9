//! Real programs for guests, from Debian's packages: a disc with them and their libraries.
#![allow(dead_code, reason = "every test file uses its part")]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The packages, and the programs of them.
const PACKAGES: [&str; 5] = ["iperf3", "bind9-dnsutils", "netcat-openbsd", "isc-dhcp-client", "tcpdump"];
const PROGRAMS: [&str; 4] = ["usr/bin/iperf3", "usr/bin/dig", "bin/nc.openbsd", "sbin/dhclient"];
/// What a guest's script begins with: after it `t PROGRAM ARGUMENTS` runs a program of the disc.
pub(crate) const MOUNT: &str = "mkdir -p /tmp/t; mount -t iso9660 -o ro /dev/sdb /tmp/t; t() { p=$1; shift; \
                                /tmp/t/lib/ld-linux-x86-64.so.2 --library-path /tmp/t/lib /tmp/t/bin/$p \"$@\"; }; ";

/// Where the packages are unpacked. Inside a namespace nobody can be asked for them, so whoever asked outside has left a note.
fn unpacked() -> PathBuf {
    let note = std::env::temp_dir().join("visor-test-tools.path");
    if std::env::var_os("VISOR_TEST_NAMESPACE").is_some() {
        return std::fs::read_to_string(note).unwrap().into();
    }
    let directory = visor_test_linux::packages(&PACKAGES).unwrap().directory().to_owned();
    let new = note.with_extension(std::process::id().to_string());
    std::fs::write(&new, directory.to_str().unwrap()).unwrap();
    std::fs::rename(&new, &note).unwrap();
    directory
}

/// A program of the packages on the host.
pub(crate) fn on_host(program: &str) -> std::process::Command {
    from(&unpacked(), program)
}

/// Wireshark's dissectors, which no guest needs.
pub(crate) fn tshark() -> std::process::Command {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let packages = || visor_test_linux::packages(&["tshark"]).unwrap().directory().to_owned();
    from(DIRECTORY.get_or_init(packages), "usr/bin/tshark")
}

/// A program of the packages unpacked in `directory`, with their libraries.
fn from(directory: &Path, program: &str) -> std::process::Command {
    let libraries =
        ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"].map(|l| directory.join(l).display().to_string());
    let mut command = std::process::Command::new(directory.join("lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"));
    command.args(["--library-path", &libraries.join(":")]).arg(directory.join(program));
    command
}

/// The disc, made once for each state of the packages.
pub(crate) fn disc() -> PathBuf {
    let from = unpacked();
    let name = format!("visor-test-tools-{}.iso", from.file_name().unwrap().to_string_lossy());
    let image = std::env::temp_dir().join(name);
    if image.exists() {
        return image;
    }
    let work = std::env::temp_dir().join(format!("visor-test-tools-{}", std::process::id()));
    for directory in ["bin", "lib"] {
        std::fs::create_dir_all(work.join(directory)).unwrap();
    }
    for program in PROGRAMS {
        let to = work.join("bin").join(Path::new(program).file_name().unwrap());
        std::fs::copy(from.join(program), to).unwrap();
    }
    for directory in ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"] {
        for entry in std::fs::read_dir(from.join(directory)).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // A name with its version's number is what programs ask for; links become what they lead to.
            if name.contains(".so") && entry.path().is_file() {
                std::fs::copy(entry.path(), work.join("lib").join(name)).unwrap();
            }
        }
    }
    let new = work.with_extension("iso");
    let made = crate::common::run(&["iso", "make", work.to_str().unwrap(), "-o", new.to_str().unwrap()]);
    assert!(made.status.success(), "{}", crate::common::stderr(&made));
    std::fs::rename(new, &image).unwrap();
    std::fs::remove_dir_all(&work).unwrap();
    image
}
