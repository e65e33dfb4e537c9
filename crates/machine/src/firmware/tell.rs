//! What firmware is told through fw_cfg.

use visor_firmware::acpi::{self, AcpiConfig};
use visor_firmware::fw_cfg::{FwCfg, item};
use visor_firmware::smbios::{self, SmbiosConfig};
use visor_firmware::{HIGH_RAM, MemoryMap};
use visor_pci::PciAddress;

use super::{BootClass, FirmwareKind, FirmwareSpec};

/// COM1, where a BIOS without a screen speaks.
const SERIAL_PORT: u16 = 0x3f8;
/// SLP_TYP values that firmware reads: bit 7 says that the state exists.
const SYSTEM_STATES: [u8; 6] = [0x80, 0, 0, 0x81, 0x02, 0x80];

/// A device that firmware can boot from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bootable {
    /// What it is.
    pub(crate) class: BootClass,
    /// Its Open Firmware path below the PCI host bridge, such as `scsi@4/disk@0,0`.
    pub(crate) path: String,
    /// What it is called on the command line.
    pub(crate) name: String,
    /// A BIOS can boot from it: by itself, or by the device's option ROM.
    pub(crate) bios: bool,
}

impl Bootable {
    /// The virtio block device at `at`.
    pub(crate) fn virtio_disk(at: PciAddress, name: String) -> Self {
        Bootable { class: BootClass::Disk, path: format!("scsi@{}/disk@0,0", unit(at)), name, bios: true }
    }

    /// The drive at address `target` of the SCSI adapter at `at`.
    pub(crate) fn scsi(at: PciAddress, target: u8, class: BootClass, name: String) -> Self {
        Bootable { class, path: format!("scsi@{}/channel@0/disk@{target:x},0", unit(at)), name, bios: true }
    }

    /// The network card at `at`, with or without an option ROM.
    pub(crate) fn nic(at: PciAddress, name: String, rom: bool) -> Self {
        Bootable { class: BootClass::Net, path: format!("ethernet@{}/ethernet-phy@0", unit(at)), name, bios: rom }
    }
}

/// A function in an Open Firmware path: device number, and function if it is not 0.
fn unit(at: PciAddress) -> String {
    if at.function == 0 { format!("{:x}", at.device) } else { format!("{:x},{:x}", at.device, at.function) }
}

/// Fills in everything about the machine that firmware asks for.
pub(crate) fn tell(
    d: &mut FwCfg,
    spec: &FirmwareSpec,
    map: &MemoryMap,
    acpi: &AcpiConfig,
    smbios: &SmbiosConfig,
    bootable: &[Bootable],
) {
    d.set_file("etc/e820", e820(map));
    for (name, contents) in acpi::loader(acpi).files.into_iter().chain(smbios::files(smbios)) {
        d.set_file(name, contents);
    }
    d.set_file("etc/system-states", SYSTEM_STATES);
    d.set_file("etc/max-cpus", acpi.cpus.to_le_bytes());
    let order = boot_order(&spec.boot_order, bootable);
    if !order.is_empty() {
        d.set_file("bootorder", order);
    }
    d.set_file("etc/show-boot-menu", u64::from(spec.boot_menu).to_le_bytes());
    d.set(item::BOOT_MENU, u16::from(spec.boot_menu).to_le_bytes());
    if spec.boot_menu {
        d.set_file("etc/boot-menu-wait", 10_000u16.to_le_bytes());
    }
    if spec.kind == FirmwareKind::Bios {
        // Wait for ever instead of rebooting: there is somebody to tell.
        d.set_file("etc/boot-fail-wait", u32::MAX.to_le_bytes());
        if spec.serial_console {
            d.set_file("etc/sercon-port", SERIAL_PORT.to_le_bytes());
        }
    }
}

/// Offers a kernel, which UEFI boots instead of a device: a bzImage in its two parts, or an EFI program.
pub(crate) fn tell_kernel(d: &mut FwCfg, kernel: &[u8], initrd: &[u8], cmdline: &str) {
    let (setup, rest) = kernel.split_at(setup_len(kernel).min(kernel.len()));
    let cmdline = [cmdline.as_bytes(), &[0]].concat();
    for (size, data, contents) in [
        (item::SETUP_SIZE, item::SETUP_DATA, setup),
        (item::KERNEL_SIZE, item::KERNEL_DATA, rest),
        (item::INITRD_SIZE, item::INITRD_DATA, initrd),
        (item::CMDLINE_SIZE, item::CMDLINE_DATA, &cmdline),
    ] {
        d.set(size, (contents.len() as u32).to_le_bytes());
        d.set(data, contents);
    }
}

