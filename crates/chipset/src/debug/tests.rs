use super::*;
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
