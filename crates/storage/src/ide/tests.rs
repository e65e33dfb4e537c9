mod durable;

use visor_block::{BlockErrorKind, BlockOp};
use visor_device::Device;

use super::*;
use crate::step::status::{BSY, DRDY, DRQ, DSC, ERR};
use crate::testing::{DATA, MemoryDisk, Pace, RAM, Random, Rig, cd_unit, disk_unit};
use crate::{EjectOutcome, Link};

const PRIMARY: u16 = 0x1f0;
const SECONDARY: u16 = 0x170;

fn with_disk(pace: Pace) -> (Rig, Arc<MemoryDisk>) {
    let disk = MemoryDisk::numbered(300, pace);
    let rig = Rig::new([[Some(disk_unit(disk.clone(), Link::Parallel)), None], [None, None]]);
    (rig, disk)
}

fn identity(rig: &Rig) -> Vec<u16> {
    rig.command48(PRIMARY, false, 0xec, 0, 0);
    let (data, blocks) = rig.pio_in(PRIMARY);
    assert_eq!((data.len(), blocks), (512, 1));
    assert_eq!(data.iter().fold(0u8, |s, b| s.wrapping_add(*b)), 0, "the checksum");
    data.chunks_exact(2).map(|w| u16::from_le_bytes([w[0], w[1]])).collect()
}

#[test]
fn signatures_and_absent_drives() {
    let (cd, _) = cd_unit(None, Link::Parallel);
    let disk = MemoryDisk::numbered(8, Pace::AtOnce);
    let rig = Rig::new([[Some(disk_unit(disk, Link::Parallel)), Some(cd)], [None, None]]);
    let signature = |base: u16| [2, 3, 4, 5].map(|r| rig.inb(base + r));
    assert_eq!((rig.inb(0x1f7), signature(PRIMARY)), (DRDY | DSC, [1, 1, 0, 0]));
    rig.outb(0x1f6, 0x10);
    assert_eq!((rig.inb(0x1f7), signature(PRIMARY)), (0, [1, 1, 0x14, 0xeb]));
    // Nobody on the other cable: registers keep nothing.
    rig.outb(0x172, 0x55);
    assert_eq!((rig.inb(0x177), rig.inb(0x172)), (0, 0));
    // After a reset the master is selected again.
    rig.outb(0x3f6, 4);
    assert_eq!(rig.inb(0x1f7), BSY);
    rig.outb(0x3f6, 0);
    assert_eq!((rig.inb(0x1f7), rig.inb(0x1f1), signature(PRIMARY)), (DRDY | DSC, 1, [1, 1, 0, 0]));
    // A packet drive refuses IDENTIFY DEVICE and shows what it is.
    rig.outb(0x1f6, 0x10);
    rig.outb(0x1f7, 0xec);
    assert_eq!((rig.inb(0x1f7) & ERR, rig.inb(0x1f1), signature(PRIMARY)), (ERR, 4, [1, 1, 0x14, 0xeb]));
    // Both drives answer to the diagnosis.
    rig.outb(0x1f7, 0x90);
    assert_eq!((rig.inb(0x1f7), rig.inb(0x1f1), signature(PRIMARY)), (DRDY | DSC, 1, [1, 1, 0, 0]));
}

#[test]
fn the_identity_tells_size_and_settings() {
    let (rig, _) = with_disk(Pace::AtOnce);
    let id = identity(&rig);
    assert_eq!((id[60], id[100], id[49] & 0x300), (300, 300, 0x300));
    assert_eq!(id[27..32].iter().flat_map(|w| w.to_be_bytes()).collect::<Vec<_>>(), b"TEST DISK ");
    assert_eq!((id[106], id[169]), (0x6003, 1), "blocks of 4096 bytes; trimming");
    assert_eq!(id[82] >> 1 & 1, 0, "no security");
    rig.outb(0x1f2, 8);
    rig.outb(0x1f7, 0xc6);
    for (features, count) in [(3, 0x22), (0x82, 0)] {
        rig.outb(0x1f1, features);
        rig.outb(0x1f2, count);
        rig.outb(0x1f7, 0xef);
        assert_eq!(rig.settle(PRIMARY) & ERR, 0);
    }
    let id = identity(&rig);
    assert_eq!((id[59], id[63] >> 8, id[85] & 0x20), (0x108, 4, 0), "multiple count, MWDMA 2, no write cache");
}

