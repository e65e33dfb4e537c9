//! What is told of the disc: one session with one data track.

use super::read::to_msf;
use super::{Answer, CD_BLOCKS, Cdrom};
use crate::scsi::{be16, be32, byte, cut, sense};
use crate::step::Step;

/// Control and address fields of a data track, uninterrupted (MMC-6 §4.2.3.4, ADR 1).
const DATA_TRACK: u8 = 0x14;
const LEAD_OUT: u8 = 0xaa;

impl Cdrom {
    /// READ TOC/PMA/ATIP (MMC-6 §6.26): formats 0 (tracks), 1 (sessions) and 2 (everything).
    pub(super) fn toc(&self, cdb: &[u8]) -> Answer {
        let disc = self.disc()?;
        let msf = byte(cdb, 1) & 2 != 0;
        let at = |block: u32| if msf { to_msf(block) } else { block.to_be_bytes() };
        // Old drivers have the format in the last byte (SFF-8020).
        let format = if byte(cdb, 2) & 15 != 0 { byte(cdb, 2) & 15 } else { byte(cdb, 9) >> 6 };
        let mut toc = vec![0, 0, 1, 1];
        match format {
            0 => {
                let from = byte(cdb, 6);
                if from > 1 && from != LEAD_OUT {
                    return Err(sense::BAD_FIELD);
                }
                if from <= 1 {
                    toc.extend([0, DATA_TRACK, 1, 0]);
                    toc.extend(at(0));
                }
                toc.extend([0, DATA_TRACK, LEAD_OUT, 0]);
                toc.extend(at(disc.blocks));
            }
            1 => {
                toc.extend([0, DATA_TRACK, 1, 0]);
                toc.extend(at(0));
            }
            2 => {
                let [_, m, s, f] = to_msf(disc.blocks);
                // First track, last track, start of the lead-out, the track (MMC-6 table 481).
                for (point, pm, ps, pf) in [(0xa0, 1, 0, 0), (0xa1, 1, 0, 0), (0xa2, m, s, f), (1, 0, 2, 0)] {
                    toc.extend([1, DATA_TRACK, 0, point, 0, 0, 0, 0, pm, ps, pf]);
                }
            }
            _ => return Err(sense::BAD_FIELD),
        }
        let len = (toc.len() - 2) as u16;
        toc[..2].copy_from_slice(&len.to_be_bytes());
        Ok(Step::DataIn(cut(toc, usize::from(be16(cdb, 7)))))
    }

    /// READ DISC INFORMATION (MMC-6 §6.22).
    pub(super) fn disc_information(&self, cdb: &[u8]) -> Answer {
        self.disc()?;
        if byte(cdb, 1) & 7 != 0 {
            return Err(sense::BAD_FIELD);
        }
        let mut data = vec![0; 34];
        data[1] = 32;
        data[2] = 0x0e; // complete disc, complete session, not erasable
        data[3..7].copy_from_slice(&[1, 1, 1, 1]); // first track; sessions; first and last track of the last
        data[7] = 0x20; // unrestricted use
        Ok(Step::DataIn(cut(data, usize::from(be16(cdb, 7)))))
    }

    /// READ TRACK INFORMATION (MMC-6 §6.27) of the only track, by number or by an address in it.
    pub(super) fn track_information(&self, cdb: &[u8]) -> Answer {
        let disc = self.disc()?;
        let at = be32(cdb, 2);
        let found = match byte(cdb, 1) & 3 {
            0 => at < disc.blocks,
            1 | 2 => at == 1,
            _ => false,
        };
        if !found {
            return Err(sense::BAD_FIELD);
        }
        let mut data = vec![0; 36];
        data[1] = 34;
        data[2..4].copy_from_slice(&[1, 1]); // track, session
        data[5] = 0x04; // data track
        data[6] = 0x01; // mode 1
        data[24..28].copy_from_slice(&disc.blocks.to_be_bytes());
        Ok(Step::DataIn(cut(data, usize::from(be16(cdb, 7)))))
    }

    /// READ SUB-CHANNEL (MMC-6 §6.25): no audio is playing.
    pub(super) fn sub_channel(&self, cdb: &[u8]) -> Answer {
        self.disc()?;
        let mut data = vec![0, 0x15, 0, 0];
        if byte(cdb, 2) & 0x40 != 0 {
            match byte(cdb, 3) {
                1 => data.extend([1, DATA_TRACK, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
                // Neither catalogue number nor ISRC.
                n @ (2 | 3) => {
                    data.push(n);
                    data.resize(24, 0);
                }
                _ => return Err(sense::BAD_FIELD),
            }
        }
        data[3] = (data.len() - 4) as u8;
        Ok(Step::DataIn(cut(data, usize::from(be16(cdb, 7)))))
    }

    /// READ DISC STRUCTURE (MMC-6 §6.23) of a DVD: layer and size, copyright (none), manufacturer (empty).
    pub(super) fn structure(&self, cdb: &[u8]) -> Answer {
        let disc = self.disc()?;
        // The list of structures is there for all discs; they themselves only for DVDs.
        let format = byte(cdb, 7);
        if byte(cdb, 1) & 15 != 0 || byte(cdb, 6) != 0 {
            return Err(sense::BAD_FIELD);
        }
        if format != 0xff && disc.blocks <= CD_BLOCKS {
            return Err(sense::WRONG_MEDIUM);
        }
        let body: Vec<u8> = match format {
            0x00 => {
                let mut layer = vec![0; 2048];
                layer[0] = 0x01; // DVD-ROM, version 1
                layer[1] = 0x0f; // 120 mm, rate not specified
                layer[2] = 0x01; // one layer, embossed
                layer[4..8].copy_from_slice(&0x0003_0000u32.to_be_bytes());
                layer[8..12].copy_from_slice(&0x0003_0000u32.saturating_add(disc.blocks - 1).to_be_bytes());
                layer
            }
            0x01 => vec![0; 4],
            0x04 => vec![0; 2048],
            0xff => vec![0x00, 0x40, 0x08, 0x04, 0x01, 0x40, 0, 8, 0x04, 0x40, 0x08, 0x04, 0xff, 0x40, 0, 0x14],
            _ => return Err(sense::BAD_FIELD),
        };
        let mut data = ((body.len() + 2) as u16).to_be_bytes().to_vec();
        data.extend([0, 0]);
        data.extend(body);
        Ok(Step::DataIn(cut(data, usize::from(be16(cdb, 8)))))
    }

    /// REPORT KEY (MMC-6 §6.29), region state: any region, no protection. There are no keys.
    pub(super) fn report_key(&self, cdb: &[u8]) -> Answer {
        if (byte(cdb, 7), byte(cdb, 10) & 0x3f) != (0, 0x08) {
            return Err(sense::BAD_FIELD);
        }
        Ok(Step::DataIn(cut(vec![0, 6, 0, 0, 0x25, 0xff, 0, 0], usize::from(be16(cdb, 8)))))
    }
}
