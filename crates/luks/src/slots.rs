//! Opening a volume with a key, and adding and removing keys.

use zeroize::Zeroizing;

use crate::cipher::Xts;
use crate::error::random;
use crate::hash::Hash;
use crate::header::{Luks, Slot, VolumeKey};
use crate::kdf::{Derivation, Kdf};
use crate::luks2::MAX_SLOTS;
use crate::{LuksError, LuksErrorKind, Medium, Result, af, luks2};

/// Stripes of new slots.
const STRIPES: usize = 4000;

impl Luks {
    /// The volume's key, if one of the slots opens with `secret`: a passphrase, or the whole contents of a key file.
    ///
    /// # Errors
    /// [`LuksErrorKind::WrongKey`]; [`LuksErrorKind::Unsupported`] where that cannot be known because of a slot that demands too
    /// much; [`LuksErrorKind::Io`].
    pub fn unlock(&self, medium: &dyn Medium, secret: &[u8]) -> Result<VolumeKey> {
        let mut skipped = None;
        for (id, slot) in &self.slots {
            match self.try_slot(medium, slot, secret) {
                Ok(Some(key)) => return Ok(VolumeKey { key, slot: *id }),
                Ok(None) => {}
                Err(e) if e.kind == LuksErrorKind::Io => return Err(e),
                Err(e) => skipped = Some(e),
            }
        }
        Err(skipped.unwrap_or_else(|| LuksError::new(LuksErrorKind::WrongKey, "no key slot opens with this key")))
    }

    fn try_slot(&self, medium: &dyn Medium, slot: &Slot, secret: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>> {
        let key = slot.derivation.derive(secret, slot.area_key_len)?;
        let len = slot.material_len();
        let mut material = Zeroizing::new(vec![0; len.next_multiple_of(512)]);
        medium.read_at(&mut material, slot.at).map_err(|e| LuksError::host("read a key slot", e))?;
        Xts::new(&key)?.decrypt(&mut material, 512, 0);
        let key = af::merge(&material[..len], slot.key_len, slot.hash);
        let d = &self.digest;
        let mut digest = vec![0; d.digest.len()];
        let check = Derivation::Pbkdf2 { hash: d.hash, iterations: d.iterations, salt: d.salt.clone() };
        digest.copy_from_slice(&check.derive(&key, d.digest.len())?);
        Ok((digest == d.digest).then_some(key))
    }

    /// Lets `secret` open the volume as well. Returns the number of its slot.
    ///
    /// # Errors
    /// [`LuksErrorKind::Unsupported`] for LUKS1, [`LuksErrorKind::Slot`] without room, otherwise the host's. Other keys are
    /// never touched: the new one counts once it is completely there.
    pub fn add_key(&mut self, medium: &dyn Medium, volume: &VolumeKey, secret: &[u8], kdf: Kdf) -> Result<u32> {
        let document = self.document.as_mut().ok_or_else(old_version)?;
        let full = || LuksError::new(LuksErrorKind::Slot, "the volume has no room for another key");
        let id = (0..MAX_SLOTS).find(|id| !document.has_slot(*id)).ok_or_else(full)?;
        let key_len = volume.key.len();
        let area_len = ((key_len * STRIPES) as u64).next_multiple_of(4096);
        let (start, end) = document.keys();
        let at = gap(document.areas(), start, end, area_len).ok_or_else(full)?;
        let mut salt = vec![0; 32];
        random(&mut salt)?;
        let derivation = match kdf {
            Kdf::Argon2id { time, memory, lanes } => Derivation::Argon2 { id: true, time, memory, lanes, salt },
            Kdf::Pbkdf2 { iterations } => Derivation::Pbkdf2 { hash: Hash::Sha256, iterations, salt },
        };
        let slot = Slot { key_len, derivation, stripes: STRIPES, hash: Hash::Sha256, at, area_len, area_key_len: 64 };
        let key = slot.derivation.derive(secret, slot.area_key_len)?;
        let mut material = af::split(&volume.key, STRIPES, slot.hash)?;
        let len = material.len().next_multiple_of(512);
        material.resize(len, 0);
        Xts::new(&key)?.encrypt(&mut material, 512, 0);
        medium.write_at(&material, at).map_err(|e| LuksError::host("write a key slot", e))?;
        medium.flush().map_err(|e| LuksError::host("write a key slot", e))?;
        luks2::set_slot(document, id, Some(&slot))?;
        luks2::write(document, medium)?;
        self.slots.insert(id, slot);
        self.warning = None;
        Ok(id)
    }

    /// Removes the key in slot `id` for good: what was stored of it is overwritten. The last key goes only with `last`, after
    /// which nobody can read the data again.
    ///
    /// # Errors
    /// [`LuksErrorKind::Unsupported`] for LUKS1, [`LuksErrorKind::Slot`] if there is none, [`LuksErrorKind::LastKey`],
    /// otherwise the host's.
    pub fn remove_key(&mut self, medium: &dyn Medium, id: u32, last: bool) -> Result<()> {
        let document = self.document.as_mut().ok_or_else(old_version)?;
        let none = || LuksError::new(LuksErrorKind::Slot, format!("there is no key slot {id}"));
        let slot = self.slots.get(&id).ok_or_else(none)?;
        if self.slots.len() == 1 && !last {
            let what = "this is the last key: without it nobody can read the disk again";
            return Err(LuksError::new(LuksErrorKind::LastKey, what));
        }
        let host = |e| LuksError::host("overwrite a key slot", e);
        let mut noise = vec![0; (slot.material_len().next_multiple_of(512)).min(slot.area_len as usize)];
        random(&mut noise)?;
        medium.write_at(&noise, slot.at).map_err(host)?;
        medium.flush().map_err(host)?;
        luks2::set_slot(document, id, None)?;
        luks2::write(document, medium)?;
        self.slots.remove(&id);
        self.warning = None;
        Ok(())
    }
}

/// The first place of `len` bytes, a multiple of 4096, that no slot has.
fn gap(mut areas: Vec<(u64, u64)>, start: u64, end: u64, len: u64) -> Option<u64> {
    areas.sort_unstable();
    let mut at = start.next_multiple_of(4096);
    for (from, size) in areas {
        if at.checked_add(len)? <= from {
            break;
        }
        at = at.max(from.checked_add(size)?.checked_next_multiple_of(4096)?);
    }
    (at.checked_add(len)? <= end).then_some(at)
}

fn old_version() -> LuksError {
    LuksError::unsupported(
        "keys of LUKS1 volumes are not changed here; `cryptsetup convert --type luks2` makes it LUKS2",
    )
}

#[cfg(test)]
mod tests {
    use super::gap;

    #[test]
    fn gaps_between_slots() {
        assert_eq!(gap(vec![], 8192, 1 << 20, 4096), Some(8192));
        assert_eq!(gap(vec![(8192, 4096), (16384, 4096)], 8192, 1 << 20, 4096), Some(12288));
        assert_eq!(gap(vec![(16384, 4096), (8192, 4096)], 8192, 1 << 20, 8192), Some(20480));
        assert_eq!(gap(vec![(8192, 4096)], 8192, 12288, 4096), None);
        assert_eq!(gap(vec![(8192, u64::MAX)], 8192, 1 << 20, 4096), None);
    }
}
