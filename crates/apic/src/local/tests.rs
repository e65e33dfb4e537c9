use super::*;
use crate::{BROADCAST, Message, Trigger};

/// Nanoseconds in a count of the timer with divisor 1.
const TICK: u64 = 1_000_000_000 / crate::TIMER_HZ;
const T0: Now = Now { nanos: 0, tsc: 0 };

fn config(id: u32) -> LocalApicConfig {
    LocalApicConfig { id, boot: id == 0, x2apic: true, tsc_deadline: true, phys_bits: 40, tsc_hz: 2_000_000_000 }
}

/// A software-enabled APIC in xAPIC mode.
fn apic(id: u32) -> LocalApic {
    let mut a = LocalApic::new(config(id));
    assert_eq!(w(&mut a, 0xf0, 0x1ff), Effect::None);
    a
}

fn x2apic(id: u32) -> LocalApic {
    let mut a = apic(id);
    a.set_base(a.base() | 0x400).unwrap();
    a
}

fn at(nanos: u64) -> Now {
    Now { nanos, tsc: nanos * 2 }
}

fn w(a: &mut LocalApic, offset: u32, value: u32) -> Effect {
    a.mmio_write(offset, &value.to_le_bytes(), T0)
}

fn r(a: &mut LocalApic, offset: u32) -> u32 {
    r_at(a, offset, T0)
}

fn r_at(a: &mut LocalApic, offset: u32, now: Now) -> u32 {
    let mut data = [0; 4];
    a.mmio_read(offset, &mut data, now);
    u32::from_le_bytes(data)
}

fn fixed(vector: u8, trigger: Trigger) -> Message {
    Message { destination: 0, logical: false, mode: DeliveryMode::Fixed, vector, trigger }
}

fn edge(a: &mut LocalApic, vector: u8) {
    assert_eq!(a.deliver(&fixed(vector, Trigger::Edge)), Delivery::Interrupt);
}

#[test]
fn reset_values() {
    let mut a = LocalApic::new(config(3));
    assert_eq!(a.base(), 0xfee0_0800);
    assert_eq!(LocalApic::new(config(0)).base(), 0xfee0_0900, "BSP flag");
    assert_eq!(a.page(), Some(Gpa(0xfee0_0000)));
    assert_eq!(r(&mut a, 0x20), 3 << 24);
    assert_eq!(r(&mut a, 0x30), 0x0105_0014);
    assert_eq!(r(&mut a, 0xe0), 0xffff_ffff);
    assert_eq!(r(&mut a, 0xf0), 0xff);
    for lvt in (0x320..=0x370).step_by(16) {
        assert_eq!(r(&mut a, lvt), 0x1_0000);
    }
}

#[test]
fn priorities_nest() {
    let mut a = apic(0);
    edge(&mut a, 0x41);
    edge(&mut a, 0x45);
    edge(&mut a, 0x62);
    assert_eq!(a.acknowledge(), Some(Interrupt::Vector(0x62)));
    assert_eq!(r(&mut a, 0xa0), 0x60, "PPR is the class in service");
    assert!(!a.has_pending());
    edge(&mut a, 0x6f);
    assert!(!a.has_pending(), "the same class waits");
    edge(&mut a, 0x70);
    assert_eq!(a.acknowledge(), Some(Interrupt::Vector(0x70)));
    for next in [None, None, Some(0x6f), None, Some(0x45), None] {
        match next {
            None => assert_eq!(w(&mut a, 0xb0, 0), Effect::None),
            Some(v) => assert_eq!(a.acknowledge(), Some(Interrupt::Vector(v))),
        }
        if next.is_some() {
            assert!(!a.has_pending());
        }
    }
    assert_eq!(a.acknowledge(), Some(Interrupt::Vector(0x41)));
    assert_eq!(a.acknowledge(), None);
}

#[test]
fn task_priority_holds_back_its_class_and_below() {
    let mut a = apic(0);
    edge(&mut a, 0x51);
    a.set_cr8(5);
    assert!(!a.has_pending());
    assert_eq!(r(&mut a, 0x80), 0x50);
    assert_eq!(w(&mut a, 0x80, 0x4f), Effect::None);
    assert!(a.has_pending());
    assert_eq!(a.cr8(), 4);
    assert_eq!(r(&mut a, 0xa0), 0x4f, "with nothing in service PPR is TPR");
}

