//! Systems of others, unmodified, out of Debian's packages: memory tester, boot loaders, kernels other than Linux, a hypervisor, and
//! Debian's installer. Each boots as on a PC, and is known by what it shows.
#![allow(missing_docs, clippy::unwrap_used, dead_code)]

#[path = "common/boot.rs"]
mod boot;
mod common;

use std::path::{Path, PathBuf};

use boot::BootSector;
use common::{file, run, stderr, stdout, visor};
use visor_image::{ImageStore, Silent, Unpacked};

/// Many times what any of them needs.
const LIMIT: &str = "1200s";

fn packages(names: &[&str]) -> Unpacked {
    Unpacked::get(&ImageStore::open(&ImageStore::default_directory()), names, &mut Silent).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn place(name: &str) -> PathBuf {
    file(name, b"")
}

/// Boots a machine, follows `keys` until they or the guest end it, and gives the text of its screen.
fn screen(name: &str, args: &[&str], keys: &[&str]) -> String {
    let words = place(&format!("{name}.txt"));
    let mut all = vec!["run", "--engine", "soft", "--timeout", LIMIT, "--screen-text", text(&words)];
    all.extend(args);
    keys.iter().for_each(|k| all.extend(["--keys", k]));
    let out = run(&all);
    let said = std::fs::read_to_string(&words).unwrap();
    assert_eq!(out.status.code(), Some(0), "{name}: {}\nits screen:\n{said}", stderr(&out));
    said
}

/// Empty directory for files that a guest fetches.
fn directory(name: &str) -> PathBuf {
    let dir = place(&format!("{name}.marker")).with_file_name(name);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

#[test]
fn memtest_finds_all_memory_and_tests_it() {
    let iso = packages(&["memtest86+"]).directory().join("usr/lib/memtest86+/memtest86+x64.iso");
    let said = screen("memtest", &["--iso", text(&iso), "--memory", "64M", "--net", "none"], &["wait:Test #1", "end"]);
    let line = |word: &str| said.lines().find(|l| l.contains(word)).unwrap_or_else(|| panic!("no {word}: {said}"));
    assert!(line("Memtest86+").contains("visor virtual CPU"), "{said}");
    assert!(line("Memory").contains("64MB"), "{said}");
    assert!(line("Errors").contains("Errors: 0"), "{said}");
    assert!(said.contains("CPU: 1 Cores 1 Threads"), "{said}");
}

/// GRUB from its own disc, which reads a disk, boots a kernel that is not Linux, and on another day switches the machine off by
/// the ACPI tables.
#[test]
fn grub_reaches_its_prompt_and_boots_gnu_mach() {
    let packages = packages(&["grub-rescue-pc", "gnumach-image-1.8-486"]);
    let iso = packages.directory().join("usr/lib/grub-rescue/grub-rescue-cdrom.iso");
    let tree = directory("mach");
    std::fs::copy(packages.directory().join("boot/gnumach-1.8-486.gz"), tree.join("mach.gz")).unwrap();
    let disk = tree.with_file_name("mach.iso");
    let _ = std::fs::remove_file(&disk);
    assert!(run(&["-q", "iso", "make", text(&tree), "-o", text(&disk)]).status.success());
    let disk = format!("{},ro", text(&disk));
    let args = ["--iso", text(&iso), "--boot", "cd,disk", "--memory", "64M", "--net", "none", "--disk", &disk];
    let prompt = ["wait:GNU GRUB", "press:c", "wait:grub>"];
    let off = screen("grub", &args, &[&prompt[..], &["type:ls\\n", "wait:(hd0)", "type:halt\\n"]].concat());
    assert!(off.contains("grub> ls"), "{off}");
    let boot = ["type:multiboot (hd0)/mach.gz\\nboot\\n", "wait:No bootstrap code", "end"];
    let scsi = [&args[..], &["--bus", "scsi"]].concat();
    for (name, args) in [("mach", &args[..]), ("mach-scsi", &scsi)] {
        let said = screen(name, args, &[&prompt[..], &boot].concat());
        // It has set up paging and its devices; without the programs of the Hurd there is nothing for it to start.
        for words in ["GNU Mach 1.8", "vm_page: DMA32", "panic"] {
            assert!(said.contains(words), "{name}: no {words} in {said}");
        }
    }
}

/// A hypervisor of the first type, and Linux as its first guest.
#[test]
fn xen_runs_linux() {
    let packages = packages(&["xen-hypervisor-4.17-amd64", "linux-image-cloud-amd64"]);
    let xen = packages.directory().join("boot/xen-4.17-amd64.gz");
    let append = "placeholder com1=115200,8n1 console=com1 loglvl=all dom0_mem=160M noreboot";
    let mut child = visor(&["run", "--engine", "soft", "--timeout", LIMIT, "--memory", "384M", "--net", "none"])
        .args(["--kernel", text(&xen), "--initrd", text(&packages.kernel().unwrap()), "--append", append])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    for line in lines.map_while(Result::ok) {
        said += &format!("{line}\n");
        // Linux says this, through its hypervisor.
        if line.contains("about to get started") {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    for words in
        ["Xen version 4.17", "*** Building a PV Dom0 ***", "mapping kernel into physical memory", "about to get"]
    {
        assert!(said.contains(words), "no {words} in {said}");
    }
}

/// iPXE out of the network card's option ROM fetches a program through visor's own translator and enters it.
#[test]
fn ipxe_boots_from_the_network() {
    let dir = directory("netboot");
    let sector = BootSector::new().print("[fetched by TFTP]\r\n").power_off();
    std::fs::write(dir.join("program"), &sector.disk("")[..512]).unwrap();
    for nic in ["virtio", "e1000"] {
        let args = ["--boot", "net", "--firmware", "bios", "--memory", "64M", "--nic", nic, "--tftp", text(&dir)];
        let said = screen(&format!("ipxe-{nic}"), &[&args[..], &["--bootfile", "program"]].concat(), &[]);
        for words in [
            "iPXE 1.0.0",
            "Open Source Network Boot Firmware",
            "net0: 10.0.2.15/255.255.255.0 gw 10.0.2.2",
            "tftp://10.0.2.2/program... ok",
            "[fetched by TFTP]",
        ] {
            assert!(said.contains(words), "{nic}: no {words} in {said}");
        }
    }
}

/// Debian's own installer, fetched from the network by iPXE, comes to its first dialog.
#[test]
fn debian_installer_shows_its_first_dialog() {
    let packages = packages(&["debian-installer-12-netboot-amd64"]);
    let images = "usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64";
    let dir = directory("installer");
    for name in ["linux", "initrd.gz"] {
        let (from, to) = (packages.directory().join(images).join(name), dir.join(name));
        std::fs::hard_link(&from, &to).or_else(|_| std::fs::copy(&from, &to).map(|_| ())).unwrap();
    }
    std::fs::write(dir.join("boot.ipxe"), "#!ipxe\nkernel linux fb=false\ninitrd initrd.gz\nboot\n").unwrap();
    let shot = place("installer.png");
    let args = ["--firmware", "bios", "--boot", "net", "--memory", "1G", "--tftp", text(&dir)];
    let more = ["--bootfile", "boot.ipxe", "--screenshot", text(&shot)];
    let keys = ["wait:Select a language", "wait:<Go Back>", "sleep:1s", "end"];
    let said = screen("installer", &[&args[..], &more].concat(), &keys);
    assert!(said.contains("Choose the language to be used for the installation process."), "{said}");
    // The head of the dialog, as it was seen once: its frame, its title, its question. The list below it changes with versions.
    let (golden, seen) =
        (picture(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/installer.png"))), picture(&shot));
    assert_eq!((seen.0, golden.0, golden.1), (1024, 1024, 120));
    let from = 104 * 1024;
    let differ = golden.2.iter().zip(&seen.2[from..]).filter(|(a, b)| a != b).count();
    assert_eq!(differ, 0, "pixels of the dialog's head in {}", shot.display());
}

/// Width, height and pixels of a PNG file.
fn picture(path: &Path) -> (u32, u32, Vec<[u8; 3]>) {
    let file = std::io::BufReader::new(std::fs::File::open(path).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut data = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut data).unwrap();
    assert_eq!(info.color_type, png::ColorType::Rgb);
    (info.width, info.height, data.chunks_exact(3).map(|p| [p[0], p[1], p[2]]).collect())
}

/// Nothing to fetch: iPXE says why, the BIOS what is left, and visor what was tried.
#[test]
fn a_network_without_a_boot_file_is_told_of() {
    let words = place("nonet.txt");
    let args =
        ["run", "--engine", "soft", "--timeout", LIMIT, "--boot", "net", "--firmware", "bios", "--memory", "64M"];
    let out = run(&[&args[..], &["--screen-text", text(&words)]].concat());
    let said = std::fs::read_to_string(&words).unwrap();
    assert_eq!(out.status.code(), Some(125), "{said}");
    assert!(said.contains("Nothing to boot") && said.contains("No bootable device."), "{said}");
    assert!(stderr(&out).contains("tried: net network nat"), "{}", stderr(&out));
    assert!(stderr(&out).contains("--tftp"), "{}", stderr(&out));
    for (args, why) in [
        (&["--net", "none", "--boot", "net", "--firmware", "bios"][..], "--boot net needs a network"),
        (&["--bootfile", "x", "--firmware", "bios"], "nobody serves the boot file x"),
        (&["--tftp", "/nowhere", "--firmware", "bios"], "cannot serve the files below /nowhere"),
        (&["--tftp", "/", "--bootfile", "no/such", "--firmware", "bios"], "there is no file no/such below /"),
    ] {
        let out = run(&[&["run"][..], args].concat());
        assert!(stderr(&out).contains(why), "{args:?}: {}", stderr(&out));
        assert_eq!(out.status.code(), Some(125), "{args:?}");
    }
    assert_eq!(stdout(&run(&["run", "--firmware", "bios", "--net", "none", "--bootfile", "x"])), "");
}
