//! Kernel and initial ramfs of the stress guest.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use visor_image::Unpacked;

use super::{sets, work};
use crate::ramfs::Ramfs;
use crate::{BUSYBOX, KERNEL, cc, packages, sources};

/// Modules that come and go: text with alternatives, crypto that tests itself when it is loaded, devices.
const MODULES: &[&str] = &[
    "dummy",
    "veth",
    "loop",
    "brd",
    "zram",
    "nbd",
    "null_blk",
    "raid6_pq",
    "xor",
    "libcrc32c",
    "crc32c_intel",
    "crc32_pclmul",
    "chacha_x86_64",
    "sha256_ssse3",
    "aesni_intel",
    "xt_bpf",
    "cls_bpf",
    "tun",
    "bridge",
    "overlay",
    "xfs",
    "squashfs",
    "vfat",
];
/// What the small compiler needs: itself, the C library, its headers and the kernel's.
const TCC: &[&str] = &["tcc", "libc6", "libc6-dev", "linux-libc-dev"];

/// What a guest is to hold beside the programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// The real compiler: a hundred megabytes of memory.
    pub gcc: bool,
}

/// A guest's files.
#[derive(Clone, Debug)]
pub struct Guest {
    /// The kernel, a bzImage.
    pub kernel: PathBuf,
    /// The initial ramfs.
    pub initrd: PathBuf,
}

impl Guest {
    /// Makes a guest in `directory`.
    ///
    /// # Errors
    /// If packages cannot be fetched, or a program cannot be compiled.
    pub fn make(directory: &Path, contents: Contents) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        let base = packages(&[KERNEL, BUSYBOX])?;
        let mut ramfs = Ramfs::new();
        ramfs.program("init", std::fs::read(sources("stress/init"))?);
        ramfs.copy("bin/busybox", &base.directory().join("bin/busybox"))?;
        ramfs.link("bin/sh", "busybox");
        ramfs.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n".to_vec());

        let (wide, narrow) = (directory.join("stress"), directory.join("stress32"));
        let files = cc::files(&sources("stress"))?;
        cc::compile(&files, &["-mno-red-zone", "-no-pie"], &wide)?;
        narrow_program(&files, &narrow)?;
        let both: Vec<&str> = sets::tests_64(&[]).into_iter().chain(sets::LONG_64.iter().copied()).collect();
        knows(&wide, &both)?;
        knows(&narrow, &sets::tests_32(&[]))?;
        ramfs.copy("bin/stress", &wide)?;
        ramfs.copy("bin/stress32", &narrow)?;

        modules(&base, &mut ramfs)?;
        compilers(contents, directory, &mut ramfs)?;
        let initrd = directory.join("initrd.cpio");
        ramfs.write_file(&initrd)?;
        Ok(Guest { kernel: base.kernel()?, initrd })
    }
}

