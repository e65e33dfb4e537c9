use std::sync::Mutex;

use visor_device::{Device, MmioDevice};

use super::*;

#[derive(Default)]
struct Messages(Mutex<Vec<(u64, u32)>>);

impl MsiSink for Messages {
    fn send(&self, address: u64, data: u32) {
        self.0.lock().unwrap().push((address, data));
    }
}

impl Messages {
    fn take(&self) -> Vec<(u64, u32)> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

fn ioapic() -> (Arc<Messages>, IoApic) {
    let sink = Arc::new(Messages::default());
    (sink.clone(), IoApic::new(sink))
}

fn write(io: &mut IoApic, index: u32, value: u32) {
    MmioDevice::write(io, 0x00, &index.to_le_bytes());
    MmioDevice::write(io, 0x10, &value.to_le_bytes());
}

fn read(io: &mut IoApic, index: u32) -> u32 {
    MmioDevice::write(io, 0x00, &index.to_le_bytes());
    let mut data = [0; 4];
    MmioDevice::read(io, 0x10, &mut data);
    u32::from_le_bytes(data)
}

#[test]
fn identity_registers() {
    let (_, mut io) = ioapic();
    assert_eq!(read(&mut io, 1), 0x0017_0020);
    write(&mut io, 0, 0xff00_0000);
    assert_eq!(read(&mut io, 0), 0x0f00_0000, "four bits of id");
    assert_eq!(read(&mut io, 2), 0x0f00_0000, "the arbitration id follows the id");
    write(&mut io, 1, 0);
    assert_eq!(read(&mut io, 1), 0x0017_0020, "read-only");
    assert_eq!(read(&mut io, 0x10), 0x0001_0000, "masked after power-on");
    assert_eq!(read(&mut io, 0x40), 0, "no such entry");
}

#[test]
fn read_only_bits_of_an_entry_do_not_change() {
    let (_, mut io) = ioapic();
    write(&mut io, 0x12, 0xffff_ffff);
    write(&mut io, 0x13, 0xffff_ffff);
    assert_eq!(read(&mut io, 0x12), 0x0001_afff);
    assert_eq!(read(&mut io, 0x13), 0xff00_0000);
}

#[test]
fn an_edge_is_sent_once_and_lost_while_masked() {
    let (sink, mut io) = ioapic();
    write(&mut io, 0x15, 0x0300_0000);
    write(&mut io, 0x14, 0x0001_0830);
    io.set(2, true);
    io.set(2, false);
    write(&mut io, 0x14, 0x0830);
    assert_eq!(sink.take(), [], "an edge on a masked input is lost");
    io.set(2, true);
    io.set(2, true);
    assert_eq!(sink.take(), [(0xfee0_3004, 0x30)]);
    io.set(2, false);
    io.set(2, true);
    assert_eq!(sink.take().len(), 1);
}

#[test]
fn a_level_is_sent_again_after_eoi_while_asserted() {
    let (sink, mut io) = ioapic();
    write(&mut io, 0x10 + 2 * 11, 0xa151);
    io.set(11, true);
    assert_eq!(sink.take(), [(0xfee0_0000, 0xc151)]);
    assert_eq!(read(&mut io, 0x10 + 2 * 11), 0xe151, "remote IRR");
    io.set(11, false);
    io.set(11, true);
    assert_eq!(sink.take(), [], "held until EOI");
    io.end_of_interrupt(0x52);
    assert_eq!(sink.take(), [], "another vector");
    io.end_of_interrupt(0x51);
    assert_eq!(sink.take().len(), 1);
    io.set(11, false);
    MmioDevice::write(&mut io, 0x40, &0x51u32.to_le_bytes());
    assert_eq!(sink.take(), []);
    assert_eq!(read(&mut io, 0x10 + 2 * 11), 0xa151);
}

#[test]
fn unmasking_an_asserted_level_delivers() {
    let (sink, mut io) = ioapic();
    write(&mut io, 0x20, 0x1_8060);
    io.set(8, true);
    assert_eq!(sink.take(), []);
    write(&mut io, 0x20, 0x8060);
    assert_eq!(sink.take().len(), 1);
}

#[test]
fn switching_to_edge_clears_remote_irr() {
    let (sink, mut io) = ioapic();
    write(&mut io, 0x20, 0x8060);
    io.set(8, true);
    assert_eq!(sink.take().len(), 1);
    write(&mut io, 0x20, 0x1_0060);
    write(&mut io, 0x20, 0x1_8060);
    assert_eq!(read(&mut io, 0x20), 0x1_8060);
    write(&mut io, 0x20, 0x8060);
    assert_eq!(sink.take().len(), 1);
}

#[test]
fn ext_int_and_nmi_are_edges() {
    let (sink, mut io) = ioapic();
    write(&mut io, 0x10, 0x8700);
    io.set(0, true);
    assert_eq!(sink.take(), [(0xfee0_0000, 0x0700)]);
    assert_eq!(read(&mut io, 0x10), 0x8700, "no remote IRR");
}

#[test]
fn reset_masks_but_keeps_input_levels() {
    let (sink, mut io) = ioapic();
    io.set(9, true);
    write(&mut io, 0x22, 0x8049);
    assert_eq!(sink.take().len(), 1);
    io.reset();
    assert_eq!(read(&mut io, 0x22), 0x1_0000);
    write(&mut io, 0x22, 0x8049);
    assert_eq!(sink.take().len(), 1, "the line is still asserted");
}

#[test]
fn state_round_trips_and_is_sanitised() {
    let (_, mut io) = ioapic();
    write(&mut io, 0x20, 0x8060);
    io.set(8, true);
    let state = io.save();
    let (sink, mut other) = ioapic();
    other.restore(&state);
    assert_eq!(other.save(), state);
    other.end_of_interrupt(0x60);
    assert_eq!(sink.take().len(), 1);
    other.restore(&IoApicState { id: 0xff, select: 9, entries: [u64::MAX; IOAPIC_INPUTS], levels: u32::MAX });
    assert_eq!(other.save().entries[0], WRITABLE | REMOTE_IRR);
    assert_eq!(other.save().levels, 0xff_ffff);
}

#[test]
fn random_accesses_never_panic() {
    let (sink, mut io) = ioapic();
    let mut seed = 0x1234_5678_9abc_def0u64;
    for _ in 0..200_000 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let (value, len) = ((seed >> 8).to_le_bytes(), 1 << (seed >> 4 & 3));
        match seed & 7 {
            0 => io.set((seed >> 20) as u32 & 31, seed >> 40 & 1 != 0),
            1 => io.end_of_interrupt((seed >> 20) as u8),
            2 => MmioDevice::read(&mut io, seed >> 30 & 0xfff, &mut [0; 8][..len]),
            3 => MmioDevice::write(&mut io, seed >> 30 & 0xfff, &value[..len]),
            4 => MmioDevice::write(&mut io, 0, &[(seed >> 20) as u8 & 0x3f]),
            _ => MmioDevice::write(&mut io, 0x10, &value[..4]),
        }
        assert!(sink.take().len() <= IOAPIC_INPUTS);
    }
}
