//! Images of other programs, as files.

use visor_disk::{Access, Format, ImageOptions, open_image};

use super::patches;
use super::sandbox::{SANDBOX, look};
use crate::{Input, Script};

fn open(input: &mut Input<'_>, file: &[u8], format: Option<Format>) {
    let path = SANDBOX.image(file);
    let options = ImageOptions { format, lock: false, ..ImageOptions::new(Access::ReadOnly) };
    if let Ok(opened) = open_image(&path, &options) {
        look(&*opened.source(), &[input.u64(), input.u64()]);
    }
}

fn plain(data: &[u8], format: Option<Format>) {
    let mut input = Input::new(data);
    let file = patches::read(&mut input);
    open(&mut input, &file, format);
}

pub(super) fn vmdk(data: &[u8]) {
    plain(data, Some(Format::Vmdk));
}

pub(super) fn vdi(data: &[u8]) {
    plain(data, Some(Format::Vdi));
}

pub(super) fn raw(data: &[u8]) {
    plain(data, None);
}

fn put(file: &mut [u8], at: usize, data: &[u8]) {
    file[at..at + data.len()].copy_from_slice(data);
}

fn put_le32(file: &mut [u8], all: &[(usize, u32)]) {
    all.iter().for_each(|(at, v)| put(file, *at, &v.to_le_bytes()));
}

fn put_le64(file: &mut [u8], all: &[(usize, u64)]) {
    all.iter().for_each(|(at, v)| put(file, *at, &v.to_le_bytes()));
}

fn put_be32(file: &mut [u8], all: &[(usize, u32)]) {
    all.iter().for_each(|(at, v)| put(file, *at, &v.to_be_bytes()));
}

fn seed(file: &[u8]) -> Vec<u8> {
    patches::write(file).raw(&7u64.to_le_bytes()).end()
}

pub(super) fn vmdk_seeds() -> Vec<Vec<u8>> {
    let text = |extents: &str, parent: &str| {
        format!(
            "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID={parent}\ncreateType=\"x\"\n{extents}\nddb.adapterType = \"ide\"\n"
        )
    };
    let none = "ffffffff";
    let mut seeds: Vec<_> = [
        text("RW 128 FLAT \"base\" 0\nRW 64 ZERO", none),
        text("RW 128 FLAT \"../secret\" 0", none),
        text("RW 128 FLAT \"link\" 0", none),
        text("RW 128 SPARSE \"image\"", none),
        text("RW 128 SPARSE \"base\"\nparentFileNameHint=\"base\"", "1"),
    ]
    .iter()
    .map(|t| seed(t.as_bytes()))
    .collect();
    let most = "RW 35184372088832 ZERO\n".repeat(1100);
    seeds.push(Script::new().raw(&seed(text(&most, none).as_bytes())).raw(&[0xff; 8]).end());
    // A sparse extent: grains of 8 sectors, tables of 512 entries, one directory entry.
    let mut file = vec![0; 64 << 10];
    put(&mut file, 0, b"KDMV");
    put_le32(&mut file, &[(4, 1), (8, 7), (0x2c, 512)]);
    put_le64(&mut file, &[(0x0c, 1024), (0x14, 8), (0x1c, 1), (0x24, 2), (0x30, u64::MAX), (0x38, 4), (0x40, 16)]);
    put(&mut file, 512, text("RW 1024 SPARSE \"image\"", none).as_bytes());
    put_le32(&mut file, &[(4 * 512, 8), (8 * 512, 24), (8 * 512 + 4, 1), (8 * 512 + 8, 32)]);
    put(&mut file, 24 * 512, &[5; 4096]);
    seeds.push(seed(&file));
    // The same with compressed grains.
    let mut packed = file.clone();
    put_le32(&mut packed, &[(4, 3), (8, 0x3_0007), (0x4d, 1)]);
    let zlib = [0x78, 1, 0x63, 0x64, 0, 0, 0, 2, 0, 2];
    put_le64(&mut packed, &[(24 * 512, 0)]);
    put_le32(&mut packed, &[(24 * 512 + 8, zlib.len() as u32)]);
    put(&mut packed, 24 * 512 + 12, &zlib);
    seeds.push(seed(&packed));
    seeds
}

pub(super) fn vdi_seeds() -> Vec<Vec<u8>> {
    let image = |kind: u32, map: &[u32]| {
        let mut file = vec![0; 64 << 10];
        put_le32(&mut file, &[(0x40, 0xbeda_107f), (0x44, 0x1_0001), (0x48, 0x190), (0x4c, kind)]);
        put_le32(&mut file, &[(0x154, 512), (0x158, 4096), (0x178, 4096), (0x17c, 0), (0x180, map.len() as u32)]);
        put_le64(&mut file, &[(0x170, 4096 * map.len() as u64)]);
        map.iter().enumerate().for_each(|(n, v)| put_le32(&mut file, &[(512 + 4 * n, *v)]));
        file[4096..20000].fill(9);
        seed(&file)
    };
    vec![image(1, &[0, u32::MAX, 2, 0xffff_fffe, 1]), image(2, &[0, 1, 2]), image(1, &[0x7fff_ffff; 8])]
}

