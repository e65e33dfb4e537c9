//! Unpacking the kernel inside a bzImage on the host.
//!
//! The payload is the compressed vmlinux; its last four bytes are the unpacked size (gzip's own trailer says the same).

use std::io::Read;

use crate::elf::{is_elf, le32};

/// The largest kernel that is unpacked; a larger one is damaged or not worth it.
const MAX: usize = 256 << 20;
/// Magic of the "legacy" LZ4 format, which Linux uses: blocks with a 32-bit length, each of up to 8 MiB unpacked.
const LZ4_LEGACY: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
const LZ4_BLOCK: usize = 8 << 20;
/// A byte of LZ4 data stands for at most so many (a length is told 255 at a time).
const LZ4_RATIO: usize = 256;
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The vmlinux in `payload`, or why it cannot be had.
pub(crate) fn vmlinux(payload: Option<&[u8]>) -> Result<Vec<u8>, String> {
    let payload = payload.ok_or("its header does not tell where its payload is")?;
    let out = if payload.starts_with(&LZ4_LEGACY) {
        lz4(payload)?
    } else if payload.starts_with(&GZIP) {
        gzip(payload)?
    } else {
        return Err(format!("its payload is {}, not LZ4 or gzip", crate::identify::describe(payload)));
    };
    if is_elf(&out) { Ok(out) } else { Err("its payload is no ELF file".into()) }
}

fn lz4(payload: &[u8]) -> Result<Vec<u8>, String> {
    let body_end = payload.len() - 4;
    let size = le32(payload, body_end).unwrap_or(0) as usize;
    if size > MAX || size / LZ4_RATIO > payload.len() {
        return Err(format!("its unpacked size of {size} bytes is implausible"));
    }
    let mut out = vec![0; size];
    let mut written = 0;
    let mut rest = payload.get(4..body_end).unwrap_or_default();
    while !rest.is_empty() {
        let len = le32(rest, 0).ok_or("its LZ4 data is damaged")? as usize;
        rest = &rest[4..];
        // Concatenated streams repeat the magic.
        if len as u32 == u32::from_le_bytes(LZ4_LEGACY) {
            continue;
        }
        let block = rest.get(..len).ok_or("its LZ4 data is damaged")?;
        let to = out.len().min(written + LZ4_BLOCK);
        written += lz4_flex::block::decompress_into(block, &mut out[written..to])
            .map_err(|e| format!("its LZ4 data is damaged ({e})"))?;
        rest = &rest[len..];
    }
    if written == size { Ok(out) } else { Err(format!("it unpacks to {written} bytes instead of {size}")) }
}

/// The kernel in a file that was compressed as a whole, as boot loaders accept it; `None` if it was not.
pub(crate) fn file(kernel: &[u8]) -> Option<Result<Vec<u8>, String>> {
    kernel.starts_with(&GZIP).then(|| gzip(kernel))
}

fn gzip(payload: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let read = flate2::read::GzDecoder::new(payload).take(MAX as u64 + 1).read_to_end(&mut out);
    read.map_err(|e| format!("its gzip data is damaged ({e})"))?;
    if out.len() > MAX { Err("its unpacked size is implausible".into()) } else { Ok(out) }
}