#[test]
fn only_level_triggered_ends_are_broadcast() {
    let mut a = apic(0);
    assert_eq!(a.deliver(&fixed(0x33, Trigger::Level)), Delivery::Interrupt);
    assert_eq!(r(&mut a, 0x190), 1 << 19, "TMR");
    assert!(a.acknowledge().is_some());
    assert_eq!(w(&mut a, 0xb0, 0), Effect::EndOfInterrupt(0x33));
    edge(&mut a, 0x33);
    assert_eq!(r(&mut a, 0x190), 0);
    assert!(a.acknowledge().is_some());
    assert_eq!(w(&mut a, 0xb0, 0), Effect::None);
    assert_eq!(w(&mut a, 0xb0, 0), Effect::None, "an EOI without interrupt does nothing");
    assert_eq!(w(&mut a, 0xf0, 0x11ff), Effect::None);
    let _ = a.deliver(&fixed(0x33, Trigger::Level));
    assert!(a.acknowledge().is_some());
    assert_eq!(w(&mut a, 0xb0, 0), Effect::None, "broadcast suppressed");
}

#[test]
fn software_disable_masks_lvts_and_refuses_interrupts() {
    let mut a = apic(0);
    let _ = w(&mut a, 0x320, 0x30);
    edge(&mut a, 0x40);
    let _ = w(&mut a, 0xf0, 0xff);
    assert_eq!(r(&mut a, 0x320), 0x1_0030);
    let _ = w(&mut a, 0x320, 0x31);
    assert_eq!(r(&mut a, 0x320), 0x1_0031, "stays masked while disabled");
    assert_eq!(a.deliver(&fixed(0x50, Trigger::Edge)), Delivery::Ignored);
    assert_eq!(a.deliver(&Message { mode: DeliveryMode::Nmi, ..fixed(0, Trigger::Edge) }), Delivery::Nmi);
    assert_eq!(a.deliver(&Message { mode: DeliveryMode::Init, ..fixed(0, Trigger::Edge) }), Delivery::Init);
    assert_eq!(a.deliver(&Message { mode: DeliveryMode::StartUp, ..fixed(8, Trigger::Edge) }), Delivery::StartUp(8));
    assert_eq!(a.acknowledge(), Some(Interrupt::Vector(0x40)), "what was in IRR is held");
}

#[test]
fn errors_are_latched_by_a_write_to_esr() {
    let mut a = apic(0);
    let _ = w(&mut a, 0x370, 0xfe);
    assert_eq!(a.deliver(&fixed(0x0f, Trigger::Edge)), Delivery::Ignored);
    assert_eq!(r(&mut a, 0x280), 0, "not before a write");
    assert_eq!(a.acknowledge(), Some(Interrupt::Vector(0xfe)), "error interrupt");
    let _ = w(&mut a, 0x280, 0);
    assert_eq!(r(&mut a, 0x280), 0x40);
    let _ = w(&mut a, 0x300, 0x0000_4005);
    let _ = r(&mut a, 0x3d0);
    let _ = w(&mut a, 0x280, 0);
    assert_eq!(r(&mut a, 0x280), 0xa0, "send illegal vector, illegal register");
    let _ = w(&mut a, 0x280, 0);
    assert_eq!(r(&mut a, 0x280), 0);
}

fn ipi(effect: Effect) -> Ipi {
    match effect {
        Effect::Ipi(ipi) => ipi,
        other => panic!("expected an IPI, got {other:?}"),
    }
}

#[test]
fn icr_sends_init_and_startup() {
    let (mut a, b) = (apic(0), apic(1));
    let _ = w(&mut a, 0x310, 1 << 24);
    let init = ipi(w(&mut a, 0x300, 0xc500));
    assert_eq!(init.message.mode, DeliveryMode::Init);
    assert!(b.takes(&init) && !a.takes(&init));
    assert_eq!(w(&mut a, 0x300, 0x8500), Effect::None, "INIT level de-assert");
    let sipi = ipi(w(&mut a, 0x300, 0x4608));
    assert_eq!((sipi.message.mode, sipi.message.vector), (DeliveryMode::StartUp, 8));
    assert_eq!(r(&mut a, 0x300), 0x4608);
    let all = ipi(w(&mut a, 0x300, 0xc_4500));
    assert!(b.takes(&all) && !a.takes(&all));
    assert_eq!(w(&mut a, 0x300, 0x4_0500), Effect::None, "no CPU resets itself");
}