/// Ones' complement of the sum, where the format has it.
fn vhd_sum(file: &mut [u8], at: usize, len: usize, sum_at: usize) {
    let Some(part) = file.get_mut(at..at + len) else { return };
    part[sum_at..sum_at + 4].fill(0);
    let sum = !part.iter().fold(0u32, |s, b| s.wrapping_add((*b).into()));
    part[sum_at..sum_at + 4].copy_from_slice(&sum.to_be_bytes());
}

/// Every second time checksums are put right, as nothing else would get past them.
pub(super) fn vhd(data: &[u8]) {
    let mut input = Input::new(data);
    let fix = input.u8() & 1 == 0;
    let mut file = patches::read(&mut input);
    if fix {
        vhd_sum(&mut file, 0, 512, 0x40);
        vhd_sum(&mut file, 512, 1024, 0x24);
        if let Some(end) = file.len().checked_sub(512) {
            vhd_sum(&mut file, end, 512, 0x40);
        }
    }
    open(&mut input, &file, Some(Format::Vhd));
}

pub(super) fn vhd_seeds() -> Vec<Vec<u8>> {
    let image = |kind: u32, parent: &str| {
        let mut footer = vec![0; 512];
        put(&mut footer, 0, b"conectix");
        put_be32(&mut footer, &[(8, 2), (0xc, 0x1_0000), (0x14, 512), (0x34, 1 << 16), (0x2c, 1 << 16), (0x3c, kind)]);
        let mut file = vec![0; 40 << 10];
        put(&mut file, 0, &footer);
        put(&mut file, 512, b"cxsparse\xff\xff\xff\xff\xff\xff\xff\xff");
        put_be32(&mut file, &[(512 + 0x14, 1536), (512 + 0x18, 0x1_0000), (512 + 0x1c, 4), (512 + 0x20, 16384)]);
        let name: Vec<u8> = parent.encode_utf16().flat_map(u16::to_be_bytes).collect();
        put(&mut file, 512 + 0x40, &name);
        put(&mut file, 512 + 0x240, b"W2ru");
        let local: Vec<u8> = parent.encode_utf16().flat_map(u16::to_le_bytes).collect();
        put_be32(&mut file, &[(512 + 0x244, 1), (512 + 0x248, local.len() as u32), (512 + 0x254, 30000)]);
        put(&mut file, 30000, &local);
        put_be32(&mut file, &[(1536, 4), (1540, u32::MAX), (1544, 37), (1548, u32::MAX)]);
        file[2048..2560].fill(0xa5);
        file[2560..10000].fill(6);
        let end = file.len() - 512;
        put(&mut file, end, &footer);
        Script::new().raw(&[0]).raw(&seed(&file)).end()
    };
    vec![image(3, ""), image(2, ""), image(4, "base"), image(4, "../secret"), image(4, "image")]
}