#[test]
fn pio_moves_blocks_of_the_right_size() {
    for pace in [Pace::AtOnce, Pace::Thread] {
        let (rig, disk) = with_disk(pace);
        rig.command48(PRIMARY, false, 0x20, 7, 3);
        let (data, blocks) = rig.pio_in(PRIMARY);
        assert_eq!(blocks, 3);
        assert_eq!(data, [[7; 512], [8; 512], [9; 512]].concat());
        // More than a chunk, eight sectors at a time; 298 is no multiple of that.
        rig.outb(0x1f2, 8);
        rig.outb(0x1f7, 0xc6);
        rig.command48(PRIMARY, false, 0x29, 2, 298);
        let (data, blocks) = rig.pio_in(PRIMARY);
        assert_eq!(blocks, 38);
        assert!(data[..298 * 512].chunks(512).enumerate().all(|(i, s)| s == [(i + 2) as u8; 512]));
        let text: Vec<u8> = (0..200 * 512u32).map(|i| (i * 7 + i / 512) as u8).collect();
        rig.command48(PRIMARY, false, 0x34, 50, 200);
        rig.pio_out(PRIMARY, &text);
        assert!(disk.bytes.lock().unwrap()[50 * 512..250 * 512] == text[..]);
        assert_eq!(disk.bytes.lock().unwrap()[49 * 512], 49);
    }
}

#[test]
fn each_pio_block_interrupts_and_reading_the_status_acknowledges() {
    let (rig, _) = with_disk(Pace::AtOnce);
    rig.command48(PRIMARY, false, 0x20, 0, 2);
    assert!(rig.line(14));
    assert_eq!(rig.inb(0x3f6) & DRQ, DRQ);
    assert!(rig.line(14), "the alternate status does not acknowledge");
    rig.inb(0x1f7);
    assert!(!rig.line(14));
    for _ in 0..128 {
        rig.pio.read(0x1f0, &mut [0; 4]);
    }
    assert!(rig.line(14), "the second block");
    // Interrupts off: the line falls, and rises when they are on again.
    rig.outb(0x3f6, 2);
    assert!(!rig.line(14));
    rig.outb(0x3f6, 0);
    assert!(rig.line(14));
    assert!(!rig.line(15));
}

#[test]
fn addresses_beyond_the_disk_are_refused() {
    let (rig, _) = with_disk(Pace::AtOnce);
    for (command, lba, count) in
        [(0x24, 300, 1), (0x24, 299, 2), (0x25, 0, 0), (0x24, 0xffff_ffff_ffff, 1), (0xc8, 250, 100)]
    {
        rig.command48(PRIMARY, false, command, lba, count);
        assert_eq!((rig.inb(0x1f7) & (ERR | DRQ), rig.inb(0x1f1)), (ERR, 0x10), "{command:#x} at {lba}");
    }
    // CHS: 0/0/1 is the first sector; sector 0 does not exist.
    rig.command48(PRIMARY, false, 0x40, 0, 1);
    rig.outb(0x1f6, 0);
    for (sector, ok) in [(1, true), (0, false), (64, false)] {
        rig.outb(0x1f2, 1);
        rig.outb(0x1f3, sector);
        rig.outb(0x1f7, 0x40);
        assert_eq!(rig.inb(0x1f7) & ERR == 0, ok, "sector {sector}");
    }
}

