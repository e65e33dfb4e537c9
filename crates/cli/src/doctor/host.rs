//! What the host offers beside engines.

use std::ffi::CStr;
use std::path::PathBuf;

use nix::sys::statvfs::statvfs;
use nix::sys::wait::{WaitStatus, waitpid};
use visor_machine::HostFeatures;

use super::{Finding, Verdict};

const MIB: u64 = 1 << 20;

/// One line about the host.
pub(super) fn summary() -> String {
    let uname = nix::sys::utsname::uname().map_or_else(
        |_| "unknown host".to_owned(),
        |u| {
            let part = |s: &std::ffi::OsStr| s.to_string_lossy().into_owned();
            format!("{} {} {}", part(u.sysname()), part(u.release()), part(u.machine()))
        },
    );
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let under = hypervisor().map_or_else(String::new, |h| format!("  (this host is itself a virtual machine: {h})"));
    format!("{uname}  {cpus} CPUs{under}")
}

/// The hypervisor that the host runs under, by its CPUID signature (leaf 40000000h).
fn hypervisor() -> Option<String> {
    use core::arch::x86_64::__cpuid;
    if __cpuid(1).ecx & 1 << 31 == 0 {
        return None;
    }
    let leaf = __cpuid(0x4000_0000);
    let raw: Vec<u8> = [leaf.ebx, leaf.ecx, leaf.edx].iter().flat_map(|r| r.to_le_bytes()).collect();
    let name = String::from_utf8_lossy(&raw).trim_matches(['\0', ' ']).to_owned();
    Some(match name.as_str() {
        "KVMKVMKVM" => "KVM".to_owned(),
        "VMwareVMware" => "VMware".to_owned(),
        "Microsoft Hv" => "Hyper-V".to_owned(),
        "XenVMMXenVMM" => "Xen".to_owned(),
        "TCGTCGTCGTCG" => "QEMU TCG".to_owned(),
        "" => "unnamed".to_owned(),
        _ => name,
    })
}

/// The features of the host's CPU that bear on the soft engine.
pub(super) fn cpu_features() -> String {
    let features = [
        ("SSE4.2", std::arch::is_x86_feature_detected!("sse4.2")),
        ("AVX2", std::arch::is_x86_feature_detected!("avx2")),
        ("FMA", std::arch::is_x86_feature_detected!("fma")),
        ("BMI2", std::arch::is_x86_feature_detected!("bmi2")),
        ("AES", std::arch::is_x86_feature_detected!("aes")),
        ("SHA", std::arch::is_x86_feature_detected!("sha")),
    ];
    let has = |want: bool| features.iter().filter(|f| f.1 == want).map(|f| f.0).collect::<Vec<_>>().join(" ");
    match has(false).as_str() {
        "" => format!("has {}; guests see all of them", has(true)),
        missing => format!("has {}, lacks {missing}; guests are told so", has(true)),
    }
}

/// What translated code makes use of, and what it has to do without.
pub(super) fn translator() -> Finding {
    let bmi2 = std::arch::is_x86_feature_detected!("bmi2");
    let (verdict, detail) = describe_translator(HostFeatures::detect(), bmi2);
    Finding::new("Engine", verdict, "translated code", detail)
}

fn describe_translator(found: HostFeatures, bmi2: bool) -> (Verdict, String) {
    let pext = match (found.pext, bmi2) {
        (true, _) => "BMI2 found and used (PEXT)",
        (false, true) => "BMI2 found, but this CPU's PEXT is slow: memory accesses cost more",
        (false, false) => "BMI2 not found: memory accesses cost more",
    };
    let gs = match found.fsgsbase {
        true => "FSGSBASE found and used",
        false => "FSGSBASE not found (or not enabled by the kernel): switches of address spaces cost more",
    };
    let verdict = if found.pext && found.fsgsbase { Verdict::Ok } else { Verdict::Info };
    (verdict, format!("{pext}; {gs}"))
}

/// Memory, disk, name spaces, tap, and the tools that make images.
pub(super) fn findings() -> Vec<Finding> {
    vec![memory(), disk(), disk_io(), packages(), user_namespaces(), tap()]
}

fn memory() -> Finding {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
    let kib: Option<u64> = line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse().ok());
    match kib {
        Some(kib) if kib / 1024 < 400 => {
            let detail = format!("{} MiB available: too little for the default machine of 256 MiB", kib / 1024);
            Finding::new("Host", Verdict::Warn, "memory", detail)
                .fix("visor run --memory 128M tiny, or free some memory")
        }
        Some(kib) => Finding::new("Host", Verdict::Ok, "memory", format!("{} MiB available", kib / 1024)),
        None => Finding::new("Host", Verdict::Info, "memory", "/proc/meminfo cannot be read"),
    }
}

