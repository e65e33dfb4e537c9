//! The tables as firmware takes them: blobs, and a script that says where to put them, which fields are pointers and which bytes
//! are checksums (QEMU's linker/loader interface, as SeaBIOS and OVMF execute it).
//!
//! ```text
//! 00 command   1 allocate: 04 file name, 3C alignment, 40 zone (1 anywhere, 2 F segment)
//!              2 add pointer: 04 destination file, 3C source file, 74 offset in the destination, 78 size of the pointer
//!              3 add checksum: 04 file, 3C offset of the checksum, 40 first byte, 44 number of bytes
//! ```
//! Commands are 128 bytes, little-endian; names take 56 bytes. A pointer field holds the offset in the source file.

use super::{AcpiConfig, tables_at};

const RSDP_FILE: &str = "etc/acpi/rsdp";
const TABLES_FILE: &str = "etc/acpi/tables";
const COMMAND: usize = 128;
const NAME: usize = 56;
const ANYWHERE: u8 = 1;
const F_SEGMENT: u8 = 2;
/// Offset of the checksum in a table's header (ACPI 6.5 §5.2.6).
const CHECKSUM: usize = 9;
/// Bytes of a header; entries of RSDT and XSDT follow.
const HEADER: usize = 36;

/// Files for fw_cfg.
#[derive(Clone, Debug)]
pub struct LoaderFiles {
    /// Name and contents of each.
    pub files: [(&'static str, Vec<u8>); 3],
}

/// Makes the files that describe the machine.
pub fn loader(config: &AcpiConfig) -> LoaderFiles {
    let mut script = Script::default();
    let mut blob = Vec::new();
    let mut rsdp = Vec::new();
    script.allocate(RSDP_FILE, 16, F_SEGMENT);
    script.allocate(TABLES_FILE, 64, ANYWHERE);
    for (name, at, mut bytes) in tables_at(config, 0).tables {
        let (at, len) = (at as usize, bytes.len());
        let pointers = pointers(name, len);
        if name == "RSD PTR " {
            for (field, size) in pointers {
                script.pointer(RSDP_FILE, field, size);
            }
            for (checksum, len) in [(8, 20), (32, len)] {
                bytes[checksum] = 0;
                script.checksum(RSDP_FILE, checksum, 0, len);
            }
            rsdp = bytes;
            continue;
        }
        for (field, size) in &pointers {
            script.pointer(TABLES_FILE, at + field, *size);
        }
        if !pointers.is_empty() {
            bytes[CHECKSUM] = 0;
            script.checksum(TABLES_FILE, at + CHECKSUM, at, len);
        }
        blob.resize(at, 0);
        blob.extend(bytes);
    }
    LoaderFiles { files: [(RSDP_FILE, rsdp), (TABLES_FILE, blob), ("etc/table-loader", script.0)] }
}

/// Offset and size of the pointers in a table of `len` bytes.
fn pointers(name: &str, len: usize) -> Vec<(usize, u8)> {
    match name {
        // FIRMWARE_CTRL, DSDT, X_DSDT (ACPI 6.5 table 5.9).
        "FACP" => vec![(36, 4), (40, 4), (140, 8)],
        "RSDT" => (HEADER..len).step_by(4).map(|at| (at, 4)).collect(),
        "XSDT" => (HEADER..len).step_by(8).map(|at| (at, 8)).collect(),
        "RSD PTR " => vec![(16, 4), (24, 8)],
        _ => Vec::new(),
    }
}

#[derive(Default)]
struct Script(Vec<u8>);

impl Script {
    fn command(&mut self, number: u32, names: &[&str], rest: &[u8]) {
        let end = self.0.len() + COMMAND;
        self.0.extend(number.to_le_bytes());
        for name in names {
            let end = self.0.len() + NAME;
            self.0.extend(name.as_bytes());
            self.0.resize(end, 0);
        }
        self.0.extend(rest);
        self.0.resize(end, 0);
    }

    fn allocate(&mut self, file: &str, align: u32, zone: u8) {
        let [a, b, c, d] = align.to_le_bytes();
        self.command(1, &[file], &[a, b, c, d, zone]);
    }

    /// All pointers lead to the file of tables.
    fn pointer(&mut self, file: &str, offset: usize, size: u8) {
        let [a, b, c, d] = (offset as u32).to_le_bytes();
        self.command(2, &[file, TABLES_FILE], &[a, b, c, d, size]);
    }

    fn checksum(&mut self, file: &str, at: usize, start: usize, len: usize) {
        let fields = [at, start, len].map(|n| (n as u32).to_le_bytes());
        self.command(3, &[file], fields.as_flattened());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::acpi::checksum;

    /// Executes the script as firmware does; the RSDP ends up at F5AB0h, the tables at 3FFE_1000h.
    fn execute(files: &LoaderFiles) -> HashMap<String, (u64, Vec<u8>)> {
        let [rsdp, tables, (_, script)] = files.files.clone();
        let mut memory =
            HashMap::from([(rsdp.0.to_owned(), (0xf_5ab0u64, rsdp.1)), (tables.0.to_owned(), (0x3ffe_1000, tables.1))]);
        let name = |b: &[u8]| String::from_utf8(b.iter().copied().take_while(|b| *b != 0).collect()).unwrap();
        let word = |b: &[u8]| u32::from_le_bytes(b[..4].try_into().unwrap()) as usize;
        let mut allocated = Vec::new();
        for c in script.chunks(COMMAND) {
            match word(c) {
                1 => allocated.push(name(&c[4..60])),
                2 => {
                    assert!(allocated.contains(&name(&c[4..60])));
                    let (base, _) = memory[&name(&c[60..116])];
                    let (at, size) = (word(&c[116..]), usize::from(c[120]));
                    let (_, dest) = memory.get_mut(&name(&c[4..60])).unwrap();
                    let mut value = [0; 8];
                    value[..size].copy_from_slice(&dest[at..at + size]);
                    let value = u64::from_le_bytes(value) + base;
                    dest[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
                }
                3 => {
                    let (_, dest) = memory.get_mut(&name(&c[4..60])).unwrap();
                    let (at, start, len) = (word(&c[60..]), word(&c[64..]), word(&c[68..]));
                    assert_eq!(dest[at], 0);
                    dest[at] = checksum(&dest[start..start + len]);
                }
                n => panic!("command {n}"),
            }
        }
        memory
    }

    #[test]
    fn the_script_links_the_tables() {
        let config = AcpiConfig { cpus: 2, s5: 5, hpet: Some(0x8086_a201), ..AcpiConfig::default() };
        let memory = execute(&loader(&config));
        let (_, rsdp) = &memory[RSDP_FILE];
        let (base, blob) = &memory[TABLES_FILE];
        assert_eq!((checksum(&rsdp[..20]), checksum(rsdp)), (0, 0));
        let table = |at: u64| {
            let at = (at - base) as usize;
            let len = u32::from_le_bytes(blob[at + 4..at + 8].try_into().unwrap()) as usize;
            let bytes = &blob[at..at + len];
            if &bytes[..4] != b"FACS" {
                assert_eq!(checksum(bytes), 0);
            }
            bytes.to_vec()
        };
        let long = |b: &[u8]| u64::from_le_bytes(b[..8].try_into().unwrap());
        let word = |b: &[u8]| u64::from(u32::from_le_bytes(b[..4].try_into().unwrap()));
        let xsdt = table(long(&rsdp[24..]));
        let rsdt = table(word(&rsdp[16..]));
        let names: Vec<_> = xsdt[36..].chunks(8).map(|p| table(long(p))[..4].to_vec()).collect();
        assert_eq!(names, [b"FACP", b"APIC", b"HPET"]);
        let same: Vec<_> = rsdt[36..].chunks(4).map(|p| table(word(p))[..4].to_vec()).collect();
        assert_eq!(same, names);
        let fadt = table(long(&xsdt[36..]));
        assert_eq!(table(word(&fadt[36..]))[..4], *b"FACS");
        assert_eq!(table(word(&fadt[40..]))[..4], *b"DSDT");
        assert_eq!(long(&fadt[140..]), word(&fadt[40..]));
    }
}
