//! The network device for systems without virtio: Debian's general kernel with its own driver of Intel's 82540EM, a lease, and
//! downloads and uploads by curl and wget.
#![allow(missing_docs, clippy::unwrap_used, dead_code)]

mod common;
#[path = "common/world.rs"]
mod world;

use std::path::{Path, PathBuf};

use common::{run, stderr, stdout};
use visor_test_linux::{BUSYBOX, packages, ramfs::Ramfs};
use world::{BIG, big, serve, sha256};

/// The kernel of ordinary PCs; the one for virtual machines has no driver for the device.
const KERNEL: &str = "linux-image-amd64";
/// Takes the lease as a lease's script does.
const LEASE: &str = "#!/bin/busybox sh\n\
                     [ \"$1\" = bound ] || exit 0\n\
                     /bin/busybox ip addr add $ip/$mask dev $interface\n\
                     /bin/busybox ip route add default via $router\n\
                     echo lease $ip/$mask $router $dns\n";

/// The program that the guest runs first; `WEB` is the address of the host's server.
const INIT: &str = "#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev 2>/dev/null
insmod /e1000.ko
ip link set lo up; ip link set eth0 up
echo driver $(basename $(readlink /sys/class/net/eth0/device/driver))
udhcpc -i eth0 -q -n -t 20 -s /lease >/dev/null 2>&1; cat /leased
ping -c 2 -W 20 10.0.2.2 | grep received
curl -sS -o /c http://WEB/big; echo curl $(sha256sum < /c)
wget -q -O /w http://WEB/big; echo wget $(sha256sum < /w)
echo put $(curl -sS -T /c http://WEB/up)
# It ends what it posts at the first zero, so it gets a text.
head -c 3000000 /w | base64 > /t
[ \"$(wget -q -O - --post-file=/t http://WEB/up)\" = \"$(wc -c < /t) $(sha256sum < /t | cut -d' ' -f1)\" ] && echo posted
echo link $(cat /sys/class/net/eth0/speed) errors $(cat /sys/class/net/eth0/statistics/*_errors | sort -u)
grep -c eth0 /proc/interrupts
dmesg | grep -i 'hang\\|timed out\\|call trace'
echo DONE
poweroff -f
";

/// Kernel and initial ramfs.
fn guest(web: &str) -> (PathBuf, PathBuf) {
    let debian = packages(&[KERNEL, BUSYBOX]).unwrap();
    let curl = packages(&["curl"]).unwrap();
    let mut ramfs = Ramfs::new();
    ramfs.program("init", INIT.replace("WEB", web).into_bytes());
    ramfs.program("lease", LEASE.replace("echo lease", "echo > /leased lease").into_bytes());
    ramfs.copy("bin/busybox", &debian.directory().join("bin/busybox")).unwrap();
    let modules = debian.modules(&["e1000"]).unwrap();
    let [module] = &modules[..] else { panic!("{modules:?}: the driver stands alone") };
    ramfs.copy("e1000.ko", module).unwrap();
    ramfs.copy("bin/curl", &curl.directory().join("usr/bin/curl")).unwrap();
    for directory in ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"] {
        for entry in std::fs::read_dir(curl.directory().join(directory)).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.contains(".so") && entry.path().is_file() {
                ramfs.program(&format!("lib/x86_64-linux-gnu/{name}"), std::fs::read(entry.path()).unwrap());
            }
        }
    }
    ramfs.link("lib64", "lib/x86_64-linux-gnu");
    let initrd = common::file("e1000.cpio", b"");
    ramfs.write_file(&initrd).unwrap();
    (debian.kernel().unwrap(), initrd)
}

#[test]
fn an_unmodified_driver_of_the_82540em_carries_downloads_and_uploads() {
    let port = serve("127.0.0.1");
    let (kernel, initrd) = guest(&format!("10.0.2.2:{port}"));
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let append = "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check";
    let options = ["run", "--engine", "soft", "--timeout", "1500s", "--memory", "768M", "--nic", "e1000"];
    let (kernel, initrd) = (text(&kernel), text(&initrd));
    let boot = ["--allow-host-loopback", "--kernel", &kernel, "--initrd", &initrd, "--append", append];
    let out = run(&[&options[..], &boot].concat());
    let said = stdout(&out).replace('\r', "");
    let sum = sha256(&big());
    for wanted in [
        "driver e1000",
        "lease 10.0.2.15/24 10.0.2.2 10.0.2.3",
        "2 packets received",
        &format!("curl {sum}"),
        &format!("wget {sum}"),
        &format!("put {BIG} {sum}"),
        "posted",
        "link 1000 errors 0\n1\nDONE",
    ] {
        assert!(said.contains(wanted), "no {wanted:?} in\n{said}\n{}", stderr(&out));
    }
}
