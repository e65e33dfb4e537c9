//! The KVM engine on a real `kvm_amd`, on hosts without hardware virtualization: QEMU's software engine emulates a processor
//! with SVM, Debian's kernel in that machine loads its own KVM modules, and visor runs in there.
//!
//! The machine's only file system is an initramfs made here: busybox, three kernel modules, visor, the conformance suite with the
//! libraries they need, and a kernel with a tiny initramfs for visor to boot. Packages come from the host's apt.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::shell::{cargo, root, step};

/// Longest run of the whole machine; 20 times what it takes on a quiet host.
const LIMIT: Duration = Duration::from_secs(1800);

/// PID 1 of the outer machine.
const OUTER_INIT: &str = r#"#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp
for m in irqbypass kvm kvm-amd; do insmod /$m.ko || echo "no module $m"; done
grep -m1 -o svm /proc/cpuinfo
export HOME=/tmp VISOR_GUEST_SECONDS=300
if [ -n "$(cat /guest)" ]; then export VISOR_GUEST="$(cat /guest)"; fi
/conformance --nocapture --test-threads 1; echo "SVM-RESULT conformance $?"
/visor -q run --engine kvm --kernel /inner-kernel --initrd /inner --memory 256M --timeout 600s --no-reboot \
    --append "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check"; echo "SVM-RESULT linux $?"
/visor -q run --engine kvm --kernel /inner-kernel --initrd /inner --memory 256M --cpus 2 --iommu --timeout 600s --no-reboot \
    --append "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check intel_iommu=on"; echo "SVM-RESULT linux-smp-iommu $?"
poweroff -f
"#;

/// PID 1 of the guest that visor boots.
const INNER_INIT: &str = r#"#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
echo "INNER-READY $(uname -r) with $(grep -c ^processor /proc/cpuinfo) CPUs after $(cut -d' ' -f1 /proc/uptime) s"
a=$(cut -d. -f1 /proc/uptime); sleep 2; b=$(cut -d. -f1 /proc/uptime)
[ $((b - a)) -ge 2 ] && echo "INNER-TIMER works"
grep -E "timer|IR-" /proc/interrupts | head -3
poweroff -f
"#;

/// Builds, packs, runs and judges. `guest` restricts the conformance programs to names that contain it.
pub(crate) fn run(guest: &str) -> anyhow::Result<()> {
    let dir = root().join("target/kvm-svm");
    fs::create_dir_all(&dir)?;
    step("build visor", &mut cargo(&["build", "--release", "--locked", "--package", "visor"]))?;
    let suite = conformance()?;
    let packages = packages(&dir)?;
    let kernel = find(&packages.join("boot"), "vmlinuz-")?;
    let inner = inner(&dir, &packages)?;
    let outer = outer(&dir, &packages, &suite, &kernel, &inner, guest)?;
    judge(&boot(&kernel, &outer)?)
}

/// Path of the conformance suite's test program.
fn conformance() -> anyhow::Result<PathBuf> {
    let args = ["test", "--release", "--locked", "--no-run", "--message-format", "json"];
    let mut command = cargo(&args);
    command.args(["--package", "visor-test-guests", "--test", "kvm"]);
    let output = command.stderr(Stdio::inherit()).output()?;
    let program = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| Some(PathBuf::from(message.get("executable")?.as_str()?)))
        .next_back();
    program.context("cargo built no test program")
}

/// Debian's kernel and busybox, unpacked.
fn packages(dir: &Path) -> anyhow::Result<PathBuf> {
    let unpacked = dir.join("packages");
    if unpacked.join("bin/busybox").exists() {
        return Ok(unpacked);
    }
    let depends = Command::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]).output()?;
    let depends = String::from_utf8_lossy(&depends.stdout).into_owned();
    let image = depends
        .lines()
        .filter_map(|l| l.trim().strip_prefix("Depends: "))
        .find(|p| p.starts_with("linux-image-"))
        .context("apt knows no linux-image-cloud-amd64 (apt-get update)")?;
    step("fetch packages", Command::new("apt-get").args(["download", image, "busybox-static"]).current_dir(dir))?;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "deb") {
            step("unpack", Command::new("dpkg-deb").arg("-x").arg(&path).arg(&unpacked))?;
            fs::remove_file(path)?;
        }
    }
    Ok(unpacked)
}

/// The file below `dir` whose name begins with `prefix`.
fn find(dir: &Path, prefix: &str) -> anyhow::Result<PathBuf> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        let matches = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix));
        if path.is_dir() {
            if let Ok(found) = find(&path, prefix) {
                return Ok(found);
            }
        } else if matches {
            return Ok(path);
        }
    }
    bail!("no {prefix} in {}", dir.display())
}