#[test]
fn shorthands() {
    let (mut a, b) = (apic(0), apic(1));
    assert_eq!(w(&mut a, 0x300, 0x4_4041), Effect::None);
    assert_eq!(a.acknowledge(), Some(Interrupt::Vector(0x41)), "to self at once");
    let all = ipi(w(&mut a, 0x300, 0x8_4042));
    assert!(a.takes(&all) && b.takes(&all));
    let others = ipi(w(&mut a, 0x300, 0xc_4043));
    assert!(!a.takes(&others) && b.takes(&others));
}

#[test]
fn xapic_destinations() {
    let mut a = apic(5);
    assert!(a.matches(5, false) && !a.matches(4, false) && a.matches(BROADCAST, false));
    let _ = w(&mut a, 0xd0, 0x2000_0000);
    assert!(a.matches(0x21, true) && !a.matches(0x11, true), "flat: a bit in common");
    let _ = w(&mut a, 0xe0, 0x0fff_ffff);
    let _ = w(&mut a, 0xd0, 0x3200_0000);
    assert!(a.matches(0x32, true) && a.matches(0x3f, true), "cluster 3, bit 1");
    assert!(!a.matches(0x22, true) && !a.matches(0x31, true) && a.matches(0xff, true));
    a.set_base(0xfee0_0000).unwrap();
    assert!(!a.matches(5, false) && !a.matches(BROADCAST, false), "disabled");
}

#[test]
fn x2apic_destinations() {
    let mut a = x2apic(0x25);
    assert_eq!(a.read_msr(0x80d, T0), Ok(0x0002_0020));
    assert!(a.matches(0x25, false) && a.matches(BROADCAST, true));
    assert!(a.matches(0x0002_0030, true) && !a.matches(0x0002_0010, true) && !a.matches(0x0001_0020, true));
}

#[test]
fn the_lowest_priority_takes_the_interrupt() {
    let (mut a, mut b, c) = (apic(0), apic(1), LocalApic::new(config(2)));
    a.set_cr8(3);
    let pick = |a: &LocalApic, b: &LocalApic| {
        let mut lowest = Lowest::default();
        lowest.offer(2, &c);
        lowest.offer(0, a);
        lowest.offer(1, b);
        lowest.winner()
    };
    assert_eq!(pick(&a, &b), Some(1), "2 is software-disabled, 0 busier than 1");
    edge(&mut b, 0x41);
    assert_eq!(pick(&a, &b), Some(0), "a pending interrupt counts");
    a.set_cr8(4);
    assert_eq!(pick(&a, &b), Some(0), "the first of equals");
}

#[test]
fn base_msr_transitions() {
    let mut a = LocalApic::new(config(0));
    let base = a.base();
    assert_eq!(a.set_base(base | 1), Err(GeneralProtection), "reserved bit");
    assert_eq!(a.set_base(base | 1 << 40), Err(GeneralProtection), "beyond the physical address width");
    assert_eq!(a.set_base(0xfee0_0500), Err(GeneralProtection), "EXTD without EN");
    a.set_base(base | 0x400).unwrap();
    assert_eq!((a.mode(), a.page()), (ApicMode::X2Apic, None));
    assert_eq!(a.set_base(base), Err(GeneralProtection), "x2APIC to xAPIC");
    a.set_base(base & !0xc00).unwrap();
    assert_eq!(a.mode(), ApicMode::Disabled);
    assert_eq!(a.set_base(base | 0x400), Err(GeneralProtection), "disabled to x2APIC");
    a.set_base(0xfec1_0900).unwrap();
    assert_eq!(a.page(), Some(Gpa(0xfec1_0000)), "relocated");
    let mut old = LocalApic::new(LocalApicConfig { x2apic: false, ..config(0) });
    assert_eq!(old.set_base(base | 0x400), Err(GeneralProtection), "not announced");
}

#[test]
fn disabling_loses_the_state() {
    let mut a = apic(0);
    edge(&mut a, 0x41);
    a.set_base(0xfee0_0100).unwrap();
    assert!(!a.has_pending());
    a.set_base(0xfee0_0900).unwrap();
    assert_eq!(r(&mut a, 0xf0), 0xff);
    assert!(!a.has_pending());
}

