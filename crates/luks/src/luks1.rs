//! LUKS1: one header with eight key slots of fixed place, big-endian (specification §2.3). It is read, never written.

use std::collections::BTreeMap;

use crate::hash::Hash;
use crate::header::{KeyDigest, Luks, Segment, Slot, Version};
use crate::kdf::Derivation;
use crate::{LuksError, Result};

const ENABLED: u32 = 0x00ac_71f3;
const DISABLED: u32 = 0x0000_dead;

/// Reads a header from the first 592 bytes or more of a volume.
pub(crate) fn parse(b: &[u8; 1024]) -> Result<Luks> {
    let number = |at: usize| u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    let (cipher, mode) = (text(&b[8..40]), text(&b[40..72]));
    if (cipher.as_str(), mode.as_str()) != ("aes", "xts-plain64") {
        let name = format!("{}-{}", cipher.escape_debug(), mode.escape_debug());
        return Err(LuksError::unsupported(format!("the cipher `{name}` is not known here, only aes-xts-plain64")));
    }
    let hash = Hash::parse(&text(&b[72..104]))?;
    let key_len = number(108) as usize;
    let mut slots = BTreeMap::new();
    for id in 0..8 {
        let at = 208 + 48 * id as usize;
        match number(at) {
            DISABLED => continue,
            ENABLED => {}
            other => return Err(LuksError::damaged(format!("key slot {id} is neither used nor free ({other:#x})"))),
        }
        let salt = b[at + 8..at + 40].to_vec();
        let stripes = number(at + 44) as usize;
        slots.insert(
            id,
            Slot {
                key_len,
                derivation: Derivation::Pbkdf2 { hash, iterations: number(at + 4), salt },
                stripes,
                hash,
                at: u64::from(number(at + 40)) * 512,
                area_len: (key_len as u64).saturating_mul(stripes as u64).next_multiple_of(512),
                area_key_len: key_len,
            },
        );
    }
    Ok(Luks {
        version: Version::One,
        uuid: text(&b[168..208]),
        segment: Segment { offset: u64::from(number(104)) * 512, size: None, sector: 512, tweak: 0 },
        slots,
        digest: KeyDigest { hash, iterations: number(164), salt: b[132..164].to_vec(), digest: b[112..132].to_vec() },
        document: None,
        warning: None,
    })
}

/// Text that ends with a zero byte.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
