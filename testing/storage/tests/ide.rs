//! Debian's kernel with the drivers of an old PC: what the guest writes is what the host finds, and the other way round.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::time::{Duration, Instant};

use visor_disk::Access;
use visor_iso::MakeOptions;
use visor_machine::{Cd, Disk, DiskBus, EjectOutcome, Machine, StopReason, TrayError};
use visor_test_storage::{Linux, Session, pattern, sha256};

const KERNEL: &str = "linux-image-cloud-amd64";
const MODULES: [&str; 4] = ["ata_piix", "sd_mod", "sr_mod", "isofs"];
const MIB: usize = 1 << 20;

fn file(dir: &Path, name: &str, bytes: &[u8]) -> std::path::PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn until(what: &str, f: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !f() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Four drives in their places; DMA, then PIO.
#[test]
fn disks_keep_what_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let disks = [3, 5, 7].map(|n| file(dir.path(), &format!("disk{n}"), &pattern(n * MIB, n as u64)));
    let disc = pattern(2 * MIB + 2048, 9);
    let cd = file(dir.path(), "disc.iso", &disc);
    let linux = Linux::new(KERNEL, &MODULES).unwrap();
    // The kernel names disks in the order in which their probes happen to end: which is which, sizes tell.
    let script = "
        disk() { basename $(dirname $(grep -lx $1 /sys/block/sd?/size)); }
        a=$(disk 6144); b=$(disk 10240); c=$(disk 14336)
        say names $(ls -d /sys/block/sd?)
        for d in $a $b $c; do say size $(sha256sum < /dev/$d); done
        say cd $(cat /sys/block/sr0/size) $(sha256sum < /dev/sr0)
        seq 1 400000 > /tmp/f
        dd if=/tmp/f of=/dev/$a bs=64k seek=1 conv=notrunc,fsync 2> /dev/null
        dd if=/tmp/f of=/dev/$c bs=1000 count=1000 seek=3000 conv=notrunc,fsync 2> /dev/null
        echo 3 > /proc/sys/vm/drop_caches
        for d in $a $c; do say now $(sha256sum < /dev/$d); done
        say done";
    // The second time without DMA: every byte goes through the data register.
    for (extra, mode) in [("", "dma"), (" libata.dma=0", "pio")] {
        let mut spec = linux.spec(script).unwrap();
        spec.cmdline.push_str(extra);
        spec.disks = disks.iter().map(|d| Disk::open_raw(d, Access::ReadWrite).unwrap().on(DiskBus::Ide)).collect();
        spec.cds = vec![Cd::open(&cd).unwrap()];
        let before: Vec<Vec<u8>> = disks.iter().map(|d| std::fs::read(d).unwrap()).collect();
        let mut session = Session::start(spec).unwrap();
        assert_eq!(session.expect("names").unwrap(), "/sys/block/sda /sys/block/sdb /sys/block/sdc");
        for bytes in &before {
            assert_eq!(session.expect("size").unwrap(), format!("{} -", sha256(bytes)), "{mode}");
        }
        assert_eq!(session.expect("cd").unwrap(), format!("{} {} -", disc.len() / 512, sha256(&disc)), "{mode}");
        let told = [session.expect("now").unwrap(), session.expect("now").unwrap()];
        session.expect("done").unwrap();
        assert_eq!(session.end().unwrap(), StopReason::PowerOff);
        // What the guest reads back is what the files hold, and that is what was to be written.
        let text: Vec<u8> = (1..=400_000u32).flat_map(|n| format!("{n}\n").into_bytes()).collect();
        let mut wanted = before;
        wanted[0][64 << 10..(64 << 10) + text.len()].copy_from_slice(&text);
        wanted[2][3_000_000..4_000_000].copy_from_slice(&text[..1_000_000]);
        for (path, bytes) in disks.iter().zip(&wanted) {
            assert!(std::fs::read(path).unwrap() == *bytes, "{} after {mode}", path.display());
        }
        assert_eq!(told, [format!("{} -", sha256(&wanted[0])), format!("{} -", sha256(&wanted[2]))]);
        assert_eq!(std::fs::read(&cd).unwrap(), disc);
    }
}