#[test]
fn init_keeps_the_mode() {
    let mut a = x2apic(1);
    a.init();
    assert_eq!(a.mode(), ApicMode::X2Apic);
    a.reset();
    assert_eq!(a.mode(), ApicMode::XApic);
}

#[test]
fn x2apic_general_protection() {
    let mut a = apic(1);
    assert_eq!(a.read_msr(0x802, T0), Err(GeneralProtection), "not in x2APIC mode");
    let mut a2 = x2apic(1);
    for reg in [0x800, 0x804, 0x809, 0x80b, 0x80c, 0x80e, 0x82f, 0x831, 0x83f, 0x840, 0x8ff] {
        assert_eq!(a2.read_msr(reg, T0), Err(GeneralProtection), "RDMSR {reg:x}");
    }
    for reg in [0x802, 0x803, 0x80a, 0x80d, 0x810, 0x818, 0x820, 0x82f, 0x831, 0x839, 0x840] {
        assert_eq!(a2.write_msr(reg, 0, T0), Err(GeneralProtection), "WRMSR {reg:x}");
    }
    for (reg, value) in [(0x808, 0x100), (0x80b, 1), (0x828, 1), (0x832, 1 << 32), (0x830, 1 << 20), (0x83f, 0x100)] {
        assert_eq!(a2.write_msr(reg, value, T0), Err(GeneralProtection), "WRMSR {reg:x} {value:x}");
    }
    assert_eq!(a2.read_msr(0x802, T0), Ok(1));
    assert_eq!(a2.write_msr(0x83f, 0x77, T0), Ok(Effect::None));
    assert_eq!(a2.acknowledge(), Some(Interrupt::Vector(0x77)), "self IPI");
    let sent = ipi(a2.write_msr(0x830, 0x0001_0000_0000_0041, T0).unwrap());
    assert_eq!(sent.message.destination, 0x1_0000);
    a.mmio_read(0x20, &mut [0; 4], T0);
}

#[test]
fn one_shot_timer() {
    let mut a = apic(0);
    let _ = w(&mut a, 0x320, 0x30);
    let _ = w(&mut a, 0x3e0, 0x3);
    let _ = w(&mut a, 0x380, 1000);
    assert_eq!(a.next_deadline(T0), Some(16_000 * TICK), "divided by 16");
    assert_eq!(r_at(&mut a, 0x390, at(8_000 * TICK)), 500);
    a.tick(at(15_999 * TICK));
    assert!(!a.has_pending());
    a.tick(at(16_000 * TICK));
    assert_eq!(a.acknowledge(), Some(Interrupt::Vector(0x30)));
    assert_eq!(a.next_deadline(at(16_000 * TICK)), None);
    assert_eq!(r_at(&mut a, 0x390, at(17_000 * TICK)), 0);
}

#[test]
fn divisors() {
    for (code, divisor) in [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)] {
        let mut a = apic(0);
        let _ = w(&mut a, 0x320, 0x30);
        let _ = w(&mut a, 0x3e0, code);
        let _ = w(&mut a, 0x380, 1000);
        assert_eq!(a.next_deadline(T0), Some(1000 * divisor * TICK), "code {code}");
    }
}

#[test]
fn periodic_timer_keeps_its_phase_and_skips_lost_ticks() {
    let mut a = apic(0);
    let _ = w(&mut a, 0x320, 0x2_0030);
    let _ = w(&mut a, 0x3e0, 0xb);
    let _ = w(&mut a, 0x380, 1_000_000);
    a.tick(at(1_000_000 * TICK));
    assert!(a.acknowledge().is_some());
    assert_eq!(a.next_deadline(at(1_000_000 * TICK)), Some(2_000_000 * TICK));
    let _ = w(&mut a, 0xb0, 0);
    a.tick(at(5_300_000 * TICK));
    assert!(a.acknowledge().is_some());
    assert_eq!(a.next_deadline(at(5_300_000 * TICK)), Some(6_000_000 * TICK));
    assert_eq!(r_at(&mut a, 0x390, at(5_400_000 * TICK)), 600_000);
}