#[test]
fn dma_scatters_and_gathers() {
    for pace in [Pace::AtOnce, Pace::Thread] {
        let (rig, disk) = with_disk(pace);
        rig.table(&[(DATA as u32, 512 + 64), (DATA as u32 + 0x2000, 1024 - 64)]);
        rig.command48(PRIMARY, false, 0x25, 100, 3);
        rig.start_dma(0, true);
        assert_eq!(rig.settle(PRIMARY), DRDY | DSC);
        assert_eq!(rig.inb(rig.master + 2) & 7, 4, "interrupt, not active, no error");
        assert_eq!(rig.ram(DATA, 577), [vec![100; 512], vec![101; 64], vec![0]].concat());
        assert_eq!(rig.ram(DATA + 0x2000, 960), [vec![101; 448], vec![102; 512]].concat());
        rig.outb(rig.master, 0);
        // The other way, the bus master started first.
        rig.set_ram(DATA, &[0x5a; 1024]);
        rig.table(&[(DATA as u32, 1024)]);
        rig.start_dma(0, false);
        rig.command48(PRIMARY, false, 0x35, 10, 2);
        assert_eq!(rig.settle(PRIMARY), DRDY | DSC);
        let bytes = disk.bytes.lock().unwrap();
        assert_eq!((bytes[10 * 512 - 1], bytes[10 * 512], bytes[12 * 512 - 1], bytes[12 * 512]), (9, 0x5a, 0x5a, 12));
    }
}

#[test]
fn tables_that_do_not_fit() {
    let (rig, _) = with_disk(Pace::AtOnce);
    // Too long: the data is there, active stays.
    rig.table(&[(DATA as u32, 4096)]);
    rig.command48(PRIMARY, false, 0x25, 5, 1);
    rig.start_dma(0, true);
    assert_eq!((rig.inb(rig.master + 2) & 7, rig.ram(DATA, 1)), (5, vec![5]));
    rig.outb(rig.master, 0);
    assert_eq!(rig.inb(rig.master + 2) & 7, 4);
    // Too short: nothing is active, nobody interrupts, and the drive waits for a reset.
    rig.inb(0x1f7);
    rig.table(&[(DATA as u32, 256)]);
    rig.command48(PRIMARY, false, 0x25, 5, 1);
    rig.start_dma(0, true);
    assert_eq!((rig.inb(rig.master + 2) & 7, rig.line(14), rig.inb(0x3f6) & DRQ), (0, false, DRQ));
    rig.outb(rig.master, 0);
    rig.outb(0x3f6, 4);
    rig.outb(0x3f6, 0);
    assert_eq!(rig.inb(0x1f7), DRDY | DSC);
    // Not in RAM: the data, then the table.
    rig.table(&[(RAM as u32, 512)]);
    rig.command48(PRIMARY, false, 0x25, 5, 1);
    rig.start_dma(0, true);
    assert_eq!((rig.inb(rig.master + 2) & 7, rig.inb(0x1f7) & ERR), (6, ERR));
    rig.outb(rig.master, 0);
    rig.outb(rig.master + 2, 6);
    assert_eq!(rig.inb(rig.master + 2) & 7, 0);
    rig.command48(PRIMARY, false, 0x25, 5, 1);
    rig.pio.write(rig.master + 4, &0xf000_0000u32.to_le_bytes());
    rig.outb(rig.master, 9);
    assert_eq!((rig.inb(rig.master + 2) & 7, rig.inb(0x1f7) & ERR), (6, ERR));
}

#[test]
fn without_bus_mastering_dma_waits() {
    let (rig, _) = with_disk(Pace::AtOnce);
    rig.config_write(4, &1u16.to_le_bytes());
    rig.table(&[(DATA as u32, 512)]);
    rig.command48(PRIMARY, false, 0x25, 5, 1);
    rig.start_dma(0, true);
    assert_eq!((rig.ram(DATA, 1), rig.line(14)), (vec![0], false));
    rig.config_write(4, &5u16.to_le_bytes());
    assert_eq!((rig.ram(DATA, 1), rig.line(14)), (vec![5], true));
}

