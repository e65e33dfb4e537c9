//! Interrupt remapping.

use super::*;

/// An entry for `SOURCE`: vector 55h, to the given destination field.
fn entry(destination: u32) -> [u64; 2] {
    [u64::from(destination) << 32 | 0x55 << 16 | 1, 1 << 18 | u64::from(SOURCE.0)]
}

fn set(rig: &Rig, index: u64, [low, high]: [u64; 2]) {
    rig.poke(INTERRUPTS + 16 * index, low);
    rig.poke(INTERRUPTS + 16 * index + 8, high);
}

fn request(index: u32) -> u64 {
    0xfee0_0010 | u64::from(index & 0x7fff) << 5 | u64::from(index >> 15) << 2
}

#[test]
fn interrupts_go_through_the_table() {
    let rig = Rig::new().remapping(false);
    set(&rig, 3, entry(0x0200));
    rig.unit.msi(SOURCE).send(request(3), 0);
    set(&rig, 5, [entry(0x0300)[0] | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5, entry(0)[1]]);
    rig.unit.msi(SOURCE).send(request(3) | 8, 2);
    rig.unit.ioapic().send(request(5), 0);
    let lowest = 0xc155;
    assert_eq!(rig.log.take(), [(0xfee0_2000, 0x55), (0xfee0_300c, lowest), (0xfee0_300c, lowest)]);
    let rig = Rig::new().remapping(true);
    set(&rig, 3, entry(0x12345));
    rig.unit.msi(SOURCE).send(request(3), 0);
    assert_eq!(rig.log.take(), [(0x123 << 40 | 0xfee4_5000, 0x55)]);
}

#[test]
fn interrupts_are_blocked_with_a_reason() {
    let blocked = |e: [u64; 2], address: u64, data: u32| {
        let mut rig = Rig::new().remapping(false);
        set(&rig, 3, e);
        rig.unit.msi(SOURCE).send(address, data);
        assert_eq!(rig.log.take(), []);
        rig.fault(0).map(|(reason, source, index, _)| {
            assert_eq!(source, SOURCE.0);
            (reason, index >> 48)
        })
    };
    let [low, high] = entry(0x100);
    assert_eq!(blocked([low, high], request(3) | 8, 1 << 16), Some((0x20, 3)));
    assert_eq!(blocked([low, high], request(256), 0), Some((0x21, 256)));
    assert_eq!(blocked([low, high], request(0x8003), 0), Some((0x21, 0x8003)));
    assert_eq!(blocked([low & !1, high], request(3), 0), Some((0x22, 3)));
    assert_eq!(blocked([low | 1 << 15, high], request(3), 0), Some((0x24, 3)), "posted");
    assert_eq!(blocked([low | 1 << 32, high], request(3), 0), Some((0x24, 3)), "a wide destination");
    assert_eq!(blocked([low, high | 1 << 20], request(3), 0), Some((0x24, 3)));
    assert_eq!(blocked([low, high | 3 << 18], request(3), 0), Some((0x24, 3)));
    assert_eq!(blocked([low, high], 0xfee0_1000, 0x41), Some((0x25, 0)));
    assert_eq!(blocked([low, high ^ 1], request(3), 0), Some((0x26, 3)));
    assert_eq!(blocked([low | 2, high ^ 1], request(3), 0), None, "not to be recorded");
    let mut rig = Rig::new();
    rig.w64(0xb8, RAM | 3);
    rig.w32(0x18, SIRTP);
    rig.w32(0x18, IRE);
    rig.unit.msi(SOURCE).send(request(0), 0);
    assert_eq!(rig.fault(0).map(|f| f.0), Some(0x23));
}

#[test]
fn sources_are_verified_as_the_entry_says() {
    let passes = |high: u64, source: u16| {
        let rig = Rig::new().remapping(false);
        set(&rig, 3, [entry(0)[0], high]);
        rig.unit.msi(SourceId(source)).send(request(3), 0);
        !rig.log.take().is_empty()
    };
    assert!(passes(0, 0x1234));
    assert!(passes(1 << 18 | 0x18, 0x18) && !passes(1 << 18 | 0x18, 0x1c));
    assert!(passes(1 << 18 | 1 << 16 | 0x18, 0x1c) && !passes(1 << 18 | 1 << 16 | 0x18, 0x1a));
    assert!(passes(1 << 18 | 3 << 16 | 0x18, 0x1f) && !passes(1 << 18 | 3 << 16 | 0x18, 0x20));
    assert!(passes(2 << 18 | 0x0002, 0x0218) && !passes(2 << 18 | 0x0002, 0x0318));
}

#[test]
fn the_compatible_format_passes_when_software_lets_it() {
    let mut rig = Rig::new().remapping(false);
    rig.w32(0x18, IRE | CFI);
    rig.unit.msi(SOURCE).send(0xfee0_1000, 0x41);
    assert_eq!(rig.log.take(), [(0xfee0_1000, 0x41)]);
    let mut rig = Rig::new().remapping(true);
    rig.w32(0x18, IRE | CFI);
    rig.unit.msi(SOURCE).send(0xfee0_1000, 0x41);
    assert_eq!(rig.log.take(), [], "never with wide destinations");
}
