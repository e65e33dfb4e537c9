//! SMBIOS 3 tables (DSP0134 3.7): what `dmidecode` and installers show of the machine.

use visor_memory::GuestMemory;

use crate::acpi::checksum;
use crate::error::BootError;
use crate::layout::SMBIOS;
use crate::ram;

/// What the tables tell.
#[derive(Clone, Debug)]
pub struct SmbiosConfig {
    /// RAM in bytes.
    pub memory: u64,
    /// vCPUs.
    pub cpus: u32,
    /// Processor version string, such as the CPUID brand.
    pub cpu_name: String,
    /// System UUID in the byte order of RFC 9562.
    pub uuid: [u8; 16],
    /// Product version.
    pub version: String,
}

/// Makes the tables and writes them to guest memory, where firmware leaves them (§5.2.2).
///
/// # Errors
/// [`crate::BootErrorKind::Memory`] if guest memory has no BIOS area.
pub fn install(memory: &GuestMemory, config: &SmbiosConfig) -> Result<(), BootError> {
    let table = table(config);
    let at = SMBIOS + 0x20;
    ram::write(memory, SMBIOS, &entry_point(at, table.len() as u32))?;
    ram::write(memory, at, &table)
}

/// The 64-bit entry point (§5.2.2).
fn entry_point(at: u64, len: u32) -> Vec<u8> {
    let mut e = b"_SM3_\0\x18\x03\x03\x00\x01\0".to_vec();
    e.extend(len.to_le_bytes());
    e.extend(at.to_le_bytes());
    e[5] = checksum(&e);
    e
}