#[test]
fn aborted_dma_never_touches_memory_and_the_next_command_waits_for_it() {
    let (rig, disk) = with_disk(Pace::Held);
    rig.table(&[(DATA as u32, 512)]);
    rig.command48(PRIMARY, false, 0x25, 5, 1);
    rig.start_dma(0, true);
    assert_eq!(rig.inb(0x3f6) & BSY, BSY);
    rig.outb(0x3f6, 4);
    rig.outb(0x3f6, 0);
    rig.outb(rig.master, 0);
    assert_eq!(rig.inb(0x1f7), DRDY | DSC);
    // The new command reaches the medium only when the old one has left it.
    rig.command48(PRIMARY, false, 0x25, 6, 1);
    rig.start_dma(0, true);
    assert_eq!(disk.log.lock().unwrap().len(), 1);
    assert_eq!(disk.release(), 1);
    assert_eq!(rig.ram(DATA, 1), [0], "the aborted one has delivered nothing");
    assert_eq!((disk.log.lock().unwrap().len(), rig.inb(0x3f6) & BSY), (2, BSY));
    assert_eq!(disk.release(), 1);
    assert_eq!((rig.ram(DATA, 1), rig.inb(0x3f6)), (vec![6], DRDY | DSC));
    // Stopping the bus master ends a command too; so does a reset of the bus, with one more in the queue.
    rig.outb(rig.master, 0);
    rig.command48(PRIMARY, false, 0x25, 7, 1);
    rig.start_dma(0, true);
    rig.outb(rig.master, 0);
    assert_eq!(rig.inb(0x1f7) & (BSY | ERR), ERR);
    rig.command48(PRIMARY, false, 0x25, 8, 1);
    rig.start_dma(0, true);
    rig.pci.lock().unwrap().reset();
    disk.release();
    assert_eq!((rig.ram(DATA, 1), disk.release(), rig.inb(0x1f7)), (vec![6], 0, DRDY | DSC));
}

#[test]
fn failures_of_the_medium_reach_the_guest() {
    let (rig, disk) = with_disk(Pace::AtOnce);
    for (kind, command, error) in [
        (BlockErrorKind::Io, 0x24, 0x40),
        (BlockErrorKind::Io, 0x42, 0x40),
        (BlockErrorKind::Io, 0xea, 0x04),
        (BlockErrorKind::Lost, 0x24, 0x40),
    ] {
        *disk.broken.lock().unwrap() = Some(kind);
        rig.command48(PRIMARY, false, command, 5, 1);
        assert!(rig.line(14));
        assert_eq!((rig.inb(0x1f7) & (ERR | BSY | DRQ), rig.inb(0x1f1)), (ERR, error), "{command:#x}");
    }
    // A write fails when its data has come.
    *disk.broken.lock().unwrap() = Some(BlockErrorKind::NoSpace);
    rig.command48(PRIMARY, false, 0x34, 5, 1);
    (0..256).for_each(|_| assert!(rig.pio.write(0x1f0, &[1, 1])));
    assert_eq!((rig.inb(0x1f7) & (ERR | BSY | DRQ), rig.inb(0x1f1)), (ERR, 4));
}

#[test]
fn trimming_discards_ranges() {
    let (rig, disk) = with_disk(Pace::AtOnce);
    let mut ranges = vec![0; 512];
    ranges[..8].copy_from_slice(&(10u64 | 2 << 48).to_le_bytes());
    ranges[16..24].copy_from_slice(&(20u64 | 1 << 48).to_le_bytes());
    rig.set_ram(DATA, &ranges);
    rig.table(&[(DATA as u32, 512)]);
    let trim = || {
        rig.outb(0x1f1, 1);
        rig.command48(PRIMARY, false, 6, 0, 1);
        rig.start_dma(0, false);
        let end = rig.inb(0x1f7) & ERR;
        rig.outb(rig.master, 0);
        end
    };
    assert_eq!(trim(), 0);
    let at = |s: usize| disk.bytes.lock().unwrap()[s * 512];
    assert_eq!([9, 10, 11, 12, 20, 21].map(at), [9, 0, 0, 12, 0, 21]);
    ranges[16..24].copy_from_slice(&(299u64 | 2 << 48).to_le_bytes());
    rig.set_ram(DATA, &ranges);
    assert_eq!((trim(), rig.inb(0x1f1)), (ERR, 0x10), "one range outside refuses all");
}

