//! The devices for tests and firmware logs.

use std::sync::Arc;

use visor_chipset::{
    DEBUG_CONSOLE_PORTS, DEBUG_EXIT_PORT, DebugConsole, DebugExit, TEST_IRQ_PORT, TEST_MEMORY, TEST_MEMORY_LEN,
    TEST_PORT, TEST_PORTS, TestIrqs, TestMemory, TestPorts,
};

use super::i8042::Power;
use super::uart::Nowhere;
use crate::pc::Pc;
use crate::{Input, Script};

pub(super) fn run(data: &[u8]) {
    let mut pc = Pc::new();
    let exit = pc.device(DebugExit::new(Arc::new(Power)));
    pc.at_ports(DEBUG_EXIT_PORT, 4, exit);
    let console = pc.device(DebugConsole::new(Box::new(Nowhere)));
    DEBUG_CONSOLE_PORTS.iter().for_each(|port| pc.at_ports(*port, 1, console.clone()));
    let lines = (0..24).map(|n| pc.line(n)).collect();
    let irqs = pc.device(TestIrqs::new(lines));
    pc.at_ports(TEST_IRQ_PORT, 24, irqs);
    let ports = pc.device(TestPorts::default());
    pc.at_ports(TEST_PORT, TEST_PORTS, ports);
    let memory = pc.device(TestMemory::default());
    pc.at_memory(TEST_MEMORY, TEST_MEMORY_LEN, memory);
    pc.drive(&mut Input::new(data), |_, _, _| ());
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let s = Script::new().outp(0, 0, 4, 0x31).outs(1, &[(0, b'x')]).inp(1, 0, 1).out(3, 5, 1).outp(4, 1, 2, 7);
    vec![s.inp(4, 0, 4).store(0, 0xffff, 8, 9).load(0, 3, 8).end()]
}