fn disk() -> Finding {
    let cache = cache_dir();
    let there = cache.ancestors().find(|p| p.exists()).map(PathBuf::from).unwrap_or_else(|| "/".into());
    match statvfs(&there) {
        Ok(fs) => {
            let free = fs.blocks_available() * fs.fragment_size() / MIB;
            let detail = format!("{}: {free} MiB free for images", cache.display());
            if free < 1024 {
                let fix = "free some space, or set XDG_CACHE_HOME to a larger file system";
                return Finding::new("Host", Verdict::Warn, "disk", detail).fix(fix);
            }
            Finding::new("Host", Verdict::Ok, "disk", detail)
        }
        Err(e) => Finding::new("Host", Verdict::Warn, "disk", format!("{}: {e}", there.display()))
            .fix("set XDG_CACHE_HOME to a folder you can write to"),
    }
}

/// How requests of raw disks reach the host.
fn disk_io() -> Finding {
    match visor_disk::ring_available() {
        Ok(()) => Finding::new("Host", Verdict::Ok, "disk requests", "io_uring works and is used for raw disks"),
        Err(why) => {
            let detail = format!("threads, since {why}: raw disks cost more CPU time");
            Finding::new("Host", Verdict::Info, "disk requests", detail)
                .fix("allow io_uring: sysctl kernel.io_uring_disabled=0, and the container's seccomp profile")
        }
    }
}

/// Where images are kept.
fn cache_dir() -> PathBuf {
    visor_image::ImageStore::default_directory()
}

fn packages() -> Finding {
    let missing: Vec<_> = ["apt-get", "apt-cache", "dpkg-deb"].into_iter().filter(|tool| !on_path(tool)).collect();
    if missing.is_empty() {
        return Finding::new("Host", Verdict::Ok, "image building", "apt and dpkg are here");
    }
    let detail = format!("{} not found: images cannot be built here", missing.join(", "));
    Finding::new("Host", Verdict::Warn, "image building", detail)
        .fix("build the image on a Debian or Ubuntu host and copy its cache folder, or use --kernel and --initrd")
}

fn on_path(tool: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(tool).is_file()))
}

fn user_namespaces() -> Finding {
    // SAFETY: the child only makes one system call and exits.
    let result = unsafe { nix::unistd::fork() };
    let works = match result {
        Ok(nix::unistd::ForkResult::Child) => {
            let ok = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).is_ok();
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc::_exit(i32::from(!ok)) }
        }
        Ok(nix::unistd::ForkResult::Parent { child }) => matches!(waitpid(child, None), Ok(WaitStatus::Exited(_, 0))),
        Err(_) => false,
    };
    if works {
        return Finding::new("Host", Verdict::Ok, "user namespaces", "can be made");
    }
    Finding::new("Host", Verdict::Info, "user namespaces", "refused by the kernel; virtual machines do not need them")
        .fix("for later use with containers: sudo sysctl kernel.unprivileged_userns_clone=1")
}

/// Tries to make a tap interface, which disappears again with its descriptor.
fn tap() -> Finding {
    const NAME: &CStr = c"visor-probe%d";
    let area = "Host";
    let file = match std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(file) => file,
        Err(e) => {
            return Finding::new(area, Verdict::Info, "tap interfaces", format!("/dev/net/tun: {e}"))
                .fix("not needed: networks run in user space; only bridges to the host's own network need it");
        }
    };
    let mut request = [0u8; 40];
    request[..NAME.count_bytes()].copy_from_slice(NAME.to_bytes());
    let flags = (libc::IFF_TAP | libc::IFF_NO_PI) as u16;
    request[16..18].copy_from_slice(&flags.to_le_bytes());
    // SAFETY: TUNSETIFF reads and writes an ifreq of 40 bytes, which `request` is.
    let made = unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&file), libc::TUNSETIFF, request.as_mut_ptr()) };
    if made == 0 {
        return Finding::new(area, Verdict::Ok, "tap interfaces", "can be made");
    }
    let why = std::io::Error::last_os_error();
    Finding::new(area, Verdict::Info, "tap interfaces", format!("refused: {why}"))
        .fix("not needed: networks run in user space; only bridges to the host's own network need root")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_translated_code_lacks_is_named() {
        let all = describe_translator(HostFeatures::ALL, true);
        assert_eq!(all, (Verdict::Ok, "BMI2 found and used (PEXT); FSGSBASE found and used".to_owned()));
        let slow = describe_translator(HostFeatures { pext: false, ..HostFeatures::ALL }, true);
        assert!(slow.0 == Verdict::Info && slow.1.starts_with("BMI2 found, but"), "{slow:?}");
        let old = describe_translator(HostFeatures::default(), false);
        assert!(old.1.contains("BMI2 not found") && old.1.contains("FSGSBASE not found"), "{old:?}");
    }
}