#[test]
fn a_tiny_period_does_not_storm() {
    let mut a = apic(0);
    let _ = w(&mut a, 0x320, 0x2_0030);
    let _ = w(&mut a, 0x3e0, 0xb);
    let _ = w(&mut a, 0x380, 1);
    let mut now = 0;
    let mut fired = 0;
    for _ in 0..1000 {
        now = a.next_deadline(at(now)).unwrap();
        a.tick(at(now));
        fired += u32::from(a.acknowledge().is_some());
        let _ = a.mmio_write(0xb0, &[0; 4], at(now));
    }
    assert_eq!(fired, 1000);
    assert!(now >= 999 * 20_000);
}

#[test]
fn mode_change_between_one_shot_and_periodic_keeps_the_count() {
    let mut a = apic(0);
    let _ = w(&mut a, 0x320, 0x2_0030);
    let _ = w(&mut a, 0x3e0, 0xb);
    let _ = w(&mut a, 0x380, 1_000_000);
    let _ = a.mmio_write(0x320, &0x30u32.to_le_bytes(), at(400_000 * TICK));
    assert_eq!(r_at(&mut a, 0x390, at(400_000 * TICK)), 600_000);
    assert_eq!(r_at(&mut a, 0x390, at(2_000_000 * TICK)), 0, "one-shot rests");
    let _ = a.mmio_write(0x320, &0x2_0030u32.to_le_bytes(), at(2_000_000 * TICK));
    assert_eq!(r_at(&mut a, 0x390, at(2_100_000 * TICK)), 0, "stays at rest until the count is written");
}

#[test]
fn tsc_deadline_timer() {
    let mut a = apic(0);
    assert_eq!(a.write_msr(0x6e0, 5000, T0), Ok(Effect::None));
    assert_eq!(a.read_msr(0x6e0, T0), Ok(0), "ignored outside the mode");
    let _ = w(&mut a, 0x320, 0x4_0030);
    let _ = a.write_msr(0x6e0, 5000, T0).unwrap();
    assert_eq!(a.next_deadline(at(100)), Some(100 + 2400), "2 GHz");
    assert_eq!(r_at(&mut a, 0x390, at(100)), 0);
    a.tick(at(2499));
    assert!(!a.has_pending());
    a.tick(at(2500));
    assert_eq!(a.acknowledge(), Some(Interrupt::Vector(0x30)));
    assert_eq!(a.read_msr(0x6e0, at(2500)), Ok(0));
    let _ = a.write_msr(0x6e0, u64::MAX, at(2500)).unwrap();
    assert!(a.next_deadline(at(2500)).is_some());
    let _ = a.mmio_write(0x320, &0x30u32.to_le_bytes(), at(2500));
    assert_eq!(a.next_deadline(at(2500)), None, "leaving the mode disarms");
    let _ = a.mmio_write(0x320, &0x4_0030u32.to_le_bytes(), at(2500));
    let _ = a.mmio_write(0xb0, &[0; 4], at(2500));
    let _ = a.write_msr(0x6e0, 1, at(2500)).unwrap();
    assert!(a.has_pending(), "a deadline in the past fires at once");
}

#[test]
fn ext_int_through_lint0() {
    let mut a = LocalApic::new(LocalApicConfig { boot: true, ..config(0) });
    let _ = a.set_lint0(true);
    assert!(a.has_pending(), "virtual wire mode after reset");
    let _ = w(&mut a, 0x350, 0x1_0700);
    assert!(!a.has_pending(), "masked");
    a.init();
    assert!(!a.has_pending(), "masked after INIT");
    let _ = w(&mut a, 0xf0, 0x1ff);
    let _ = w(&mut a, 0x350, 0x700);
    a.set_cr8(15);
    assert_eq!(a.acknowledge(), Some(Interrupt::ExtInt), "priorities do not apply");
    assert!(a.has_pending(), "the pin is still high");
    let _ = a.set_lint0(false);
    assert!(!a.has_pending());
    let _ = a.set_lint0(true);
    a.set_base(0xfee0_0100).unwrap();
    assert_eq!(a.acknowledge(), Some(Interrupt::ExtInt), "a disabled APIC passes INTR through");
    assert_eq!(a.set_lint1(true), Delivery::Nmi);
}

