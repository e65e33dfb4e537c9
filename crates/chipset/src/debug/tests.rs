use visor_device::PioDevice;

use super::*;
use crate::PowerEvent;
use crate::testing::{Power, Random, Screen};

#[test]
fn the_status_is_odd() {
    let power = Arc::new(Power::default());
    let mut exit = DebugExit::new(power.clone());
    exit.write(0, &[0x10]);
    exit.write(0, &0x0000_0031u32.to_le_bytes());
    exit.write(0, &[0xff]);
    assert_eq!(power.take(), [0x21, 0x63, 0xff].map(PowerEvent::Exit));
}

#[test]
fn the_console_is_found_and_written() {
    let screen = Screen::default();
    let mut console = DebugConsole::new(Box::new(screen.clone()));
    let mut data = [0];
    console.read(0, &mut data);
    assert_eq!(data, [0xe9]);
    console.write(0, b"h");
    console.write(0, b"i");
    assert_eq!(screen.text(), b"hi");
}

#[test]
fn random_accesses_never_panic() {
    let mut exit = DebugExit::new(Arc::new(Power::default()));
    let mut console = DebugConsole::new(Box::new(Screen::default()));
    let mut random = Random::new(0xe9);
    for _ in 0..10_000 {
        let r = random.next();
        let len = 1 << ((r & 3) % 3);
        for device in [&mut exit as &mut dyn PioDevice, &mut console] {
            device.write((r >> 8) as u16 & 3, &r.to_le_bytes()[..len]);
            device.read((r >> 8) as u16 & 3, &mut [0; 4][..len]);
        }
    }
}

#[test]
fn test_inputs_follow_the_value_written() {
    let log = std::sync::Arc::new(visor_device::testing::IrqLog::default());
    let line = |gsi| visor_device::IrqLine::new(log.clone(), gsi);
    let mut irqs = super::TestIrqs::new((0..24).map(line).collect());
    irqs.write(11, &1u32.to_le_bytes());
    irqs.write(11, &0u32.to_le_bytes());
    irqs.write(24, &[1]);
    assert_eq!(*log.0.lock().unwrap(), [(11, true), (11, false)]);
}

#[test]
fn test_memory_and_ports_keep_what_is_written() {
    let mut memory = super::TestMemory::default();
    visor_device::MmioDevice::write(&mut memory, 0xfffc, &[1, 2, 3, 4]);
    let mut data = [0; 4];
    visor_device::MmioDevice::read(&mut memory, 0xfffc, &mut data);
    assert_eq!(data, [1, 2, 3, 4]);
    let mut ports = super::TestPorts::default();
    ports.write(0, &[9, 8, 7, 6]);
    visor_device::PioDevice::read(&mut ports, 2, &mut data[..2]);
    assert_eq!(data[..2], [7, 6]);
}
