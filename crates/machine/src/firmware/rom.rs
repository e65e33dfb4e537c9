//! The firmware's image in the machine's extra memory, and C0000h to FFFFFh as the host bridge's attribute maps say.
//!
//! ```text
//! E0000 .. FFFFF        the last 128 KiB of the image, or RAM
//! 4 GiB - n .. 4 GiB    variables (flash), then the image
//! ```

use std::sync::{Arc, Mutex, PoisonError};

use visor_device::{Device, MmioDevice};
use visor_engine::{Gpa, GuestMemory};
use visor_firmware::SHADOW;
use visor_memory::{Extra, PAGE, RamRange, Remap};
use visor_pci::ShadowArea;
use vm_memory::{Bytes, GuestAddress};

use super::{FirmwareKind, FirmwareSpec};
use crate::error::{MachineError, MachineErrorKind};
use crate::loader::read;
use crate::spec::MachineConfig;

/// Where images end.
const TOP: u64 = 1 << 32;
/// Sizes of code and variables together.
const SIZES: std::ops::RangeInclusive<u64> = 64 << 10..=16 << 20;
/// How much of the image is visible below 1 MiB as well.
const LOW_COPY: u64 = 128 << 10;

/// An image that has been read and checked.
pub(crate) struct Image {
    vars: Arc<[u8]>,
    code: Arc<[u8]>,
}

impl Image {
    /// Reads the image that `config` wants, if it wants one.
    pub(crate) fn read(config: &MachineConfig) -> Result<Option<Self>, MachineError> {
        let Some(spec) = &config.firmware else { return Ok(None) };
        let code = read(&spec.code, "firmware")?;
        let vars = match &spec.vars {
            None => Arc::from([]),
            Some(vars) => super::vars::contents(vars)?,
        };
        let size = (code.len() + vars.len()) as u64;
        let aligned = [&code, &vars].iter().all(|part| (part.len() as u64).is_multiple_of(PAGE));
        if !aligned || !SIZES.contains(&size) || (code.len() as u64) < LOW_COPY / 2 {
            return Err(bad(spec, &format!("it has {} bytes, and its variables {}", code.len(), vars.len())));
        }
        // The reset vector is a jump: an image that is not firmware does not have one there (SDM 3A §10.1.4).
        let vector = code.get(code.len() - 16..).unwrap_or_default();
        if vector.iter().all(|b| *b == 0) || vector.iter().all(|b| *b == 0xff) {
            return Err(bad(spec, "there is no code at its reset vector"));
        }
        Ok(Some(Image { vars, code }))
    }

    /// Bytes of code and variables.
    pub(crate) fn len(&self) -> u64 {
        (self.vars.len() + self.code.len()) as u64
    }

    /// Puts code and variables into extra memory, and the code below 4 GiB.
    pub(crate) fn install(&self, memory: &GuestMemory) {
        let at = memory.extra();
        let code = at + self.vars.len() as u64;
        memory.load(at, &self.vars);
        memory.load(code, &self.code);
        let len = self.code.len() as u64;
        let range = RamRange { start: Gpa(TOP - len), len };
        memory.remap(&[Remap { range, to: Some((code, false)) }]);
    }

    /// The addresses of the variables, and where they are in the mapping; `None` if there are none.
    pub(crate) fn vars(&self, memory: &GuestMemory) -> Option<(RamRange, u64)> {
        let len = self.vars.len() as u64;
        (len > 0).then(|| (RamRange { start: Gpa(TOP - self.len()), len }, memory.extra()))
    }

    /// Where the copy below 1 MiB begins in the mapping, and its length.
    fn low_copy(&self, memory: &GuestMemory) -> (u64, u64) {
        let len = (self.code.len() as u64).min(LOW_COPY);
        (memory.extra() + self.len() - len, len)
    }
}

fn bad(spec: &FirmwareSpec, why: &str) -> MachineError {
    let kind = match spec.kind {
        FirmwareKind::Bios => "a BIOS",
        FirmwareKind::Uefi => "a UEFI firmware",
    };
    MachineError::new(MachineErrorKind::File, format!("{:?} is not {kind} for this machine: {why}", spec.code))
}

/// The memory beside RAM that a machine with `image` and `devices` bytes of device memory needs.
pub(crate) fn extra(image: Option<&Image>, devices: u64) -> Extra {
    Extra { len: image.map_or(0, Image::len), shadow: Some(SHADOW), devices }
}

/// What C0000h to FFFFFh show at present.
pub(crate) struct Shadow {
    memory: Arc<GuestMemory>,
    rom: Option<(u64, u64)>,
    areas: Mutex<Vec<ShadowArea>>,
}

impl Shadow {
    pub(crate) fn new(memory: Arc<GuestMemory>, image: Option<&Image>) -> Arc<Self> {
        let rom = image.map(|i| i.low_copy(&memory));
        Arc::new(Shadow { memory, rom, areas: Mutex::default() })
    }

    /// The host bridge's attribute maps say this now.
    pub(crate) fn apply(&self, areas: &[ShadowArea]) {
        let changes: Vec<Remap> = areas.iter().map(|a| self.remap(a)).collect();
        *self.areas.lock().unwrap_or_else(PoisonError::into_inner) = areas.to_vec();
        self.memory.remap(&changes);
    }

    fn remap(&self, area: &ShadowArea) -> Remap {
        let start = u64::from(area.start);
        let range = RamRange { start: Gpa(start), len: u64::from(area.len) };
        let end = SHADOW.start.0 + SHADOW.len;
        let rom = self.rom.and_then(|(at, len)| Some((at + start.checked_sub(end - len)?, false)));
        let ram = self.memory.ram_offset(Gpa(start)).map(|offset| (offset, area.write));
        Remap { range, to: if area.read { ram } else { rom } }
    }
}

/// Takes the stores to C0000h to FFFFFh that do not go to the memory that is read there: while a BIOS copies itself, reads come
/// from ROM and writes go to RAM.
pub(crate) struct ShadowWrites(pub(crate) Arc<Shadow>);

impl Device for ShadowWrites {
    fn name(&self) -> &str {
        "shadow-ram"
    }

    fn reset(&mut self) {}

    fn as_mmio(&mut self) -> Option<&mut dyn MmioDevice> {
        Some(self)
    }
}

impl MmioDevice for ShadowWrites {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let at = SHADOW.start.0 + offset;
        let areas = self.0.areas.lock().unwrap_or_else(PoisonError::into_inner);
        let here = |a: &&ShadowArea| at.wrapping_sub(a.start.into()) < a.len.into();
        if areas.iter().find(here).is_some_and(|a| a.write) {
            // There is RAM in the whole range.
            let _ = self.0.memory.view().write_slice(data, GuestAddress(at));
        }
    }
}