#[test]
fn an_ext_int_message_waits_for_its_acknowledge() {
    let mut a = apic(0);
    assert_eq!(a.deliver(&Message { mode: DeliveryMode::ExtInt, ..fixed(0, Trigger::Edge) }), Delivery::Interrupt);
    assert_eq!(a.acknowledge(), Some(Interrupt::ExtInt));
    assert_eq!(a.acknowledge(), None);
}

#[test]
fn lint_pins_and_local_sources() {
    let mut a = apic(0);
    let _ = w(&mut a, 0x360, 0x400);
    assert_eq!(a.set_lint1(true), Delivery::Nmi);
    assert_eq!(a.set_lint1(true), Delivery::Ignored, "no second edge");
    let _ = w(&mut a, 0x340, 0x400);
    assert_eq!(a.raise(LocalSource::PerfCounter), Delivery::Nmi);
    assert_eq!(r(&mut a, 0x340), 0x1_0400, "masked by its own delivery");
    assert_eq!(a.raise(LocalSource::Thermal), Delivery::Ignored);
    let _ = w(&mut a, 0x350, 0x8041);
    assert_eq!(a.set_lint0(true), Delivery::Interrupt);
    assert_eq!(r(&mut a, 0x350), 0xc041, "remote IRR");
    assert!(a.acknowledge().is_some());
    let _ = w(&mut a, 0xb0, 0);
    assert!(a.has_pending(), "the level is still there");
    let _ = a.set_lint0(false);
    assert!(a.acknowledge().is_some());
    let _ = w(&mut a, 0xb0, 0);
    assert!(!a.has_pending());
    assert_eq!(r(&mut a, 0x350), 0x8041);
}

#[test]
fn odd_accesses_are_harmless() {
    let mut a = apic(0);
    assert_eq!(a.mmio_write(0x80, &[0x50], T0), Effect::None);
    assert_eq!(a.mmio_write(0x81, &[0x50; 4], T0), Effect::None);
    assert_eq!(a.mmio_write(0x80, &[0x50; 8], T0), Effect::None);
    assert_eq!(a.cr8(), 0);
    let mut data = [0xee; 8];
    a.mmio_read(0x31, &mut data, T0);
    assert_eq!(data, [0, 5, 1, 0, 0, 0, 0, 0]);
}

#[test]
fn state_round_trips() {
    let mut a = x2apic(7);
    let _ = a.write_msr(0x832, 0x2_0030, T0).unwrap();
    let _ = a.write_msr(0x838, 5000, T0).unwrap();
    let _ = a.deliver(&fixed(0x81, Trigger::Level));
    let state = a.save();
    let mut b = LocalApic::new(config(7));
    b.restore(&state);
    assert_eq!(b.save(), state);
    assert!(b.has_pending());
    assert_eq!(b.next_deadline(T0), a.next_deadline(T0));
}

#[test]
fn random_accesses_never_panic() {
    let mut a = apic(0);
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut now = 0u64;
    for _ in 0..300_000 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let (value, len) = ((seed >> 8).to_le_bytes(), 1 << (seed >> 4 & 3));
        now += seed >> 50;
        let offset = (seed >> 30) as u32 & 0xfff;
        match seed & 15 {
            0 => a.mmio_read(offset, &mut [0; 8][..len], at(now)),
            1 => drop(a.mmio_write(offset, &value[..len], at(now))),
            2..=5 => drop(a.mmio_write(offset & 0x3f0, &value[..4], at(now))),
            6 => drop(a.read_msr(0x800 + (offset & 0x7f), at(now))),
            7 | 8 => drop(a.write_msr(0x800 + (offset & 0x7f), seed >> (seed & 63), at(now))),
            9 => drop(a.write_msr(0x6e0, now.wrapping_add(seed >> 48), at(now))),
            10 => drop(a.set_base(0xfee0_0000 | seed & 0xd00)),
            11 => drop(Message::decode(0xfee0_0000, seed as u32 & 0xffff).map(|m| a.deliver(&m))),
            12 => drop((a.set_lint0(seed & 64 != 0), a.set_lint1(seed & 128 != 0))),
            13 => a.set_cr8((seed >> 9) as u8),
            14 => a.tick(at(a.next_deadline(at(now)).filter(|d| *d < now + 1_000_000).unwrap_or(now))),
            _ => drop(a.acknowledge()),
        }
        assert_eq!(a.has_pending(), a.pending().is_some(), "the cache is right");
    }
}
