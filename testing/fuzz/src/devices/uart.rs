//! The serial port.

use visor_chipset::{CharSink, UART_LEN, Uart, UartWires};

use crate::pc::Pc;
use crate::{Input, Script};

/// Takes what a device says.
pub(super) struct Nowhere;

impl CharSink for Nowhere {
    fn write(&mut self, _bytes: &[u8]) {}
}

pub(super) fn run(data: &[u8]) {
    let mut pc = Pc::new();
    let (clock, irq) = (pc.clock.clone(), pc.line(4));
    let uart = pc.timed(|timer| Uart::new("uart0", UartWires { clock, timer, irq, sink: Box::new(Nowhere) }));
    pc.at_ports(0x3f8, UART_LEN, uart.clone());
    pc.drive(&mut Input::new(data), |_, op, input| {
        let mut uart = uart.lock().expect("nobody panicked");
        match op {
            0 | 1 => _ = uart.receive(input.bytes()),
            _ => _ = uart.receive_break(),
        }
    });
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let init = Script::new().outs(0, &[(3, 0x83), (0, 1), (1, 0), (3, 3), (2, 0xc7), (1, 0x0f), (4, 0x0b)]);
    vec![
        init.clone().extra(0).bytes(b"hello, this is longer than a FIFO").inp(0, 5, 1).inp(0, 0, 4).wait(1 << 30).end(),
        init.clone().outs(0, &[(4, 0x1f), (0, b'a'), (0, b'b')]).inp(0, 6, 1).inp(0, 0, 1).inp(0, 2, 1).end(),
        init.extra(2).outs(0, &[(2, 0), (2, 1)]).inp(0, 5, 2).wait(1_000_000).inp(0, 2, 1).end(),
    ]
}
