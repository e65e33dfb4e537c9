//! What the drive can do: features and profiles, events, performance, mechanism.

use super::{Answer, CD_BLOCKS, Cdrom};
use crate::scsi::{be16, byte, cut, sense};
use crate::step::Step;

const PROFILE_CD: u16 = 0x0008;
const PROFILE_DVD: u16 = 0x0010;

/// Speed in kB/s that is told where one must be: 32 times a DVD's single speed is as good as any.
const SPEED: u32 = 44_320;

impl Cdrom {
    /// The current profile: 0 without a disc (MMC-6 §5.3.1).
    fn profile(&self) -> u16 {
        match self.disc() {
            Err(_) => 0,
            Ok(disc) if disc.blocks > CD_BLOCKS => PROFILE_DVD,
            Ok(_) => PROFILE_CD,
        }
    }

    /// GET CONFIGURATION (MMC-6 §6.5): byte 1 chooses all features (0), the current ones (1) or one (2).
    pub(super) fn configuration(&self, cdb: &[u8]) -> Answer {
        let (kind, from) = (byte(cdb, 1) & 3, be16(cdb, 2));
        if kind == 3 {
            return Err(sense::BAD_FIELD);
        }
        let profile = self.profile();
        let mut data = vec![0; 8];
        data[6..8].copy_from_slice(&profile.to_be_bytes());
        for (code, current, body) in features(profile) {
            let wanted = match kind {
                0 => code >= from,
                1 => code >= from && current,
                _ => code == from,
            };
            if wanted {
                data.extend(code.to_be_bytes());
                // Persistent features are always current; version 0 of most, 1 and 2 of some.
                data.extend([
                    version(code) << 2 | u8::from(persistent(code)) << 1 | u8::from(current),
                    body.len() as u8,
                ]);
                data.extend(body);
            }
        }
        let len = (data.len() - 4) as u32;
        data[..4].copy_from_slice(&len.to_be_bytes());
        Ok(Step::DataIn(cut(data, usize::from(be16(cdb, 7)))))
    }

    /// GET EVENT STATUS NOTIFICATION, polled (MMC-6 §6.6): byte 4 asks for classes; only that of media (4) exists.
    pub(super) fn event_status(&self, cdb: &[u8]) -> Answer {
        const MEDIA: u8 = 4;
        if byte(cdb, 1) & 1 == 0 {
            // Waiting for events would hold up the whole cable.
            return Err(sense::BAD_FIELD);
        }
        let data = if byte(cdb, 4) & 1 << MEDIA != 0 {
            let event = self.tray.take_event() as u8;
            let status = u8::from(self.tray.is_open()) | u8::from(self.disc().is_ok()) << 1;
            vec![0, 6, MEDIA, 1 << MEDIA, event, status, 0, 0]
        } else {
            vec![0, 2, 0x80, 1 << MEDIA] // no event available
        };
        Ok(Step::DataIn(cut(data, usize::from(be16(cdb, 7)))))
    }

    /// MECHANISM STATUS (MMC-6 §6.11): one disc, no changer.
    pub(super) fn mechanism(&self, cdb: &[u8]) -> Answer {
        let open = if self.tray.is_open() { 0x10 } else { 0 };
        Ok(Step::DataIn(cut(vec![0, open, 0, 0, 0, 1, 0, 0], usize::from(be16(cdb, 8)))))
    }

    /// GET PERFORMANCE (MMC-6 §6.8), nominal reading speed over the whole disc.
    pub(super) fn performance(&self, cdb: &[u8]) -> Answer {
        if byte(cdb, 10) != 0 || byte(cdb, 1) & 4 != 0 {
            return Err(sense::BAD_FIELD);
        }
        let last = self.disc()?.blocks - 1;
        let mut data = vec![0, 0, 0, 20, 0, 0, 0, 0];
        for field in [0, SPEED, last, SPEED] {
            data.extend(field.to_be_bytes());
        }
        let most = usize::from(be16(cdb, 8)).saturating_mul(16).saturating_add(8);
        Ok(Step::DataIn(cut(data, most)))
    }
}

/// Features with what describes them, in ascending order (MMC-6 §5.3).
fn features(profile: u16) -> Vec<(u16, bool, Vec<u8>)> {
    let list = |p: u16| [(p >> 8) as u8, p as u8, u8::from(p == profile), 0];
    let (cd, dvd) = (profile == PROFILE_CD, profile == PROFILE_DVD);
    vec![
        (0x0000, true, [list(PROFILE_DVD), list(PROFILE_CD)].concat()),
        (0x0001, true, vec![0, 0, 0, 2, 1, 0, 0, 0]), // core: ATAPI, device busy events
        (0x0002, true, vec![0, 0, 0, 0]),             // morphing: media events, polled
        (0x0003, true, vec![0x39, 0, 0, 0]),          // tray; ejects, locks, loads by command
        (0x0010, cd || dvd, vec![0, 0, 8, 0, 0, 1, 0, 0]), // random readable: blocks of 2048, one at a time
        (0x001e, cd, vec![0, 0, 0, 0]),               // CD read
        (0x001f, dvd, vec![0, 0, 0, 0]),              // DVD read
        (0x0100, true, vec![]),                       // power management
        (0x0105, true, vec![0, 0, 0, 0]),             // timeouts
    ]
}

fn persistent(code: u16) -> bool {
    matches!(code, 0..=3 | 0x100 | 0x105)
}

fn version(code: u16) -> u8 {
    match code {
        0x0001 | 0x001e => 2,
        0x0002 | 0x0105 => 1,
        0x0003 => 2,
        _ => 0,
    }
}