/// A root directory with busybox and `init`.
fn skeleton(at: &Path, packages: &Path, init: &str) -> anyhow::Result<()> {
    let _ = fs::remove_dir_all(at);
    for d in ["bin", "sbin", "proc", "sys", "dev", "tmp", "lib64", "lib/x86_64-linux-gnu"] {
        fs::create_dir_all(at.join(d))?;
    }
    fs::copy(packages.join("bin/busybox"), at.join("bin/busybox"))?;
    for applet in ["sh", "mount", "insmod", "poweroff", "cat", "cut", "grep", "head", "sleep", "uname"] {
        std::os::unix::fs::symlink("busybox", at.join("bin").join(applet))?;
    }
    fs::write(at.join("init"), init)?;
    executable(&at.join("init"))
}

fn executable(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

/// Packs a directory as an initramfs.
fn pack(from: &Path, to: &Path) -> anyhow::Result<()> {
    let script = "find . -print0 | cpio --null --quiet -o -H newc | gzip -1 > \"$0\"";
    step("pack", Command::new("sh").args(["-c", script]).arg(to).current_dir(from))
}

fn inner(dir: &Path, packages: &Path) -> anyhow::Result<PathBuf> {
    let (tree, packed) = (dir.join("inner"), dir.join("inner.cpio.gz"));
    skeleton(&tree, packages, INNER_INIT)?;
    pack(&tree, &packed)?;
    Ok(packed)
}

fn outer(
    dir: &Path,
    packages: &Path,
    suite: &Path,
    kernel: &Path,
    inner: &Path,
    guest: &str,
) -> anyhow::Result<PathBuf> {
    let (tree, packed) = (dir.join("outer"), dir.join("outer.cpio.gz"));
    skeleton(&tree, packages, OUTER_INIT)?;
    for module in ["irqbypass.ko", "kvm.ko", "kvm-amd.ko"] {
        fs::copy(find(&packages.join("lib/modules"), module)?, tree.join(module))?;
    }
    let visor = root().join("target/release/visor");
    for (from, to) in [(visor.as_path(), "visor"), (suite, "conformance")] {
        let to = tree.join(to);
        step("strip", Command::new("strip").arg("-o").arg(&to).arg(from))?;
        libraries(from, &tree)?;
    }
    fs::copy(kernel, tree.join("inner-kernel"))?;
    fs::copy(inner, tree.join("inner"))?;
    fs::write(tree.join("guest"), guest)?;
    pack(&tree, &packed)?;
    Ok(packed)
}

/// Copies the shared libraries of `program`, as ldd lists them.
fn libraries(program: &Path, tree: &Path) -> anyhow::Result<()> {
    let listed = Command::new("ldd").arg(program).output()?;
    for word in String::from_utf8_lossy(&listed.stdout).split_whitespace().filter(|w| w.starts_with('/')) {
        let to = tree.join(word.trim_start_matches('/'));
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::copy(word, to)?;
    }
    Ok(())
}

/// Runs the outer machine and returns what it printed.
fn boot(kernel: &Path, initrd: &Path) -> anyhow::Result<String> {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args([
        "-M",
        "pc",
        "-accel",
        "tcg",
        "-cpu",
        "max,+svm",
        "-m",
        "2048",
        "-smp",
        "2",
        "-nodefaults",
        "-no-user-config",
    ]);
    qemu.args(["-display", "none", "-serial", "stdio", "-no-reboot"]);
    qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd).args(["-append", "console=ttyS0 quiet panic=-1"]);
    let mut machine = qemu
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("qemu-system-x86_64 is not installed (apt-get install qemu-system-x86)")?;
    let output = machine.stdout.take().context("no output")?;
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let _ = send.send(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
    });
    let (end, mut text) = (Instant::now() + LIMIT, String::new());
    while let Ok(line) = receive.recv_timeout(end.saturating_duration_since(Instant::now())) {
        println!("{line}");
        text.push_str(&line);
        text.push('\n');
    }
    let _ = machine.kill();
    machine.wait()?;
    Ok(text)
}

/// Whether everything in `text` went well.
fn judge(text: &str) -> anyhow::Result<()> {
    let results: Vec<&str> = text.lines().filter_map(|l| l.split_once("SVM-RESULT ").map(|(_, r)| r)).collect();
    println!("--- {}", results.join(", "));
    let boots = text.matches("INNER-READY").count();
    let timers = text.matches("INNER-TIMER works").count();
    if results.len() != 3 || !results[0].ends_with(" 0") || boots != 2 || timers != 2 {
        bail!("the KVM engine does not work as it should on kvm_amd");
    }
    Ok(())
}
