//! Compressed clusters.

use flate2::{Compress, Decompress, FlushCompress, FlushDecompress, Status};

use crate::header::Compression;
use crate::{Error, ErrorKind, Result};

/// The format's window: 4 KiB.
const WINDOW_BITS: u8 = 12;

/// Compresses a cluster; nothing if it does not become smaller.
pub(crate) fn compress(kind: Compression, data: &[u8]) -> Result<Option<Vec<u8>>> {
    let failed = |what: String| Error::new(ErrorKind::Io, format!("cannot compress: {what}"));
    match kind {
        Compression::Zlib => {
            let mut out = Vec::with_capacity(data.len());
            let mut z = Compress::new_with_window_bits(flate2::Compression::default(), false, WINDOW_BITS);
            // It stops where the room ends, which is where it would not be smaller.
            let status = z.compress_vec(data, &mut out, FlushCompress::Finish).map_err(|e| failed(e.to_string()))?;
            Ok((status == Status::StreamEnd && out.len() < data.len()).then_some(out))
        }
        Compression::Zstd => {
            let out = zstd::bulk::compress(data, 3).map_err(|e| failed(e.to_string()))?;
            Ok((out.len() < data.len()).then_some(out))
        }
    }
}

/// Fills `out`, a whole cluster, from compressed `data`, which may have anything behind its end.
pub(crate) fn decompress(kind: Compression, data: &[u8], out: &mut [u8]) -> Result<()> {
    let bad = |what: &str| Error::corrupt(format!("a compressed cluster is damaged: {what}"));
    match kind {
        Compression::Zlib => {
            let mut z = Decompress::new(false);
            match z.decompress(data, out, FlushDecompress::Finish) {
                // A stream that goes on behind a full cluster is tolerated, as by other readers.
                Ok(_) if z.total_out() == out.len() as u64 => Ok(()),
                Ok(_) => Err(bad("it ends early")),
                Err(e) => Err(bad(&e.to_string())),
            }
        }
        Compression::Zstd => {
            let mut reader = zstd::stream::read::Decoder::with_buffer(data).map_err(|e| bad(&e.to_string()))?;
            std::io::Read::read_exact(&mut reader, out).map_err(|e| bad(&e.to_string()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_survive_both_ways() {
        let data: Vec<u8> = (0..65536u32).map(|i| (i / 100) as u8).collect();
        for kind in [Compression::Zlib, Compression::Zstd] {
            let mut packed = compress(kind, &data).unwrap().unwrap();
            assert!(packed.len() < data.len() / 4);
            packed.extend([0xaa; 300]);
            let mut out = vec![0; data.len()];
            decompress(kind, &packed, &mut out).unwrap();
            assert_eq!(out, data);
            assert_eq!(decompress(kind, &packed[..40], &mut out).unwrap_err().kind, ErrorKind::Corrupt);
            assert!(decompress(kind, &[0x55; 100], &mut out).is_err());
        }
        let mut x = 1u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (x >> 33) as u8
        })
        .take(65536)
        .collect();
        assert!(compress(Compression::Zlib, &noise).unwrap().is_none());
        assert!(compress(Compression::Zstd, &noise).unwrap().is_none());
    }
}
