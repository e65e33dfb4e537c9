//! VirtualBox disk images, version 1.1: dynamic and fixed. (The format is described in VirtualBox's `VDICore.h`.)
//!
//! ```text
//! 40 signature  44 version  48 header size  4C type (1 dynamic, 2 fixed)
//! 154 block map at  158 data at  170 disk size  178 block size  17C extra per block  180 blocks
//! block map: 32 bits for each block; FFFFFFFF free, FFFFFFFE zero
//! ```

use std::fs::File;

use visor_qcow2::Result;

use super::blocks::{Blocks, Place, Table};
use super::bytes::{le32, le64, read_vec};
use super::{corrupt, unsupported};

const SIGNATURE: u32 = 0xbeda_107f;
const FREE: u32 = 0xffff_ffff;
const ZERO: u32 = 0xffff_fffe;
/// Most blocks: a map of 512 MiB.
const MAX_BLOCKS: u32 = 1 << 27;

pub(super) struct Map {
    blocks: Vec<u32>,
    data_at: u64,
    block: u64,
    extra: u64,
}

pub(super) fn open(file: File) -> Result<Blocks<Map>> {
    let h = read_vec(&file, 0, 512)?;
    if le32(&h, 0x40) != SIGNATURE {
        return Err(corrupt("not a VDI image"));
    }
    if le32(&h, 0x44) != 0x0001_0001 {
        return Err(unsupported(format!("VDI version {:#x}", le32(&h, 0x44))));
    }
    let kind = le32(&h, 0x4c);
    if !matches!(kind, 1 | 2) {
        return Err(unsupported(format!("a VDI image of type {kind}; merge its snapshots in VirtualBox first")));
    }
    let (block, count, size) = (u64::from(le32(&h, 0x178)), le32(&h, 0x180), le64(&h, 0x170));
    if !block.is_power_of_two() || !(4096..=1 << 28).contains(&block) || count > MAX_BLOCKS {
        return Err(corrupt(format!("{count} blocks of {block} bytes")));
    }
    if size.div_ceil(block) > u64::from(count) || size == 0 || !size.is_multiple_of(512) {
        return Err(corrupt(format!("{count} blocks of {block} bytes do not make {size} bytes")));
    }
    let map = read_vec(&file, u64::from(le32(&h, 0x154)), u64::from(count) * 4)?;
    let blocks = map.chunks_exact(4).map(|b| le32(b, 0)).collect();
    let extra = u64::from(le32(&h, 0x17c));
    if extra > block {
        return Err(corrupt("more extra data than data"));
    }
    let table = Map { blocks, data_at: u64::from(le32(&h, 0x158)), block, extra };
    Ok(Blocks { file, size, table, parent: None })
}

impl Table for Map {
    fn place(&self, _file: &File, at: u64) -> Result<(Place, u64)> {
        let (index, within) = (at / self.block, at % self.block);
        let place = match self.blocks.get(index as usize).copied().unwrap_or(FREE) {
            FREE | ZERO => Place::Zero,
            n => Place::At(self.data_at + u64::from(n) * (self.block + self.extra) + self.extra + within),
        };
        Ok((place, self.block - within))
    }
}
