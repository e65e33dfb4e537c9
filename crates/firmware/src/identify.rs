//! What a file is, judged by its content alone.

use crate::bzimage;
use crate::elf::{self, Elf};
use crate::error::{BootError, BootErrorKind};
use crate::multiboot;
use crate::pvh;

/// What a kernel is and how it is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelKind {
    /// Linux bzImage.
    BzImage {
        /// Boot protocol version, major in the high byte.
        protocol: u16,
        /// Unpacked on the host and entered at its vmlinux.
        unpacked: bool,
    },
    /// ELF with a PVH entry point.
    Pvh,
    /// Multiboot kernel.
    Multiboot,
    /// Linux vmlinux (ELF) with its 64-bit entry.
    Vmlinux,
}

impl std::fmt::Display for KernelKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            KernelKind::BzImage { protocol, unpacked } => {
                let how = if *unpacked { ", unpacked by the host" } else { "" };
                write!(f, "Linux bzImage (boot protocol {}.{:02}{how})", protocol >> 8, protocol & 0xff)
            }
            KernelKind::Pvh => f.write_str("ELF kernel with PVH entry"),
            KernelKind::Multiboot => f.write_str("Multiboot kernel"),
            KernelKind::Vmlinux => f.write_str("Linux vmlinux"),
        }
    }
}

/// What kind of kernel the file is.
///
/// # Errors
/// [`BootErrorKind::NotAKernel`] with a description of what the file is instead, or that of a damaged kernel.
pub fn identify(data: &[u8]) -> Result<KernelKind, BootError> {
    if let Some(protocol) = bzimage::protocol(data) {
        return Ok(KernelKind::BzImage { protocol, unpacked: false });
    }
    if multiboot::find_header(data).is_some() {
        return Ok(KernelKind::Multiboot);
    }
    if elf::is_elf(data) {
        let elf = Elf::parse(data)?;
        if pvh::entry(&elf).is_some() {
            return Ok(KernelKind::Pvh);
        }
        if is_vmlinux(&elf) {
            return Ok(KernelKind::Vmlinux);
        }
    }
    Err(not_a_kernel(data))
}

/// What a file is, as a noun phrase for messages: "a qcow2 disk image".
pub fn describe(data: &[u8]) -> String {
    if data.is_empty() {
        return "an empty file".into();
    }
    if elf::is_elf(data) {
        return describe_elf(data);
    }
    let known = SIGNATURES.iter().find(|(at, magic, _)| data.get(*at..).is_some_and(|d| d.starts_with(magic)));
    if let Some((_, _, name)) = known {
        return (*name).into();
    }
    if data.iter().take(512).all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace()) {
        return "a text file".into();
    }
    if data.iter().take(4096).all(|&b| b == 0) {
        return "a file that begins with zeroes".into();
    }
    "data of an unknown format".into()
}

/// Signatures by offset; more specific ones first.
const SIGNATURES: &[(usize, &[u8], &str)] = &[
    (0, b"#!", "a script"),
    (0, b"\x1f\x8b", "gzip-compressed data"),
    (0, b"\xfd7zXZ\0", "xz-compressed data"),
    (0, b"\x28\xb5\x2f\xfd", "zstd-compressed data"),
    (0, b"BZh", "bzip2-compressed data"),
    (0, b"\x02\x21\x4c\x18", "LZ4-compressed data"),
    (0, b"\x04\x22\x4d\x18", "LZ4-compressed data"),
    (0, b"070701", "a cpio archive (an initial ramdisk)"),
    (0, b"070702", "a cpio archive (an initial ramdisk)"),
    (0, b"QFI\xfb", "a qcow2 disk image"),
    (0, b"KDMV", "a VMDK disk image"),
    (0, b"vhdxfile", "a VHDX disk image"),
    (0, b"hsqs", "a squashfs file system"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"!<arch>\n", "an ar archive (a Debian package or a static library)"),
    (0, b"\xed\xab\xee\xdb", "an RPM package"),
    (0, b"\xd0\x0d\xfe\xed", "a device tree"),
    (0, b"\x27\x05\x19\x56", "a U-Boot image"),
    (0x38, b"ARM\x64", "a Linux kernel for 64-bit ARM"),
    (0x30, b"RISCV\0\0\0", "a Linux kernel for RISC-V"),
    (0x8001, b"CD001", "an ISO 9660 image"),
    (257, b"ustar", "a tar archive"),
    (0x438, b"\x53\xef", "an ext2, ext3 or ext4 file system"),
    (0, b"MZ", "a Windows or EFI program"),
    (510, b"\x55\xaa", "a disk image or boot sector"),
];

fn describe_elf(data: &[u8]) -> String {
    let Ok(elf) = Elf::parse(data) else { return "a damaged ELF file".into() };
    let arch = match elf.machine {
        elf::EM_386 => "32-bit x86",
        elf::EM_X86_64 => "x86-64",
        40 => "32-bit ARM",
        183 => "64-bit ARM",
        243 => "RISC-V",
        8 => "MIPS",
        20 | 21 => "PowerPC",
        22 => "S/390",
        m => return format!("an ELF file for machine {m}"),
    };
    if elf.segments.iter().any(|s| s.kind == elf::PT_INTERP) {
        return format!("a dynamically linked {arch} program");
    }
    match elf.kind {
        1 => format!("an {arch} object file"),
        3 => format!("an {arch} shared library or program"),
        4 => format!("an {arch} core dump"),
        _ => format!("an {arch} ELF executable without a boot protocol"),
    }
}

/// Linux's vmlinux: linked high, loaded low.
fn is_vmlinux(elf: &Elf<'_>) -> bool {
    elf.is_64
        && elf.machine == elf::EM_X86_64
        && elf.kind == elf::ET_EXEC
        && elf.loads().next().is_some_and(|s| s.vaddr >> 31 == 0x1_ffff_ffff && s.paddr < 1 << 32)
        && elf.loads().any(|s| s.paddr <= elf.entry && elf.entry - s.paddr < s.filesz)
}

fn not_a_kernel(data: &[u8]) -> BootError {
    let what = describe(data);
    BootError::new(BootErrorKind::NotAKernel, format!("the kernel file is not a kernel for PCs but {what}"))
        .hint("a kernel is a Linux bzImage (such as /boot/vmlinuz), an ELF file with a PVH entry, or a Multiboot image")
}