/// An image of ours, mounted by Linux.
#[test]
fn images_of_ours_are_mounted() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, iso) = (dir.path().join("tree"), dir.path().join("x.iso"));
    std::fs::create_dir_all(tree.join("a directory/below")).unwrap();
    let files = ["Ünïcode name, rather long but still a name of a file", "a directory/below/x", "big"];
    for (i, name) in files.iter().enumerate() {
        std::fs::write(tree.join(name), pattern(100_000 * (i + 1), i as u64)).unwrap();
    }
    std::os::unix::fs::symlink("a directory/below/x", tree.join("link")).unwrap();
    let options = MakeOptions { label: "LABEL".into(), ..MakeOptions::default() };
    visor_iso::make(&tree, &iso, &options).unwrap();
    let linux = Linux::new(KERNEL, &MODULES).unwrap();
    let script = "
        mount -t iso9660 -o ro,utf8 /dev/sr0 /mnt && cd /mnt
        for f in U* link big; do say sum $(sha256sum < \"$f\"); done
        say link $(readlink link)
        cd /; umount /mnt; mount -t iso9660 -o ro,norock /dev/sr0 /mnt && say joliet $(ls /mnt | grep -c rather)
        touch /mnt/x 2> /dev/null || say read-only
        say done";
    let mut spec = linux.spec(&script.replace("U*", "*rather*")).unwrap();
    spec.cds = vec![Cd::open(&iso).unwrap()];
    let mut session = Session::start(spec).unwrap();
    for (i, _) in files.iter().enumerate() {
        let expected = format!("{} -", sha256(&pattern(100_000 * (i + 1), i as u64)));
        assert_eq!(session.expect("sum").unwrap(), expected);
    }
    assert_eq!(session.expect("link").unwrap(), "a directory/below/x");
    assert_eq!(session.expect("joliet").unwrap(), "1");
    session.expect("read-only").unwrap();
    session.expect("done").unwrap();
    assert_eq!(session.end().unwrap(), StopReason::PowerOff);
}

fn locked(machine: &Machine) -> bool {
    machine.trays()[0].state().locked
}

/// Discs come and go while the guest runs; it holds on to one, gives it up, and loses one.
#[test]
fn discs_are_changed_under_a_running_guest() {
    let dir = tempfile::tempdir().unwrap();
    let discs = [1, 2, 3].map(|n| pattern(n * MIB, 40 + n as u64));
    let paths = [0, 1, 2].map(|n| file(dir.path(), &format!("disc{n}.iso"), &discs[n]));
    let disc = |n: usize| Cd::open(&paths[n]).unwrap().disc.unwrap();
    let linux = Linux::new(KERNEL, &MODULES).unwrap();
    let script = "
        say first $(sha256sum < /dev/sr0)
        exec 3< /dev/sr0; say open; read word < /dev/ttyS0
        exec 3<&-; say closed; read word < /dev/ttyS0
        say second $(cat /sys/block/sr0/size) $(sha256sum < /dev/sr0) $(cat /sys/block/sr0/size)
        echo 1 > /proc/sys/dev/cdrom/autoeject
        dd if=/dev/sr0 of=/dev/null bs=2048 count=1 2> /dev/null
        say ejected; read word < /dev/ttyS0
        echo 0 > /proc/sys/dev/cdrom/autoeject
        say third $(sha256sum < /dev/sr0)
        exec 3< /dev/sr0; say open; read word < /dev/ttyS0
        echo 3 > /proc/sys/vm/drop_caches
        dd if=/dev/sr0 of=/dev/null bs=2048 count=1 2> /dev/null; say after $?
        say done";
    let mut spec = linux.spec(script).unwrap();
    spec.cds = vec![Cd::open(&paths[0]).unwrap()];
    let mut session = Session::start(spec).unwrap();
    let tray = session.machine().trays()[0].clone();
    let sum = |n: usize| format!("{} -", sha256(&discs[n]));
    assert_eq!(session.expect("first").unwrap(), sum(0));
    session.expect("open").unwrap();
    assert!(locked(session.machine()), "an open disc is locked");
    assert_eq!(tray.eject(false), EjectOutcome::Requested);
    assert_eq!(tray.state().disc.as_deref(), Some("disc0.iso"));
    session.tell("").unwrap();
    session.expect("closed").unwrap();
    until("the guest unlocks", || !locked(session.machine()));
    assert_eq!(tray.eject(false), EjectOutcome::Ejected);
    let (second, name) = disc(1);
    tray.insert(second.clone(), &name).unwrap();
    assert_eq!(tray.insert(second, "again"), Err(TrayError::Occupied));
    session.tell("").unwrap();
    let told = session.expect("second").unwrap();
    assert_eq!(told.split_once(' ').unwrap().1, format!("{} {}", sum(1), discs[1].len() / 512));
    session.expect("ejected").unwrap();
    assert!(tray.state().open, "the guest opens the tray");
    assert_eq!(tray.eject(false), EjectOutcome::Ejected);
    let (third, name) = disc(2);
    tray.insert(third, &name).unwrap();
    session.tell("").unwrap();
    assert_eq!(session.expect("third").unwrap(), sum(2));
    session.expect("open").unwrap();
    assert_eq!(tray.eject(true), EjectOutcome::Ejected, "the lock is overcome");
    session.tell("").unwrap();
    assert_eq!(session.expect("after").unwrap(), "1", "there is nothing to read any more");
    session.expect("done").unwrap();
    assert_eq!(session.end().unwrap(), StopReason::PowerOff);
    assert!(paths.iter().zip(&discs).all(|(p, d)| std::fs::read(p).unwrap() == *d));
}
