//! Filling guest memory before the first instruction, at start and at every reboot.

use std::sync::{Arc, PoisonError};

use visor_chipset::{ACPI_DISABLE, ACPI_ENABLE, S3_SLEEP_TYPE, S5_SLEEP_TYPE, SMI_COMMAND_PORT};
use visor_engine::GuestMemory;
use visor_firmware::acpi::{self, AcpiConfig, IommuConfig, PciConfig, PciRoute, SmiCommand};
use visor_firmware::smbios::{self, SmbiosConfig};
use visor_firmware::{Boot, BootSource, MemoryMap, boot};
use visor_iommu::{HOST_ADDRESS_BITS, IOAPIC_SOURCE, IOMMU_BASE};
use visor_x86::CpuState;

use crate::board::Built;
use crate::error::{MachineError, MachineErrorKind};
use crate::spec::{FileSource, MachineConfig};

/// What it takes to load a guest.
pub(crate) struct Loader {
    config: MachineConfig,
    memory: Arc<GuestMemory>,
    map: MemoryMap,
    acpi: AcpiConfig,
    smbios: SmbiosConfig,
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
        Loader { config: config.clone(), memory, map: map.clone(), acpi: describe(config, built), smbios }
    }

    /// Loads kernel and tables.
    pub(crate) fn load(&self) -> Result<Boot, MachineError> {
        let kernel = read(&self.config.kernel, "kernel")?;
        let initrd = self.config.initrd.as_ref().map(|i| read(i, "initial ramdisk")).transpose()?;
        let source = BootSource {
            kernel: &kernel,
            initrd: initrd.as_deref(),
            cmdline: &self.config.cmdline,
            decompress: self.config.decompress,
        };
        let boot = boot(&self.memory, &self.map, &source)?;
        acpi::install(&self.memory, &self.acpi)?;
        smbios::install(&self.memory, &self.smbios)?;
        Ok(boot)
    }

    /// The boot CPU's state after a sleep in S3; that of a fresh boot if the guest left no waking vector.
    pub(crate) fn resume(&self) -> Result<CpuState, MachineError> {
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
        s5: S5_SLEEP_TYPE,
        s3: S3_SLEEP_TYPE,
        smi: Some(SmiCommand { port: SMI_COMMAND_PORT, enable: ACPI_ENABLE, disable: ACPI_DISABLE }),
        uart: true,
        keyboard: true,
        mouse: true,
        hpet: built.hpet,
        pci,
        iommu: built.iommu.then_some(IommuConfig {
            base: IOMMU_BASE,
            address_bits: HOST_ADDRESS_BITS,
            ioapic_source: IOAPIC_SOURCE.0,
        }),
    }
}

fn read(source: &FileSource, what: &str) -> Result<Arc<[u8]>, MachineError> {
    match source {
        FileSource::Bytes(b) => Ok(b.clone()),
        FileSource::Path(path) => std::fs::read(path).map(Arc::from).map_err(|e| {
            let what = format!("cannot read the {what} {}", path.display());
            MachineError::because(MachineErrorKind::File, what, e)
        }),
    }
}