#[test]
fn what_is_not_claimed_is_refused() {
    let (rig, disk) = with_disk(Pace::AtOnce);
    // Security with its erase, host protected area, microcode, packets, reset, multiple without a count, sleep's relatives.
    for command in
        [0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf8, 0xf9, 0x27, 0x37, 0x92, 0xa0, 0xa1, 0x08, 0xc4, 0xc5, 0x00, 0x60]
    {
        rig.command48(PRIMARY, false, command, 0, 1);
        assert_eq!((rig.inb(0x1f7) & (ERR | BSY | DRQ), rig.inb(0x1f1)), (ERR, 4), "{command:#x}");
    }
    assert!(disk.log.lock().unwrap().is_empty());
    // A read-only disk refuses writes.
    let disk = MemoryDisk::read_only(vec![7; 4096]);
    let rig = Rig::new([[Some(disk_unit(disk.clone(), Link::Parallel)), None], [None, None]]);
    for command in [0x30, 0x35, 0xca, 0x3d] {
        rig.command48(PRIMARY, false, command, 0, 1);
        assert_eq!((rig.inb(0x1f7) & (ERR | DRQ), rig.inb(0x1f1)), (ERR, 4));
    }
}

#[test]
fn smart_says_that_all_is_well() {
    let (rig, _) = with_disk(Pace::AtOnce);
    let smart = |function: u8, key: u64| {
        rig.outb(0x1f1, function);
        rig.command48(PRIMARY, false, 0xb0, key << 8, 1);
    };
    smart(0xda, 0xc24f);
    assert_eq!((rig.inb(0x1f7) & ERR, rig.inb(0x1f4), rig.inb(0x1f5)), (0, 0x4f, 0xc2));
    for function in [0xd0, 0xd1, 0xd5] {
        smart(function, 0xc24f);
        let (data, _) = rig.pio_in(PRIMARY);
        assert_eq!(data.len(), 512);
        if function != 0xd5 {
            assert_eq!(data.iter().fold(0u8, |s, b| s.wrapping_add(*b)), 0);
        }
    }
    smart(0xd0, 0);
    assert_eq!(rig.inb(0x1f7) & ERR, ERR, "without the key");
    smart(0xd9, 0xc24f);
    smart(0xd0, 0xc24f);
    assert_eq!(rig.inb(0x1f7) & ERR, ERR, "switched off");
}

#[test]
fn channels_can_be_switched_off() {
    let (rig, _) = with_disk(Pace::AtOnce);
    rig.config_write(0x41, &[0]);
    assert_eq!((rig.inb(0x1f7), rig.inb(0x3f6)), (0xff, 0xff));
    rig.outb(0x1f7, 0xec);
    rig.config_write(0x41, &[0x80]);
    assert_eq!(rig.inb(0x1f7), DRDY | DSC);
    assert_eq!(rig.config_read(0), 0x7010_8086);
    assert_eq!(rig.config_read(8) >> 8, 0x01_0180);
}

#[test]
fn packets_by_pio_and_dma() {
    for pace in [Pace::AtOnce, Pace::Thread] {
        let disc = MemoryDisk::numbered(400, pace);
        let (cd, tray) = cd_unit(Some(disc), Link::Parallel);
        let rig = Rig::new([[None, None], [Some(cd), None]]);
        rig.outb(0x3f6, 0);
        // The first commands tell of the reset and of the disc.
        assert_eq!(rig.packet(SECONDARY, &[0], 0xfffe).2, 0x64);
        assert_eq!(rig.sense(SECONDARY).0, 6);
        while rig.packet(SECONDARY, &[0], 0xfffe).2 != 0 {}
        let (data, blocks, error) = rig.packet(SECONDARY, &[0x28, 0, 0, 0, 0, 10, 0, 0, 20], 3000);
        assert_eq!((data.len(), error), (40960, 0));
        assert!(data.chunks(512).enumerate().all(|(i, s)| s == [(i + 40) as u8; 512]));
        assert_eq!(blocks, 14, "of at most 3000 bytes");
        assert!(rig.line(15));
        // An odd number of bytes: what the host reads beyond is filled up.
        let (data, _, _) = rig.packet(SECONDARY, &[0x12, 0, 0, 0, 5], 0xfffe);
        assert_eq!(data, [5, 0x80, 5, 2, 31]);
        // By DMA.
        rig.table(&[(DATA as u32, 2048), (DATA as u32 + 4096, 2048)]);
        rig.outb(0x171, 1);
        rig.outb(0x177, 0xa0);
        rig.send_packet(SECONDARY, &[0xa8, 0, 0, 0, 0, 3, 0, 0, 0, 2]);
        rig.start_dma(1, true);
        assert_eq!(rig.settle(SECONDARY), DRDY);
        assert_eq!((rig.inb(rig.master + 10) & 7, rig.ram(DATA, 1), rig.ram(DATA + 4096, 1)), (4, vec![12], vec![16]));
        assert_eq!(tray.eject(false), EjectOutcome::Ejected);
        assert_eq!(rig.packet(SECONDARY, &[0], 0xfffe).2, 0x24);
        assert_eq!(rig.sense(SECONDARY), (2, 0x3a, 2));
    }
}

