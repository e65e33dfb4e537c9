//! Guests that program nonsense into every register of every device.

mod acpi;
mod debug;
mod e1000;
mod edu;
mod flash;
mod fw_cfg;
mod hpet;
mod i8042;
mod ide;
mod ioapic;
mod iommu;
mod local_apic;
mod pci;
mod pic;
mod pit;
mod rtc;
mod uart;
mod vga;
mod virtio;

use crate::Target;

/// The devices.
pub(crate) const TARGETS: &[Target] = &[
    Target::new("pic", "the two 8259, with inputs that rise and fall", pic::run, pic::seeds),
    Target::new("pit", "the 8254 and port 61h", pit::run, pit::seeds),
    Target::new("rtc", "the MC146818 and its CMOS", rtc::run, rtc::seeds),
    Target::new("hpet", "the HPET", hpet::run, hpet::seeds),
    Target::new("uart", "the 16550A, with characters from outside", uart::run, uart::seeds),
    Target::new("i8042", "keyboard controller, keyboard, mouse, with keys from outside", i8042::run, i8042::seeds),
    Target::new("acpi", "power management, reset control, PCI hot plug", acpi::run, acpi::seeds),
    Target::new("debug", "debug exit, debug console, test device", debug::run, debug::seeds),
    Target::new("local-apic", "a local APIC: page, MSRs, messages, time", local_apic::run, local_apic::seeds),
    Target::new("ioapic", "the I/O APIC, with inputs that rise and fall", ioapic::run, ioapic::seeds),
    Target::new("pci", "host bridge, ISA bridge, configuration ports, BARs that move", pci::run, pci::seeds),
    Target::new("edu", "QEMU's teaching device, behind an IOMMU", edu::run, edu::seeds),
    Target::new(
        "iommu",
        "VT-d: registers, queue, tables in memory, DMA and interrupts through them",
        iommu::run,
        iommu::seeds,
    ),
    Target::new("ide", "PIIX IDE with a disk and a CD-ROM drive", ide::run, ide::seeds).inputs(600),
    Target::new("virtio-blk", "virtio block device", virtio::blk, virtio::blk_seeds).inputs(800),
    Target::new("virtio-scsi", "virtio SCSI adapter with a disk and a CD-ROM drive", virtio::scsi, virtio::scsi_seeds)
        .inputs(500),
    Target::new("virtio-net", "virtio network device, with frames from outside", virtio::net, virtio::net_seeds),
    Target::new(
        "virtio-console",
        "virtio console of two ports, with bytes from outside",
        virtio::console,
        virtio::console_seeds,
    )
    .inputs(800),
    Target::new("virtio-rng", "virtio entropy device", virtio::rng, virtio::rng_seeds),
    Target::new("virtio-input", "virtio tablet, with events from outside", virtio::tablet, virtio::tablet_seeds),
    Target::new("e1000", "Intel 82540EM, with frames from outside", e1000::run, e1000::seeds),
    Target::new("vga", "VGA with Bochs extensions, looked at", vga::run, vga::seeds).inputs(300).heap(64 << 20),
    Target::new("fw-cfg", "fw_cfg with its DMA", fw_cfg::run, fw_cfg::seeds),
    Target::new("flash", "the flash with UEFI's variables", flash::run, flash::seeds),
];
