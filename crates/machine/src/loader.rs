//! Filling guest memory before the first instruction, at start and at every reboot.

use std::sync::{Arc, Mutex, PoisonError};

use visor_chipset::{
    ACPI_DISABLE, ACPI_ENABLE, PCI_PLUG_GPE, PCI_PLUG_PORT, PM_PORT, S3_SLEEP_TYPE, S5_SLEEP_TYPE, SMI_COMMAND_PORT,
};
use visor_display::Vga;
use visor_engine::GuestMemory;
use visor_firmware::acpi::{self, AcpiConfig, IommuConfig, PciConfig, PciRoute, PlugConfig, SmiCommand};
use visor_firmware::fw_cfg::FwCfg;
use visor_firmware::smbios::{self, SmbiosConfig};
use visor_firmware::{BootSource, KernelKind, MemoryMap, boot};
use visor_iommu::{HOST_ADDRESS_BITS, IOAPIC_SOURCE, IOMMU_BASE};
use visor_x86::{CpuState, Gpr};

use crate::board::Built;
use crate::error::{MachineError, MachineErrorKind};
use crate::firmware;
use crate::spec::{FileSource, MachineConfig};

/// A machine ready to start.
pub(crate) struct Loaded {
    /// State of the boot CPU.
    pub(crate) cpu: CpuState,
    /// Decisions worth telling.
    pub(crate) notes: Vec<String>,
}

/// What it takes to load a guest.
pub(crate) struct Loader {
    config: MachineConfig,
    memory: Arc<GuestMemory>,
    map: MemoryMap,
    acpi: AcpiConfig,
    smbios: SmbiosConfig,
    fw_cfg: Option<Arc<Mutex<FwCfg>>>,
    vga: Option<Vga>,
}

impl Loader {
    pub(crate) fn new(
        config: &MachineConfig,
        memory: Arc<GuestMemory>,
        map: &MemoryMap,
        built: &Built,
        cpu_name: String,
    ) -> Self {
        let smbios = SmbiosConfig {
            memory: config.memory,
            cpus: config.cpus,
            cpu_name,
            uuid: config.uuid,
            version: env!("CARGO_PKG_VERSION").into(),
        };
        let acpi = describe(config, built);
        if let (Some(spec), Some(fw_cfg)) = (&config.firmware, &built.fw_cfg) {
            let mut d = fw_cfg.lock().unwrap_or_else(PoisonError::into_inner);
            firmware::tell(&mut d, spec, map, &acpi, &smbios, &built.bootable);
        }
        let (fw_cfg, vga) = (built.fw_cfg.clone(), built.vga.clone());
        Loader { config: config.without_drives(), memory, map: map.clone(), acpi, smbios, fw_cfg, vga }
    }

    /// Makes the machine ready to start: loads kernel and tables, unless firmware does.
    pub(crate) fn load(&self) -> Result<Loaded, MachineError> {
        let kernel = self.config.kernel.as_ref().map(|k| read(k, "kernel")).transpose()?;
        let initrd = self.config.initrd.as_ref().map(|i| read(i, "initial ramdisk")).transpose()?;
        if let Some(firmware) = &self.config.firmware {
            if let (Some(kernel), Some(fw_cfg)) = (&kernel, &self.fw_cfg) {
                let mut d = fw_cfg.lock().unwrap_or_else(PoisonError::into_inner);
                firmware::tell_kernel(&mut d, kernel, initrd.as_deref().unwrap_or_default(), &self.config.cmdline);
            }
            let notes = vec![format!("firmware: {:?}", firmware.code)];
            return Ok(Loaded { cpu: CpuState::default(), notes });
        }
        let kernel = kernel.ok_or_else(|| MachineError::new(MachineErrorKind::Spec, "nothing to boot"))?;
        let source = BootSource {
            kernel: &kernel,
            initrd: initrd.as_deref(),
            cmdline: &self.config.cmdline,
            decompress: self.config.decompress,
        };
        let boot = boot(&self.memory, &self.map, &source)?;
        if let (Some(vga), KernelKind::BzImage { .. } | KernelKind::Vmlinux) = (&self.vga, &boot.kind) {
            crate::screen::tell_linux(vga, &self.memory, boot.cpu.gpr[Gpr::Rsi as usize]);
        }
        acpi::install(&self.memory, &self.acpi)?;
        smbios::install(&self.memory, &self.smbios)?;
        let mut notes = vec![format!("kernel: {}", boot.kind)];
        notes.extend(boot.notes);
        Ok(Loaded { cpu: boot.cpu, notes })
    }

    /// The boot CPU's state after a sleep in S3; that of a fresh boot if the guest left no waking vector.
    pub(crate) fn resume(&self) -> Result<CpuState, MachineError> {
        if self.config.firmware.is_some() {
            return Ok(CpuState::default());
        }
        match acpi::resume(&self.memory)? {
            Some(cpu) => Ok(cpu),
            None => Ok(self.load()?.cpu),
        }
    }
}

/// The devices as ACPI tells of them.
fn describe(config: &MachineConfig, built: &Built) -> AcpiConfig {
    let pci = built.pci.as_ref().map(|pci| {
        let pci = pci.lock().unwrap_or_else(PoisonError::into_inner);
        let a = pci.apertures();
        let route = |r: visor_pci::IntxRoute| PciRoute { device: r.device, pin: r.pin as u8, gsi: r.gsi };
        PciConfig {
            mem32: (a.mem32.start as u32, (a.mem32.end - 1) as u32),
            mem64: (!a.mem64.is_empty()).then(|| (a.mem64.start, a.mem64.end - 1)),
            routes: pci.routing().into_iter().map(route).collect(),
            ecam: None,
        }
    });
    AcpiConfig {
        cpus: config.cpus,
        pm_base: config.firmware.as_ref().map_or(PM_PORT, |f| f.kind.pm_base()),
        s5: S5_SLEEP_TYPE,
        s3: S3_SLEEP_TYPE,
        smi: Some(SmiCommand { port: SMI_COMMAND_PORT, enable: ACPI_ENABLE, disable: ACPI_DISABLE }),
        uart: true,
        keyboard: true,
        mouse: true,
        hpet: built.hpet,
        pci,
        plug: (built.plug_slots != 0).then_some(PlugConfig {
            port: PCI_PLUG_PORT,
            gpe: PCI_PLUG_GPE,
            slots: built.plug_slots,
        }),
        iommu: built.iommu.then_some(IommuConfig {
            base: IOMMU_BASE,
            address_bits: HOST_ADDRESS_BITS,
            ioapic_source: IOAPIC_SOURCE.0,
        }),
    }
}

pub(crate) fn read(source: &FileSource, what: &str) -> Result<Arc<[u8]>, MachineError> {
    match source {
        FileSource::Bytes(b) => Ok(b.clone()),
        FileSource::Path(path) => std::fs::read(path).map(Arc::from).map_err(|e| {
            let what = format!("cannot read the {what} {}", path.display());
            MachineError::because(MachineErrorKind::File, what, e)
        }),
    }
}
