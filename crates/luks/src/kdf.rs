//! From a passphrase to the key of a slot: Argon2 or PBKDF2, with bounds on what a header may demand.

use zeroize::Zeroizing;

use crate::hash::Hash;
use crate::{LuksError, Result};

/// Most memory that a slot may demand, in KiB; what `cryptsetup` makes at most by itself.
const MAX_MEMORY: u32 = 1 << 20;
/// Most passes over the memory.
const MAX_TIME: u32 = 1000;
/// Most passes times memory in KiB: some tens of seconds.
const MAX_WORK: u64 = 64 << 20;
/// Most lanes.
const MAX_LANES: u32 = 64;
/// Most iterations of PBKDF2: some tens of seconds.
const MAX_ITERATIONS: u32 = 200_000_000;

/// How a new slot stretches its passphrase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kdf {
    /// Argon2id.
    Argon2id {
        /// Passes.
        time: u32,
        /// KiB.
        memory: u32,
        /// Lanes.
        lanes: u32,
    },
    /// PBKDF2 with SHA-256.
    Pbkdf2 {
        /// Iterations, at least 1000.
        iterations: u32,
    },
}

impl Default for Kdf {
    /// The second recommended option of RFC 9106 §4 with one pass more, which `cryptsetup` wants at least.
    fn default() -> Self {
        Kdf::Argon2id { time: 4, memory: 64 << 10, lanes: 4 }
    }
}

/// The derivation of an existing slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Derivation {
    Argon2 { id: bool, time: u32, memory: u32, lanes: u32, salt: Vec<u8> },
    Pbkdf2 { hash: Hash, iterations: u32, salt: Vec<u8> },
}

impl Derivation {
    /// What a person calls it.
    pub(crate) fn describe(&self) -> String {
        match self {
            Derivation::Argon2 { id, time, memory, lanes, .. } => {
                let name = if *id { "argon2id" } else { "argon2i" };
                format!("{name}, {time} passes over {} MiB, {lanes} lanes", memory >> 10)
            }
            Derivation::Pbkdf2 { hash, iterations, .. } => format!("pbkdf2-{}, {iterations} iterations", hash.name()),
        }
    }

    /// The key of `len` bytes that belongs to `secret`.
    ///
    /// # Errors
    /// `Unsupported` where the header demands more work or memory than is carried out.
    pub(crate) fn derive(&self, secret: &[u8], len: usize) -> Result<Zeroizing<Vec<u8>>> {
        let mut key = Zeroizing::new(vec![0; len]);
        match self {
            Derivation::Pbkdf2 { hash, iterations, salt } => {
                if *iterations == 0 || *iterations > MAX_ITERATIONS {
                    return Err(LuksError::unsupported(format!(
                        "a key slot demands {iterations} iterations; at most {MAX_ITERATIONS} are carried out"
                    )));
                }
                hash.pbkdf2(secret, salt, *iterations, &mut key);
            }
            Derivation::Argon2 { id, time, memory, lanes, salt } => {
                let work = u64::from(*time) * u64::from(*memory);
                if *memory > MAX_MEMORY || *time > MAX_TIME || work > MAX_WORK || *lanes > MAX_LANES {
                    return Err(LuksError::unsupported(format!(
                        "a key slot demands {time} passes over {} MiB in {lanes} lanes; at most {} GiB of memory and {} GiB \
                         of work are carried out",
                        memory >> 10,
                        MAX_MEMORY >> 20,
                        MAX_WORK >> 20
                    )));
                }
                let bad = |e: argon2::Error| LuksError::damaged(format!("a key slot with impossible parameters: {e}"));
                let params = argon2::Params::new(*memory, *time, *lanes, Some(len)).map_err(bad)?;
                let algorithm = if *id { argon2::Algorithm::Argon2id } else { argon2::Algorithm::Argon2i };
                argon2::Argon2::new(algorithm, argon2::Version::V0x13, params)
                    .hash_password_into(secret, salt, &mut key)
                    .map_err(bad)?;
            }
        }
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_header_may_demand_is_bounded() {
        let argon = |time, memory, lanes| Derivation::Argon2 { id: true, time, memory, lanes, salt: vec![1; 32] };
        for bad in [argon(1, u32::MAX, 1), argon(u32::MAX, 8, 1), argon(1000, 1 << 20, 1), argon(1, 1 << 12, 1 << 20)] {
            assert!(bad.derive(b"x", 64).is_err());
        }
        for bad in [argon(0, 64, 1), argon(1, 0, 1), argon(1, 64, 0)] {
            assert!(bad.derive(b"x", 64).is_err());
        }
        let pbkdf = |iterations| Derivation::Pbkdf2 { hash: Hash::Sha256, iterations, salt: vec![1; 32] };
        assert!(pbkdf(u32::MAX).derive(b"x", 64).is_err() && pbkdf(0).derive(b"x", 64).is_err());
        assert_ne!(pbkdf(1000).derive(b"x", 64).unwrap(), pbkdf(1001).derive(b"x", 64).unwrap());
    }
}
