//! The hashes that headers name.

use sha1::Sha1;
use sha2::digest::Digest;
use sha2::{Sha256, Sha512};

use crate::{LuksError, Result};

/// A hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hash {
    Sha1,
    Sha256,
    Sha512,
}

impl Hash {
    pub(crate) fn parse(name: &str) -> Result<Self> {
        match name {
            "sha1" => Ok(Hash::Sha1),
            "sha256" => Ok(Hash::Sha256),
            "sha512" => Ok(Hash::Sha512),
            other => Err(LuksError::unsupported(format!("the hash `{}` is not known here", other.escape_debug()))),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Hash::Sha1 => "sha1",
            Hash::Sha256 => "sha256",
            Hash::Sha512 => "sha512",
        }
    }

    /// Bytes of a digest.
    pub(crate) fn len(self) -> usize {
        match self {
            Hash::Sha1 => 20,
            Hash::Sha256 => 32,
            Hash::Sha512 => 64,
        }
    }

    /// The digest of `parts`, one behind the other, in the first [`Hash::len`] bytes.
    pub(crate) fn digest(self, parts: &[&[u8]]) -> [u8; 64] {
        fn all<D: Digest>(parts: &[&[u8]], out: &mut [u8]) {
            let mut hash = D::new();
            parts.iter().for_each(|p| hash.update(p));
            out.copy_from_slice(&hash.finalize());
        }
        let mut out = [0; 64];
        match self {
            Hash::Sha1 => all::<Sha1>(parts, &mut out[..20]),
            Hash::Sha256 => all::<Sha256>(parts, &mut out[..32]),
            Hash::Sha512 => all::<Sha512>(parts, &mut out[..64]),
        }
        out
    }

    /// PBKDF2 with HMAC of this hash.
    pub(crate) fn pbkdf2(self, secret: &[u8], salt: &[u8], iterations: u32, out: &mut [u8]) {
        match self {
            Hash::Sha1 => pbkdf2::pbkdf2_hmac::<Sha1>(secret, salt, iterations, out),
            Hash::Sha256 => pbkdf2::pbkdf2_hmac::<Sha256>(secret, salt, iterations, out),
            Hash::Sha512 => pbkdf2::pbkdf2_hmac::<Sha512>(secret, salt, iterations, out),
        }
    }
}