fn vhdx_crc(file: &mut [u8], at: usize, len: usize) {
    let Some(part) = file.get_mut(at..at + len) else { return };
    part[4..8].fill(0);
    let crc = crc32c::crc32c(part);
    part[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// As with the others; the log's place is fixed in the seeds.
pub(super) fn vhdx(data: &[u8]) {
    let mut input = Input::new(data);
    let fix = input.u8();
    let mut file = patches::read(&mut input);
    if fix & 1 == 0 {
        [0x1_0000, 0x2_0000].iter().for_each(|at| vhdx_crc(&mut file, *at, 4096));
        vhdx_crc(&mut file, 0x3_0000, 0x1_0000);
        if fix & 2 != 0 {
            vhdx_crc(&mut file, 0x10_0000, 8192);
        }
    }
    open(&mut input, &file, Some(Format::Vhdx));
}

const BAT: [u8; 16] = [0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0, 0x42, 0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 8];
const METADATA: [u8; 16] = [6, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b, 0xb8, 0xfe, 0x57, 0x5f, 5, 0x0f, 0x88, 0x6e];
const PARAMETERS: [u8; 16] =
    [0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d, 0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b];
const DISK_SIZE: [u8; 16] =
    [0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48, 0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8];
const LOCATOR: [u8; 16] =
    [0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45, 0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c];

fn vhdx_image(log: bool, parent: Option<&str>) -> Vec<u8> {
    vhdx_changed(log, parent, |_| ())
}

/// The image with a change, before its checksums are put right.
fn vhdx_changed(log: bool, parent: Option<&str>, change: fn(&mut [u8])) -> Vec<u8> {
    let mut file = vec![0; 4 << 20];
    put(&mut file, 0, b"vhdxfile");
    put(&mut file, 0x1_0000, b"head");
    put_le64(&mut file, &[(0x1_0008, 2)]);
    put(&mut file, 0x1_0042, &[1, 0]);
    put_le32(&mut file, &[(0x1_0044, 1 << 20)]);
    put_le64(&mut file, &[(0x1_0048, 1 << 20)]);
    put(&mut file, 0x3_0000, b"regi");
    put_le32(&mut file, &[(0x3_0008, 2)]);
    for (n, (id, at)) in [(BAT, 3u64 << 20), (METADATA, 2 << 20)].iter().enumerate() {
        let entry = 0x3_0010 + 32 * n;
        put(&mut file, entry, id);
        put_le64(&mut file, &[(entry + 16, *at)]);
        put_le32(&mut file, &[(entry + 24, 1 << 20), (entry + 28, 1)]);
    }
    let meta = 2 << 20;
    let mut items =
        vec![(PARAMETERS, [(1u32 << 20).to_le_bytes(), (u32::from(parent.is_some()) << 1).to_le_bytes()].concat())];
    items.push((DISK_SIZE, (4u64 << 20).to_le_bytes().to_vec()));
    if let Some(name) = parent {
        let utf16 = |t: &str| t.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        let (key, value) = (utf16("relative_path"), utf16(name));
        let entry = [
            &32u32.to_le_bytes()[..],
            &(32 + key.len() as u32).to_le_bytes(),
            &(key.len() as u16).to_le_bytes(),
            &(value.len() as u16).to_le_bytes(),
        ]
        .concat();
        items.push((LOCATOR, [&[0; 18][..], &[1, 0], &entry, &key, &value].concat()));
    }
    put(&mut file, meta, b"metadata");
    put(&mut file, meta + 10, &(items.len() as u16).to_le_bytes());
    for (n, (id, data)) in items.iter().enumerate() {
        let (entry, at) = (meta + 32 + 32 * n, 0x1_0000 + 0x1000 * n);
        put(&mut file, entry, id);
        put_le32(&mut file, &[(entry + 16, at as u32), (entry + 20, data.len() as u32), (entry + 24, 6)]);
        put(&mut file, meta + at, data);
    }
    put_le64(&mut file, &[(3 << 20, 3 << 20 | 6), ((3 << 20) + 8, 0), ((3 << 20) + 16, 3 << 20 | 7)]);
    if log {
        // One entry of the log, with a page of data and a range of zeroes.
        put(&mut file, 0x1_0030, &[4; 16]);
        let at = 1 << 20;
        put(&mut file, at, b"loge");
        put_le32(&mut file, &[(at + 8, 8192), (at + 24, 2)]);
        put_le64(&mut file, &[(at + 16, 1), (at + 48, 4 << 20), (at + 56, 4 << 20)]);
        put(&mut file, at + 32, &[4; 16]);
        put(&mut file, at + 64, b"desc");
        put_le64(&mut file, &[(at + 80, 3 << 20), (at + 88, 1)]);
        put(&mut file, at + 96, b"zero");
        put_le64(&mut file, &[(at + 104, 4096), (at + 112, 0x20_0000), (at + 120, 1)]);
        put(&mut file, at + 4096, b"data");
        put_le32(&mut file, &[(at + 4100, 0), (at + 8188, 1)]);
    }
    change(&mut file);
    Script::new().raw(&[if log { 2 } else { 0 }]).raw(&seed(&file)).end()
}

pub(super) fn vhdx_seeds() -> Vec<Vec<u8>> {
    // What was once too much: a block table larger than the file, places that wrap around, a log without end.
    let table = |file: &mut [u8]| {
        put_le32(file, &[(0x3_0028, u32::MAX)]);
        put_le64(file, &[((2 << 20) + 0x1_1000, 64 << 40)]);
    };
    let places =
        |file: &mut [u8]| put_le64(file, &[(3 << 20, u64::MAX << 20 | 6), ((3 << 20) + 8, u64::MAX << 20 | 7)]);
    let metadata = |file: &mut [u8]| put_le64(file, &[(0x3_0040, u64::MAX - 0xfff)]);
    let sequence = |file: &mut [u8]| {
        let log = 1 << 20;
        put_le32(file, &[(log + 12, 4096), (log + 4100, u32::MAX), (log + 8188, u32::MAX)]);
        [16, 88, 120].iter().for_each(|at| put_le64(file, &[(log + at, u64::MAX)]));
    };
    vec![
        vhdx_image(false, None),
        vhdx_image(true, None),
        vhdx_image(false, Some("base")),
        vhdx_image(false, Some("..\\secret")),
        vhdx_changed(false, None, table),
        vhdx_changed(false, None, places),
        vhdx_changed(false, None, metadata),
        vhdx_changed(true, None, sequence),
    ]
}

pub(super) fn raw_seeds() -> Vec<Vec<u8>> {
    let mut boot = vec![1; 2048];
    put(&mut boot, 510, &[0x55, 0xaa]);
    vec![
        seed(&boot),
        seed(b"QFI\xfb"),
        seed(b"KDMV"),
        seed(b"# Disk DescriptorFile\n"),
        seed(b"vhdxfile"),
        seed(b"conectix"),
        seed(b"LUKS\xba\xbe\0\x02"),
        seed(&[]),
    ]
}
