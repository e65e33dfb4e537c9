//! What is durable, and when the guest is told so.

use super::*;

#[test]
fn durable_writes_flush() {
    let (rig, disk) = with_disk(Pace::AtOnce);
    let data = [3; 512];
    rig.command48(PRIMARY, false, 0x34, 1, 1);
    rig.pio_out(PRIMARY, &data);
    assert_eq!(*disk.log.lock().unwrap(), [BlockOp::Write]);
    // Forced unit access, by DMA.
    rig.table(&[(DATA as u32, 512)]);
    rig.command48(PRIMARY, false, 0x3d, 2, 1);
    rig.start_dma(0, false);
    assert_eq!((rig.inb(0x1f7), rig.inb(rig.master + 2) & 7), (DRDY | DSC, 4));
    assert_eq!(disk.log.lock().unwrap()[1..], [BlockOp::Write, BlockOp::Flush]);
    // Write cache off: that itself flushes, then every write does.
    rig.outb(0x1f1, 0x82);
    rig.outb(0x1f7, 0xef);
    rig.command48(PRIMARY, false, 0x34, 1, 1);
    rig.pio_out(PRIMARY, &data);
    assert_eq!(disk.log.lock().unwrap()[3..], [BlockOp::Flush, BlockOp::Write, BlockOp::Flush]);
}

/// Writes `data` to sector `lba` with `command`, by DMA or PIO; `step` is called while the drive is busy.
fn write_with(rig: &Rig, command: u8, lba: u64, data: &[u8], mut step: impl FnMut()) {
    let count = (data.len() / 512) as u16;
    if matches!(command, 0x35 | 0x3d) {
        rig.set_ram(DATA, data);
        rig.table(&[(DATA as u32, data.len() as u16)]);
        rig.command48(PRIMARY, false, command, lba, count);
        rig.start_dma(0, false);
    } else {
        rig.command48(PRIMARY, false, command, lba, count);
        for block in data.chunks_exact(512) {
            // Acknowledges that the drive has asked for it.
            assert_eq!(rig.inb(0x1f7) & (BSY | DRQ), DRQ, "{command:#x}");
            block.chunks_exact(2).for_each(|word| assert!(rig.pio.write(PRIMARY, word)));
        }
    }
    loop {
        // In this order: the end may come between the two.
        let early = rig.line(14);
        if rig.inb(0x3f6) & BSY == 0 {
            break;
        }
        assert!(!early, "{command:#x}: no interrupt before the end");
        step();
    }
    assert!(rig.line(14), "{command:#x}");
    assert_eq!(rig.inb(0x1f7) & (ERR | DRQ), 0, "{command:#x}");
    rig.outb(rig.master, 0);
    rig.outb(rig.master + 2, 4);
}

/// The guest must not see a durable write end before it is (ATA8-ACS: WRITE DMA FUA EXT, WRITE MULTIPLE FUA EXT, FLUSH CACHE EXT, and
/// every write while the write cache is off): the medium's list, request by request.
#[test]
fn durable_writes_end_with_their_flush() {
    for (command, cache, flushes) in [
        (0x35, true, false),
        (0x34, true, false),
        (0x39, true, false),
        (0x3d, true, true),
        (0xce, true, true),
        (0x35, false, true),
        (0x34, false, true),
        (0x39, false, true),
        (0x3d, false, true),
        (0xce, false, true),
    ] {
        let (rig, disk) = with_disk(Pace::AtOnce);
        rig.outb(0x1f2, 8);
        rig.outb(0x1f7, 0xc6);
        if !cache {
            rig.outb(0x1f1, 0x82);
            rig.outb(0x1f7, 0xef);
        }
        disk.set_pace(Pace::Held);
        disk.log.lock().unwrap().clear();
        let (data, mut released) = (vec![0xa5; 4096], 0);
        write_with(&rig, command, 16, &data, || released += disk.release());
        let what = format!("{command:#x}, cache {cache}");
        let wanted: &[BlockOp] = if flushes { &[BlockOp::Write, BlockOp::Flush] } else { &[BlockOp::Write] };
        assert_eq!((&disk.log.lock().unwrap()[..], released), (wanted, wanted.len()), "{what}");
        assert_eq!(disk.durable.lock().unwrap()[16 * 512..24 * 512] == data[..], flushes, "{what}");
    }
    // What was written before, the flush makes durable; also the one of switching the cache off.
    for command in [0xe7, 0xea, 0xef] {
        let (rig, disk) = with_disk(Pace::AtOnce);
        write_with(&rig, 0x34, 16, &[0xa5; 512], || {});
        disk.set_pace(Pace::Held);
        rig.inb(0x1f7);
        rig.outb(0x1f1, 0x82);
        rig.command48(PRIMARY, false, command, 0, 0);
        assert_eq!(rig.inb(0x3f6) & BSY, BSY, "{command:#x}");
        assert!(!rig.line(14), "{command:#x}");
        assert_eq!(disk.release(), 1);
        assert_eq!((rig.inb(0x3f6) & (BSY | ERR), rig.line(14)), (0, true));
        assert_eq!(disk.durable.lock().unwrap()[16 * 512], 0xa5, "{command:#x}");
    }
}

/// The same with a medium that takes its time, and a power cut whenever the guest has seen the end of a write.
#[test]
fn what_a_guest_saw_end_survives_a_power_cut() {
    let (rig, disk) = with_disk(Pace::Thread);
    rig.outb(0x1f2, 4);
    rig.outb(0x1f7, 0xc6);
    let (mut random, mut cache) = (Random(77), true);
    let mut sure: Vec<Option<u8>> = vec![None; 300];
    for n in 0..400u32 {
        let (lba, count) = (random.below(290), 1 + random.below(8));
        let (fill, command) = (n as u8, [0x34, 0x35, 0x39, 0x3d, 0xce][random.below(5) as usize]);
        match random.below(12) {
            0 => {
                cache = !cache;
                rig.outb(0x1f1, if cache { 0x02 } else { 0x82 });
                rig.outb(0x1f7, 0xef);
                assert_eq!(rig.settle(PRIMARY) & ERR, 0);
                rig.inb(0x1f7);
            }
            1 => {
                rig.command48(PRIMARY, false, if n % 2 == 0 { 0xe7 } else { 0xea }, 0, 0);
                assert_eq!(rig.settle(PRIMARY) & ERR, 0);
                rig.inb(0x1f7);
                let now = disk.bytes.lock().unwrap().clone();
                sure.iter_mut().enumerate().for_each(|(s, byte)| *byte = Some(now[s * 512]));
            }
            _ => {
                rig.inb(0x1f7);
                let data = vec![fill; count as usize * 512];
                match command {
                    0x35 | 0x3d => write_with(&rig, command, lba, &data, std::thread::yield_now),
                    _ => {
                        rig.command48(PRIMARY, false, command, lba, count as u16);
                        rig.pio_out(PRIMARY, &data);
                    }
                }
                let durable = !cache || matches!(command, 0x3d | 0xce);
                sure[lba as usize..(lba + count) as usize].fill(durable.then_some(fill));
            }
        }
        let medium = disk.durable.lock().unwrap().clone();
        for (s, byte) in sure.iter().enumerate() {
            assert!(
                byte.is_none_or(|b| medium[s * 512..(s + 1) * 512] == [b; 512]),
                "step {n}, {command:#x}: sector {s}"
            );
        }
    }
}
