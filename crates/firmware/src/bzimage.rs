//! Linux bzImages (Documentation/arch/x86/boot.rst, "The Linux/x86 Boot Protocol").
//!
//! ```text
//! file:  | boot sector | setup sectors (real mode) | protected-mode kernel: stub, payload, stub |
//!        0            512          (setup_sects + 1) × 512
//! ```
//! The real-mode part is skipped: its header goes into `boot_params` and the CPU starts in the protected-mode part.

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use visor_x86::{CpuState, Gpr};
use vm_memory::ByteValued;

use crate::boot::{BootSource, claim};
use crate::elf::{le16, le32};
use crate::error::{BootError, BootErrorKind};
use crate::identify::KernelKind;
use crate::layout::RSDP;
use crate::ram::Ram;
use crate::{entry, unpack, vmlinux};

/// Offset of the setup header in the file and in `boot_params`.
const HEADER: usize = 0x1f1;
/// "HdrS".
const MAGIC: u32 = 0x5372_6448;
/// Where the protected-mode kernel is loaded.
const LOAD: u64 = 0x10_0000;
/// The 64-bit entry is this far into the protected-mode kernel.
const ENTRY64: u64 = 0x200;
/// `loadflags`: the protected-mode part goes to 1 MiB.
const LOADED_HIGH: u8 = 1;
/// `xloadflags`: there is a 64-bit entry.
const XLF_KERNEL_64: u16 = 1;

/// The boot protocol's version if the file looks like a Linux kernel image.
pub(crate) fn protocol(data: &[u8]) -> Option<u16> {
    (le16(data, 0x1fe)? == 0xaa55 && le32(data, 0x202)? == MAGIC).then(|| le16(data, 0x206))?
}

/// Loads a bzImage, unpacked if asked for and possible.
pub(crate) fn load(
    ram: &mut Ram<'_>,
    source: &BootSource<'_>,
    notes: &mut Vec<String>,
) -> Result<(CpuState, KernelKind), BootError> {
    let image = Image::parse(source.kernel)?;
    check_cmdline(source.cmdline, image.cmdline_max())?;
    let kind = |unpacked| KernelKind::BzImage { protocol: image.header.version, unpacked };
    if source.decompress {
        match unpack::vmlinux(image.payload()) {
            Ok(elf) => match vmlinux::load_unpacked(ram, source, &elf, image.header) {
                Ok(cpu) => return Ok((cpu, kind(true))),
                Err(e) if e.kind == BootErrorKind::Unsupported => notes.push(format!("kernel booted packed: {e}")),
                Err(e) => return Err(e),
            },
            Err(reason) => notes.push(format!("kernel booted packed: {reason}")),
        }
    }
    Ok((image.load(ram, source)?, kind(false)))
}

struct Image<'a> {
    header: setup_header,
    /// The protected-mode kernel.
    body: &'a [u8],
}

impl<'a> Image<'a> {
    fn parse(data: &'a [u8]) -> Result<Self, BootError> {
        let header = read_header(data)?;
        let version = header.version;
        if version < 0x206 || header.loadflags & LOADED_HIGH == 0 {
            return Err(BootError::new(
                BootErrorKind::Unsupported,
                format!(
                    "the kernel uses Linux boot protocol {}.{:02}; 2.06 or later is needed",
                    version >> 8,
                    version & 0xff
                ),
            )
            .hint("use Linux 2.6.22 or later"));
        }
        let sectors = if header.setup_sects == 0 { 4 } else { usize::from(header.setup_sects) };
        let start = (sectors + 1) * 512;
        // `syssize` counts 16-byte paragraphs of the protected-mode kernel; trailing signatures are not part of it.
        let len = header.syssize as usize * 16;
        let body = data.get(start..).unwrap_or_default();
        // The file may lack the padding of the last paragraph.
        if body.len() + 15 < len || body.len() < ENTRY64 as usize + 16 {
            return Err(BootError::truncated("the protected-mode kernel", (start + len) as u64, data.len() as u64));
        }
        Ok(Image { header, body: body.get(..len).unwrap_or(body) })
    }