/// Random accesses to all registers, with a bias to make commands happen: nothing panics, everything stays bounded, and after a
/// reset the drives work.
#[test]
fn nonsense_in_every_register() {
    for seed in 1..=6u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let pace = if seed % 3 == 0 { Pace::Held } else { Pace::AtOnce };
        let disks = [(); 2].map(|()| MemoryDisk::numbered(64, pace));
        let (cd, tray) = cd_unit(Some(MemoryDisk::numbered(64, pace)), Link::Parallel);
        let [a, b] = [0, 1].map(|i| Some(disk_unit(disks[i].clone(), Link::Parallel)));
        let rig = Rig::new([[a, Some(cd)], [b, None]]);
        for _ in 0..15_000 {
            poke(&rig, &mut random);
            match random.below(400) {
                0 => _ = tray.eject(random.below(2) == 0),
                1 => _ = tray.insert(MemoryDisk::numbered(random.below(100), Pace::AtOnce), "x"),
                2..8 => _ = disks.iter().map(|d| d.release()).sum::<usize>(),
                _ => {}
            }
        }
        rig.pci.lock().unwrap().reset();
        disks.iter().for_each(|d| {
            d.set_pace(Pace::AtOnce);
            d.release();
        });
        rig.config_write(4, &5u16.to_le_bytes());
        rig.command48(PRIMARY, false, 0x24, 63, 1);
        assert_eq!(rig.pio_in(PRIMARY).0.len(), 512, "seed {seed}");
    }
}

/// One access.
fn poke(rig: &Rig, random: &mut Random) {
    const COMMANDS: [u8; 24] = [
        0x20, 0x24, 0x25, 0x29, 0x30, 0x34, 0x35, 0x39, 0xc4, 0xc5, 0xc6, 0xc8, 0xca, 0xa0, 0xa0, 0xa1, 0xec, 0xef,
        0x06, 0xb0, 0x42, 0x90, 0x08, 0x91,
    ];
    const PACKETS: [u8; 12] = [0x28, 0xa8, 0x12, 0x43, 0x46, 0x4a, 0x5a, 0x55, 0x1b, 0x1e, 0xbe, 0x25];
    let base = if random.below(2) == 0 { PRIMARY } else { SECONDARY };
    let value = random.next() as u8;
    match random.below(20) {
        0..3 => rig.outb(base + 7, COMMANDS[random.below(24) as usize]),
        3 => rig.outb(base + 7, value),
        4 => rig.outb(base + 6, value),
        5..8 => rig.outb(base + 1 + random.below(5) as u16, value & random.next() as u8),
        8..11 => (0..random.below(300)).for_each(|_| assert!(rig.pio.write(base, &random.next().to_le_bytes()[..2]))),
        11 => {
            rig.pio.write(base, &[PACKETS[random.below(12) as usize], 0]);
            (0..5).for_each(|_| assert!(rig.pio.write(base, &[0, (random.next() & random.next()) as u8 & 7])));
        }
        12..14 => (0..random.below(300)).for_each(|_| _ = rig.pio.read(base, &mut [0; 4])),
        14 => rig.outb(base + 0x206, value & if random.below(4) == 0 { 0xff } else { 0xf9 }),
        15 => rig.outb(rig.master + random.below(16) as u16, value),
        16 => {
            let table = [(random.below(RAM * 2) as u32, value.into()), (DATA as u32, 0)];
            rig.table(&table[random.below(2) as usize..]);
            rig.start_dma(random.below(2) as u16, random.below(2) == 0);
        }
        17 => rig.config_write(0x40 + random.below(4) as u8, &[value | 0x80]),
        18 => rig.config_write(4, &[value | 1]),
        _ => _ = rig.inb(base + random.below(8) as u16),
    }
}