/// Bytes of a bzImage's real-mode part (Linux/x86 boot protocol: setup_sects, 4 if it is 0); 0 for other programs.
fn setup_len(kernel: &[u8]) -> usize {
    let sectors = |n: u8| 512 * (1 + if n == 0 { 4 } else { usize::from(n) });
    if kernel.get(0x202..0x206) == Some(b"HdrS") { kernel.get(0x1f1).map_or(0, |n| sectors(*n)) } else { 0 }
}

/// RAM, as the BIOS's INT 15h E820 begins.
fn e820(map: &MemoryMap) -> Vec<u8> {
    let mut ranges = vec![(0, map.low_end())];
    if map.high_end() > HIGH_RAM {
        ranges.push((HIGH_RAM, map.high_end() - HIGH_RAM));
    }
    let entry = |(start, len): (u64, u64)| {
        let mut e = start.to_le_bytes().to_vec();
        e.extend(len.to_le_bytes());
        e.extend(1u32.to_le_bytes());
        e
    };
    ranges.into_iter().flat_map(entry).collect()
}

/// The devices of the wanted kinds, in the order in which they are tried. A BIOS tries only the first of its disks, and
/// boots only from network cards that have option ROMs.
pub(crate) fn ordered<'a>(wanted: &[BootClass], bootable: &'a [Bootable], bios: bool) -> Vec<&'a Bootable> {
    let all = [BootClass::Disk, BootClass::Cd, BootClass::Net];
    let classes = if wanted.is_empty() { &all[..] } else { wanted };
    let most = |c: BootClass| match c {
        BootClass::Disk if bios => 1,
        _ => usize::MAX,
    };
    let of = move |c: BootClass| bootable.iter().filter(move |b| b.class == c && (b.bios || !bios));
    classes.iter().flat_map(|c| of(*c).take(most(*c))).collect()
}

/// The paths of the devices of the wanted kinds, and, if the user wished, that nothing else is to be tried.
fn boot_order(wanted: &[BootClass], bootable: &[Bootable]) -> Vec<u8> {
    let devices = ordered(wanted, bootable, false);
    let mut text: String = devices.iter().map(|b| format!("/pci@i0cf8/{}\n", b.path)).collect();
    if !wanted.is_empty() {
        text.push_str("HALT\n");
    }
    if !text.is_empty() {
        text.pop();
        text.push('\0');
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use visor_device::PioDevice;
    use visor_firmware::fw_cfg::FwCfgConfig;

    use super::*;

    #[test]
    fn the_order_names_devices_and_ends_there() {
        let disk = Bootable::virtio_disk(PciAddress::device(17), "a".into());
        let at = PciAddress { device: 1, function: 1 };
        let cd = Bootable {
            class: BootClass::Cd,
            path: format!("ide@{}/drive@1/disk@0", unit(at)),
            name: "c".into(),
            bios: true,
        };
        let devices = [disk, cd];
        let order = |wanted: &[BootClass]| String::from_utf8(boot_order(wanted, &devices)).unwrap();
        let (disk, cd) = ("/pci@i0cf8/scsi@11/disk@0,0", "/pci@i0cf8/ide@1,1/drive@1/disk@0");
        assert_eq!(order(&[]), format!("{disk}\n{cd}\0"));
        assert_eq!(order(&[BootClass::Cd, BootClass::Disk]), format!("{cd}\n{disk}\nHALT\0"));
        assert_eq!(order(&[BootClass::Net]), "HALT\0");
        assert!(boot_order(&[], &[]).is_empty());
    }

    #[test]
    fn a_kernel_is_offered_in_two_parts() {
        let mut d = FwCfg::new(&FwCfgConfig::default(), None);
        let mut kernel = vec![0; 4096];
        kernel[0x1f1] = 1;
        kernel[0x202..0x206].copy_from_slice(b"HdrS");
        tell_kernel(&mut d, &kernel, b"initrd", "quiet");
        let mut word = |key: u16| {
            d.write(0, &key.to_le_bytes());
            let mut b = [0; 4];
            d.read(1, &mut b);
            u32::from_le_bytes(b)
        };
        let sizes = [item::SETUP_SIZE, item::KERNEL_SIZE, item::INITRD_SIZE, item::CMDLINE_SIZE].map(&mut word);
        assert_eq!(sizes, [1024, 3072, 6, 6]);
        assert_eq!(setup_len(b"MZ"), 0);
        kernel.truncate(0x206);
        tell_kernel(&mut d, &kernel, &[], "");
    }

    #[test]
    fn memory_above_4_gib_is_a_range_of_its_own() {
        assert_eq!(e820(&MemoryMap::new(1 << 30)).len(), 20);
        let map = e820(&MemoryMap::new(5 << 30));
        assert_eq!(map[20..28], HIGH_RAM.to_le_bytes());
        assert_eq!(map[28..36], (2u64 << 30).to_le_bytes());
    }
}