    fn cmdline_max(&self) -> u64 {
        self.header.cmdline_size.into()
    }

    /// The compressed kernel, if the header tells where it is (protocol 2.08).
    fn payload(&self) -> Option<&'a [u8]> {
        let from = self.header.payload_offset as usize;
        let range = from..from.checked_add(self.header.payload_length as usize)?;
        (self.header.version >= 0x208 && !range.is_empty()).then(|| self.body.get(range))?
    }

    fn load(&self, ram: &mut Ram<'_>, source: &BootSource<'_>) -> Result<CpuState, BootError> {
        let mut header = self.header;
        // The stub unpacks to the preferred address and runs within `init_size` bytes of it.
        let need = LOAD + self.body.len() as u64;
        let end = if header.version >= 0x20a {
            let to = if header.relocatable_kernel != 0 { header.pref_address.max(LOAD) } else { header.pref_address };
            to.checked_add(header.init_size.into())
                .ok_or_else(|| BootError::corrupt("init_size wraps around"))?
                .max(need)
        } else {
            need
        };
        claim(ram, LOAD, end - LOAD)?;
        ram.write(LOAD, self.body)?;
        header.code32_start = LOAD as u32;
        let zero_page = zero_page(ram, source, header)?;
        let mut cpu = if header.version >= 0x20c && header.xloadflags & XLF_KERNEL_64 != 0 {
            entry::long(ram, LOAD + ENTRY64)?
        } else {
            entry::protected(ram, LOAD)?
        };
        entry::set(&mut cpu, Gpr::Rsi, zero_page);
        Ok(cpu)
    }
}

fn read_header(data: &[u8]) -> Result<setup_header, BootError> {
    // The jump at 0x200 skips the header: its offset tells the header's end, which grew over the versions.
    let len = data.get(0x201).map_or(0, |&jump| 0x202 + usize::from(jump) - HEADER);
    let mut header = setup_header::default();
    let bytes = header.as_mut_slice();
    let len = len.min(bytes.len());
    let from = data
        .get(HEADER..HEADER + len)
        .ok_or_else(|| BootError::truncated("the setup header", (HEADER + len) as u64, data.len() as u64))?;
    bytes[..len].copy_from_slice(from);
    Ok(header)
}

/// Refuses a command line the kernel would cut.
pub(crate) fn check_cmdline(cmdline: &str, max: u64) -> Result<(), BootError> {
    let len = cmdline.len() as u64;
    if len <= max {
        return Ok(());
    }
    Err(BootError::new(
        BootErrorKind::CmdlineTooLong,
        format!("the kernel command line has {len} bytes; this kernel takes {max} at most"),
    ))
}

/// Places ramdisk, command line and `boot_params`; returns the address of the latter.
pub(crate) fn zero_page(ram: &mut Ram<'_>, source: &BootSource<'_>, header: setup_header) -> Result<u64, BootError> {
    let mut params = boot_params { hdr: header, ..boot_params::default() };
    params.hdr.type_of_loader = 0xff;
    params.hdr.ramdisk_image = 0;
    params.hdr.ramdisk_size = 0;
    if let Some(initrd) = source.initrd.filter(|i| !i.is_empty()) {
        let max = if header.initrd_addr_max == 0 { 0x37ff_ffff } else { header.initrd_addr_max };
        params.hdr.ramdisk_image = ram.put_initrd(initrd, u64::from(max) + 1)? as u32;
        params.hdr.ramdisk_size = initrd.len() as u32;
    }
    let mut cmdline = source.cmdline.as_bytes().to_vec();
    cmdline.push(0);
    params.hdr.cmd_line_ptr = ram.put_low(&cmdline)? as u32;
    params.acpi_rsdp_addr = RSDP;
    for (slot, e) in params.e820_table.iter_mut().zip(ram.map().entries()) {
        *slot = boot_e820_entry { addr: e.start, size: e.len, r#type: e.kind as u32 };
        params.e820_entries += 1;
    }
    ram.put_low(params.as_slice())
}
