//! Headers of encrypted volumes.

use visor_luks::{FormatOptions, Kdf, Luks};

use super::memory::MemoryFile;
use super::patches;
use crate::{Input, Script};

/// Work that a key slot may demand here, in iterations; what more costs is bounded elsewhere, and slow.
const ITERATIONS: u64 = 10_000;

/// Every second header gets a checksum that is right.
pub(super) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let fix = input.u8() & 1 == 0;
    let mut file = patches::read(&mut input);
    if fix {
        for at in [0, 0x4000] {
            checksum(&mut file, at);
        }
    }
    let medium = MemoryFile::new(&file);
    let Ok(mut luks) = Luks::read(&medium) else { return };
    let _ = (luks.version(), luks.uuid(), luks.cipher(), luks.sector_size(), luks.data_offset(), luks.warning());
    let slots = luks.slots();
    let cheap = |text: &str| {
        let work = text.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u64>().ok()).filter(|n| *n != 2);
        text.starts_with("pbkdf2") && work.max().is_some_and(|n| n <= ITERATIONS)
    };
    if slots.iter().all(|s| cheap(&s.kdf))
        && let Ok(key) = luks.unlock(&medium, b"secret")
    {
        let _ = luks.add_key(&medium, &key, b"other", Kdf::Pbkdf2 { iterations: 1000 });
        let _ = luks.remove_key(&medium, key.slot, true);
    }
}

/// SHA-256 over the binary header with an empty checksum field, and the text behind it.
fn checksum(file: &mut [u8], at: usize) {
    use sha2::Digest;
    let Some(size) = file.get(at + 8..at + 16).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes) else { return };
    let size = usize::try_from(size).unwrap_or(usize::MAX).min(file.len() - at);
    if size >= 4096 {
        file[at + 448..at + 512].fill(0);
        let sum = sha2::Sha256::digest(&file[at..at + size]);
        file[at + 448..at + 480].copy_from_slice(&sum);
    }
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let medium = MemoryFile::new(&[]);
    let _ = visor_qcow2::Storage::set_size(&medium, 17 << 20);
    let options = FormatOptions { kdf: Kdf::Pbkdf2 { iterations: 1000 }, ..FormatOptions::default() };
    if Luks::format(&medium, b"secret", &options).is_err() {
        return Vec::new();
    }
    // The key material is noise: without it the seed is small, and the key is wrong.
    let mut header = medium.content();
    header.truncate(1 << 20);
    header[0x8000..].fill(0);
    let one = {
        let mut h = vec![0; 64 << 10];
        h[..8].copy_from_slice(b"LUKS\xba\xbe\0\x01");
        h[8..11].copy_from_slice(b"aes");
        h[40..51].copy_from_slice(b"xts-plain64");
        h[72..78].copy_from_slice(b"sha256");
        h[104..112].copy_from_slice(&[0, 0, 16, 0, 0, 0, 0, 64]);
        h[164..168].copy_from_slice(&[0, 0, 3, 232]);
        h[168..204].copy_from_slice(b"11111111-2222-3333-4444-555555555555");
        h[208..216].copy_from_slice(&[0, 0xac, 0x71, 0xf3, 0, 0, 3, 232]);
        h[248..256].copy_from_slice(&[0, 0, 0, 8, 0, 0, 0x0f, 0xa0]);
        h
    };
    [header, one].iter().map(|h| Script::new().raw(&[0]).raw(&patches::write(h).end()).end()).collect()
}