/// The programs without what only 64-bit kernels' own interfaces have, as a 32-bit program. Library and start-up files are Debian's,
/// for the host's version of gcc.
fn narrow_program(files: &[PathBuf], output: &Path) -> anyhow::Result<()> {
    let version = Command::new("gcc").arg("-dumpversion").output().context("gcc")?;
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    let major = version.split('.').next().unwrap_or_default();
    let gcc = format!("lib32gcc-{major}-dev");
    let packages = packages(&["libc6-dev", "linux-libc-dev", "libc6-dev-i386", &gcc])?;
    let root = packages.directory().display();
    let only_64 = ["trace.c", "bpf.c", "module.c"];
    let is_common = |f: &&PathBuf| !only_64.iter().any(|n| f.file_name().is_some_and(|name| name == *n));
    let common: Vec<PathBuf> = files.iter().filter(is_common).cloned().collect();
    let flags = [
        "-m32".to_owned(),
        "-msse2".to_owned(),
        "-no-pie".to_owned(),
        "-Wno-sign-compare".to_owned(),
        "-D_FILE_OFFSET_BITS=64".to_owned(),
        format!("--sysroot={root}"),
        format!("-isystem{root}/usr/include/x86_64-linux-gnu"),
        format!("-B{root}/usr/lib/gcc/x86_64-linux-gnu/{major}/32/"),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    cc::compile(&common, &flags, output)
}

/// The program has exactly these tests.
fn knows(program: &Path, tests: &[&str]) -> anyhow::Result<()> {
    let list = Command::new(program).arg("list").output().with_context(|| program.display().to_string())?;
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    let known: Vec<&str> = list.lines().collect();
    let missing: Vec<_> = tests.iter().filter(|t| !known.contains(t)).collect();
    let unlisted: Vec<_> = known.iter().filter(|t| !tests.contains(t)).collect();
    if !missing.is_empty() || !unlisted.is_empty() {
        bail!("{}: not in the program: {missing:?}; not in the sets: {unlisted:?}", program.display());
    }
    Ok(())
}

fn modules(base: &Unpacked, ramfs: &mut Ramfs) -> anyhow::Result<()> {
    let mut order = String::new();
    for file in base.modules(MODULES)? {
        let name = file.file_name().context("a module without name")?.to_string_lossy().into_owned();
        let path = format!("lib/modules/{name}");
        let bytes = std::fs::read(&file).with_context(|| file.display().to_string())?;
        // The kernel checks the first one's signature: a tenth of a second of arithmetic on an interpreter for each.
        let content = if order.is_empty() { &bytes[..] } else { without_signature(&bytes) };
        ramfs.file(&path, content.to_vec());
        order += &format!("/{path}\n");
    }
    ramfs.file("lib/modules/order", order.into_bytes());
    Ok(())
}

/// The module without what Linux (include/linux/module_signature.h) appends: signature, `struct module_signature` whose last four bytes
/// are the signature's length, big-endian, and a marker.
fn without_signature(module: &[u8]) -> &[u8] {
    let stripped = || {
        let (rest, info) = module.strip_suffix(b"~Module signature appended~\n")?.split_last_chunk::<12>()?;
        let length = u32::from_be_bytes(*info.last_chunk::<4>()?) as usize;
        rest.get(..rest.len().checked_sub(length)?)
    };
    stripped().unwrap_or(module)
}

/// Compilers, and what they shall compile with what the result shall print, as the host's gcc has it.
fn compilers(contents: Contents, directory: &Path, ramfs: &mut Ramfs) -> anyhow::Result<()> {
    let small = packages(TCC)?;
    for part in ["usr/include", "usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"] {
        ramfs.copy_all(part, &small.directory().join(part))?;
    }
    ramfs.copy("usr/bin/tcc", &small.directory().join("usr/bin/tcc"))?;
    ramfs.copy("lib64/ld-linux-x86-64.so.2", &small.directory().join("lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"))?;
    if contents.gcc {
        let real = packages(&[
            "gcc-12",
            "cpp-12",
            "libgcc-12-dev",
            "binutils",
            "binutils-common",
            "binutils-x86-64-linux-gnu",
            // Libraries of the assembler and the linker that are not in a section of libraries.
            "libbinutils",
            "libctf0",
            "libctf-nobfd0",
            "libc6-dev",
            "linux-libc-dev",
        ])?;
        for part in ["usr/bin", "usr/lib", "lib/x86_64-linux-gnu"] {
            ramfs.copy_all(part, &real.directory().join(part))?;
        }
        ramfs.link("usr/bin/gcc", "gcc-12");
    }
    let (source, program) = (directory.join("work.c"), directory.join("work"));
    std::fs::write(&source, work::source())?;
    cc::compile(std::slice::from_ref(&source), &["-ffp-contract=off"], &program)?;
    let out = Command::new(&program).output().with_context(|| program.display().to_string())?;
    ramfs.copy("root/work.c", &source)?;
    ramfs.file("root/work.out", out.stdout);
    Ok(())
}