/// Files for fw_cfg: the structures, and an entry point in the old form, which every firmware knows how to place (§5.2.1).
pub fn files(config: &SmbiosConfig) -> [(&'static str, Vec<u8>); 2] {
    let table = table(config);
    let (count, largest) = measure(&table);
    let mut e = b"_SM_\0\x1f\x02\x08".to_vec();
    e.extend(largest.to_le_bytes());
    e.extend([0; 6]); // revision; formatted area
    e.extend(b"_DMI_\0");
    e.extend((table.len() as u16).to_le_bytes());
    e.extend([0; 4]); // address: firmware's
    e.extend(count.to_le_bytes());
    e.push(0x28);
    e[0x15] = checksum(&e[0x10..]);
    e[4] = checksum(&e);
    [("etc/smbios/smbios-tables", table), ("etc/smbios/smbios-anchor", e)]
}

/// Number of structures, and bytes of the largest with its strings.
fn measure(table: &[u8]) -> (u16, u16) {
    let (mut rest, mut count, mut largest) = (table, 0, 0);
    while let [_, len, ..] = *rest {
        let strings = rest.get(usize::from(len)..).unwrap_or_default();
        let end = strings.windows(2).position(|w| w == [0, 0]).map_or(rest.len(), |p| usize::from(len) + p + 2);
        count += 1;
        largest = largest.max(end as u16);
        rest = rest.get(end..).unwrap_or_default();
    }
    (count, largest)
}

/// All structures, one after the other.
pub fn table(config: &SmbiosConfig) -> Vec<u8> {
    let mut t = Builder { out: Vec::new(), handle: 0 };
    bios(&mut t, config);
    system(&mut t, config);
    enclosure(&mut t);
    processor(&mut t, config);
    let array = memory_array(&mut t, config);
    memory_device(&mut t, config, array);
    memory_mapping(&mut t, config, array);
    t.add(127, &[], &[]);
    t.out
}

struct Builder {
    out: Vec<u8>,
    handle: u16,
}

impl Builder {
    /// Appends a structure: header, formatted area, strings (numbered from 1). Returns its handle.
    fn add(&mut self, kind: u8, body: &[u8], strings: &[&str]) -> u16 {
        let handle = self.handle;
        self.handle += 1;
        self.out.extend([kind, (body.len() + 4) as u8]);
        self.out.extend(handle.to_le_bytes());
        self.out.extend(body);
        for s in strings {
            // Strings are NUL-terminated, and an empty one would end the set.
            let clean: Vec<u8> = s.bytes().filter(|&b| b != 0).take(64).collect();
            self.out.extend(if clean.is_empty() { b"-".to_vec() } else { clean });
            self.out.push(0);
        }
        if strings.is_empty() {
            self.out.push(0);
        }
        self.out.push(0);
        handle
    }
}

fn bios(t: &mut Builder, config: &SmbiosConfig) {
    let mut b = vec![1, 2];
    b.extend(0xe000u16.to_le_bytes());
    b.extend([3, 1]); // release date; 128 KiB
    b.extend((1u64 << 3).to_le_bytes()); // characteristics: not supported
    b.extend([0x01, 0x10]); // extension: ACPI; a virtual machine
    b.extend([0, 0, 0xff, 0xff]);
    t.add(0, &b, &["visor", &config.version, "01/01/2026"]);
}

fn system(t: &mut Builder, config: &SmbiosConfig) {
    let mut b = vec![1, 2, 3, 4];
    let u = &config.uuid;
    // The first three fields are little-endian (§7.2.1).
    b.extend([u[3], u[2], u[1], u[0], u[5], u[4], u[7], u[6]]);
    b.extend(&u[8..]);
    b.extend([6, 0, 0]); // wake-up: power switch
    t.add(1, &b, &["visor", "visor PC", &config.version, "0"]);
}

fn enclosure(t: &mut Builder) {
    let mut b = vec![1, 1, 0, 0, 0]; // type: other
    b.extend([3, 3, 3, 2]); // states: safe; security: unknown
    b.extend([0; 4]);
    b.extend([0, 0, 0, 0, 0]);
    t.add(3, &b, &["visor"]);
}

fn processor(t: &mut Builder, config: &SmbiosConfig) {
    let mut b = vec![1, 3, 0xfe, 2]; // socket; central processor; family in field 2
    b.extend([0; 8]); // id
    b.extend([3, 0]); // version; voltage unknown
    b.extend([0; 6]); // clocks unknown
    b.extend([0x41, 1]); // enabled; upgrade: other
    b.extend([0xff; 6]); // no cache information
    b.extend([0, 0, 0]); // serial, asset, part
    let cores = config.cpus.min(255) as u8;
    let byte = if config.cpus > 255 { 0xff } else { cores };
    b.extend([byte, byte, byte]);
    b.extend(0x04u16.to_le_bytes()); // 64-bit capable
    b.extend(0x02u16.to_le_bytes()); // family: unknown
    for _ in 0..3 {
        b.extend((config.cpus.min(0xfffe) as u16).to_le_bytes());
    }
    t.add(4, &b, &["CPU 0", "visor", &config.cpu_name]);
}

fn memory_array(t: &mut Builder, config: &SmbiosConfig) -> u16 {
    let mut b = vec![1, 3, 6]; // other location; system memory; multi-bit ECC
    b.extend(0x8000_0000u32.to_le_bytes()); // see the extended capacity
    b.extend(0xfffeu16.to_le_bytes());
    b.extend(1u16.to_le_bytes());
    b.extend(config.memory.to_le_bytes());
    t.add(16, &b, &[])
}

fn memory_device(t: &mut Builder, config: &SmbiosConfig, array: u16) {
    let mib = config.memory >> 20;
    let mut b = array.to_le_bytes().to_vec();
    b.extend([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff]); // no error information; widths unknown
    let size = if mib < 0x7fff { mib as u16 } else { 0x7fff };
    b.extend(size.to_le_bytes());
    b.extend([9, 0, 1, 0, 7]); // DIMM; no set; locator; no bank; RAM
    b.extend(2u16.to_le_bytes()); // other
    b.extend([0; 2]); // speed unknown
    b.extend([2, 0, 0, 0, 0]); // manufacturer; serial, asset, part; attributes
    b.extend((mib as u32 & 0x7fff_ffff).to_le_bytes());
    b.extend([0; 8]);
    t.add(17, &b, &["DIMM 0", "visor"]);
}

fn memory_mapping(t: &mut Builder, config: &SmbiosConfig, array: u16) {
    let mut b = vec![0xff; 8]; // see the extended addresses
    b.extend(array.to_le_bytes());
    b.push(1);
    b.extend(0u64.to_le_bytes());
    b.extend(config.memory.saturating_sub(1).to_le_bytes());
    t.add(19, &b, &[]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(cpus: u32) -> SmbiosConfig {
        let cpu_name = String::new();
        SmbiosConfig { memory: 48 << 30, cpus, cpu_name, uuid: [0x11; 16], version: "1.0".into() }
    }

    #[test]
    fn structures_chain_to_the_end_marker() {
        let table = table(&config(300));
        let (mut at, mut kinds) = (0, Vec::new());
        while at < table.len() {
            kinds.push(table[at]);
            let strings = at + usize::from(table[at + 1]);
            at = strings + table[strings..].windows(2).position(|w| w == [0, 0]).unwrap() + 2;
        }
        assert_eq!(kinds, [0, 1, 3, 4, 16, 17, 19, 127]);
        assert_eq!(at, table.len());
    }

    #[test]
    fn lengths_are_those_of_the_specification() {
        let table = table(&config(2));
        let (mut at, mut lengths) = (0, Vec::new());
        while at < table.len() {
            lengths.push((table[at], table[at + 1]));
            let strings = at + usize::from(table[at + 1]);
            at = strings + table[strings..].windows(2).position(|w| w == [0, 0]).unwrap() + 2;
        }
        assert_eq!(lengths, [(0, 24), (1, 27), (3, 22), (4, 48), (16, 23), (17, 40), (19, 31), (127, 4)]);
        let [(_, same), (_, anchor)] = files(&config(2));
        assert_eq!(same, table);
        assert_eq!((anchor.len(), checksum(&anchor), checksum(&anchor[16..])), (31, 0, 0));
        assert_eq!(anchor[28..30], [8, 0], "structures");
        let e = entry_point(0xf1020, table.len() as u32);
        assert_eq!((e.len(), checksum(&e)), (24, 0));
    }
}
