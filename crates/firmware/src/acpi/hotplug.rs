//! What the DSDT says about PCI devices that come and go: the slots, and the methods that pass the board's registers on.
//!
//! The board raises a general-purpose event; its method reads the registers `up` and `down` and notifies the devices (1: look
//! at the slot, 3: let go of the device; ACPI 6.5 §5.6.6). `_EJ0` of a device writes its bit to the register `eject`.

use acpi_tables::Aml;
use acpi_tables::aml::{
    Acquire, And, Arg, Device, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, If, Local, Method,
    MethodCall, Mutex, Name, Notify, ONE, OpRegion, OpRegionSpace, Path, Release, Scope, ShiftLeft, Store, ZERO,
};

/// Where devices can be plugged, and by which registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlugConfig {
    /// First port of the registers: up, down, eject, slots.
    pub port: u16,
    /// General-purpose event that announces a change.
    pub gpe: u8,
    /// Slots of bus 0, as a bit map.
    pub slots: u32,
}

/// "Eject request" for [`Notify`]; 1 is "device check".
const EJECT: u8 = 3;
/// Wait for ever.
const FOREVER: u16 = 0xffff;

fn path(name: &str) -> Path {
    Path::new(name)
}

/// The objects, for the DSDT's body.
pub(super) fn hotplug(config: &PlugConfig, body: &mut Vec<u8>) {
    registers(config, body);
    let slots = (0..32u8).filter(|s| config.slots & 1 << s != 0);
    let mut inside = Vec::new();
    let mut tell = Vec::new();
    for slot in slots {
        let (address, number) = (u32::from(slot) << 16, slot);
        let (adr, sun) = (Name::new(path("_ADR"), &address), Name::new(path("_SUN"), &number));
        let call = MethodCall::new(path("PCEJ"), vec![&number]);
        let eject = Method::new(path("_EJ0"), 1, false, vec![&call]);
        let name = format!("S{slot:02X}_");
        Device::new(path(&name), vec![&adr, &sun, &eject]).to_aml_bytes(&mut inside);
        let bit = 1u32 << slot;
        let (set, name) = (And::new(&ZERO, &Arg(0), &bit), path(&name));
        If::new(&set, vec![&Notify::new(&name, &Arg(1))]).to_aml_bytes(&mut tell);
    }
    Method::new(path("PCDV"), 2, false, vec![&Raw(tell)]).to_aml_bytes(&mut inside);
    body.extend(Scope::raw(path("\\_SB_.PCI0"), inside));
    event(config, body);
}

/// The registers, and the method that ejects.
fn registers(config: &PlugConfig, body: &mut Vec<u8>) {
    let region = OpRegion::new(path("PCRG"), OpRegionSpace::SystemIO, &config.port, &16u8);
    let names = [*b"PCIU", *b"PCID", *b"PCIE"].map(|n| FieldEntry::Named(n, 32));
    let (access, lock) = (FieldAccessType::DWord, FieldLockRule::NoLock);
    let field = Field::new(path("PCRG"), access, lock, FieldUpdateRule::WriteAsZeroes, names.to_vec());
    let mutex = Mutex::new(path("PCLK"), 0);
    // A write through a local: AML stores the result of an operator to a name only as its target.
    let (shift, eject) = (ShiftLeft::new(&Local(0), &ONE, &Arg(0)), path("PCIE"));
    let store = Store::new(&eject, &Local(0));
    let (acquire, release) = (Acquire::new(path("PCLK"), FOREVER), Release::new(path("PCLK")));
    let method = Method::new(path("PCEJ"), 1, true, vec![&acquire, &shift, &store, &release]);
    Scope::new(path("\\_SB_.PCI0"), vec![&region, &field, &mutex, &method]).to_aml_bytes(body);
}

/// The method of the event, called by the edge.
fn event(config: &PlugConfig, body: &mut Vec<u8>) {
    let full = |name: &str| path(&format!("\\_SB_.PCI0.{name}"));
    let (up, down) = (full("PCIU"), full("PCID"));
    // Reading `up` clears it, so it is read once.
    let (read_up, read_down) = (Store::new(&Local(0), &up), Store::new(&Local(1), &down));
    let added = MethodCall::new(full("PCDV"), vec![&Local(0), &ONE]);
    let leaving = MethodCall::new(full("PCDV"), vec![&Local(1), &EJECT]);
    let (acquire, release) = (Acquire::new(full("PCLK"), FOREVER), Release::new(full("PCLK")));
    let steps: Vec<&dyn Aml> = vec![&acquire, &read_up, &read_down, &release, &added, &leaving];
    let method = Method::new(path(&format!("_E{:02X}", config.gpe)), 0, true, steps);
    Scope::new(path("\\_GPE"), vec![&method]).to_aml_bytes(body);
}

/// AML that is made already.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}
