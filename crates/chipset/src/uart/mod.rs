//! The 16550A serial port (National PC16550D data sheet).
//!
//! ```text
//! +0 RBR read, THR write; DLL with DLAB     +4 MCR [ . . . LOOP OUT2 OUT1 RTS DTR ]
//! +1 IER [ .... MS RLS THRE RDA ]; DLM      +5 LSR [ ERR TEMT THRE BI FE PE OE DR ]
//! +2 IIR read, FCR write                    +6 MSR [ DCD RI DSR CTS dDCD TERI dDSR dCTS ]
//! +3 LCR [ DLAB ... ]                       +7 SCR
//! ```
//!
//! Transmission takes no time: a byte written to THR is out before the write ends, so THRE and TEMT are always set, whatever
//! the divisor. Reception keeps the FIFO's rules: trigger level, and the time-out interrupt four characters (at the programmed
//! rate) after the last one. The peer's modem lines are always on. The interrupt is not gated by OUT2. There are no
//! parity, framing or (outside of loopback) overrun errors: input beyond the FIFO is refused, not lost.

mod device;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use visor_device::{Clock, IrqLine, Nanos, TimerDevice, TimerSlot};

use crate::CharSink;

/// Ports of one UART.
pub const UART_LEN: u16 = 8;

/// Characters the FIFO holds.
const FIFO: usize = 16;
/// Input clock in Hz; a bit lasts 16 clocks times the divisor.
const CLOCK: u64 = 1_843_200;

const IER_RDA: u8 = 1;
const IER_THRE: u8 = 2;
const IER_RLS: u8 = 4;
const IER_MS: u8 = 8;

const LCR_DLAB: u8 = 0x80;
const MCR_LOOP: u8 = 0x10;

const LSR_OE: u8 = 0x02;
const LSR_ERRORS: u8 = 0x1e;
const LSR_BI: u8 = 0x10;
const LSR_TX_EMPTY: u8 = 0x60;

/// DCD, DSR and CTS of a peer that is there.
const MODEM_ON: u8 = 0xb0;

/// What a [`Uart`] is connected to.
pub struct UartWires {
    /// Guest time.
    pub clock: Arc<dyn Clock>,
    /// Alarm for the reception time-out.
    pub timer: Arc<dyn TimerSlot>,
    /// Its interrupt, active while a cause of IIR is pending.
    pub irq: IrqLine,
    /// Takes what the guest sends.
    pub sink: Box<dyn CharSink>,
}

/// A serial port.
pub struct Uart {
    name: String,
    wires: UartWires,
    regs: Regs,
    /// Characters received, each with its bits of LSR.
    rx: VecDeque<(u8, u8)>,
    /// Input was refused since the FIFO was full.
    refused: bool,
    /// The interrupt line as it was set last: most accesses do not change it.
    line: bool,
}

/// The registers after power-on are all zero but where `Default` says otherwise.
#[derive(Clone, Debug)]
struct Regs {
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    msr: u8,
    scr: u8,
    divisor: u16,
    overrun: bool,
    /// The transmitter became empty and nobody has seen it in IIR.
    thre_pending: bool,
    /// Received characters have waited for too long.
    timed_out: bool,
}

impl Default for Regs {
    fn default() -> Self {
        Regs {
            ier: 0,
            fcr: 0,
            lcr: 0,
            mcr: 0,
            msr: MODEM_ON,
            scr: 0,
            divisor: 1,
            overrun: false,
            thre_pending: false,
            timed_out: false,
        }
    }
}

impl Uart {
    /// A serial port called `name`, such as `uart0`, after power-on.
    pub fn new(name: impl Into<String>, wires: UartWires) -> Self {
        Uart {
            name: name.into(),
            wires,
            regs: Regs::default(),
            rx: VecDeque::with_capacity(FIFO),
            refused: false,
            line: false,
        }
    }

    /// Input from outside: takes as many of `bytes` as there is room for and returns their number. After it has taken less
    /// than all, [`CharSink::ready`] tells when there is room again. While the guest tests the port in loopback, it takes nothing.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let room = if self.is_loopback() { 0 } else { self.capacity().saturating_sub(self.rx.len()) };
        let taken = room.min(bytes.len());
        self.rx.extend(bytes[..taken].iter().map(|b| (*b, 0)));
        self.refused |= taken < bytes.len();
        if taken != 0 {
            self.restart_time_out();
        }
        self.update();
        taken
    }

    /// A break from outside; false if there is no room for it.
    pub fn receive_break(&mut self) -> bool {
        let room = !self.is_loopback() && self.rx.len() < self.capacity();
        if room {
            self.rx.push_back((0, LSR_BI));
            self.restart_time_out();
            self.update();
        }
        room
    }

    fn capacity(&self) -> usize {
        if self.has_fifo() { FIFO } else { 1 }
    }

    fn has_fifo(&self) -> bool {
        self.regs.fcr & 1 != 0
    }

    fn is_loopback(&self) -> bool {
        self.regs.mcr & MCR_LOOP != 0
    }

    /// Characters at which "received data available" comes.
    fn trigger(&self) -> usize {
        if self.has_fifo() { [1, 4, 8, 14][usize::from(self.regs.fcr >> 6)] } else { 1 }
    }

    fn lsr(&self) -> u8 {
        let head = self.rx.front();
        let any_error = self.has_fifo() && self.rx.iter().any(|(_, e)| *e != 0);
        u8::from(head.is_some())
            | head.map_or(0, |(_, e)| *e)
            | if self.regs.overrun { LSR_OE } else { 0 }
            | LSR_TX_EMPTY
            | if any_error { 0x80 } else { 0 }
    }

    /// The interrupt with the highest priority, as IIR codes it (table 5 of the data sheet).
    fn cause(&self) -> Option<u8> {
        let r = &self.regs;
        if r.ier & IER_RLS != 0 && self.lsr() & LSR_ERRORS != 0 {
            Some(0x6)
        } else if r.ier & IER_RDA != 0 && self.rx.len() >= self.trigger() {
            Some(0x4)
        } else if r.ier & IER_RDA != 0 && r.timed_out && !self.rx.is_empty() {
            Some(0xc)
        } else if r.ier & IER_THRE != 0 && r.thre_pending {
            Some(0x2)
        } else if r.ier & IER_MS != 0 && r.msr & 0xf != 0 {
            Some(0x0)
        } else {
            None
        }
    }

    fn update(&mut self) {
        let line = self.cause().is_some();
        if line != self.line {
            self.line = line;
            self.wires.irq.set(line);
        }
    }

    /// Four characters from now, the time-out interrupt is due if characters wait below the trigger level.
    fn restart_time_out(&mut self) {
        self.regs.timed_out = false;
        let waits = self.has_fifo() && !self.rx.is_empty();
        self.wires.timer.arm(waits.then(|| self.wires.clock.now().saturating_add(4 * self.character())));
    }

    /// Duration of a character in nanoseconds: start bit, 5 to 8 data bits, parity, 1 or 2 stop bits.
    fn character(&self) -> Nanos {
        let lcr = self.regs.lcr;
        let bits = 1 + 5 + u64::from(lcr & 3) + u64::from(lcr >> 3 & 1) + 1 + u64::from(lcr >> 2 & 1);
        let divisor = u64::from(self.regs.divisor.max(1));
        bits * 16 * divisor * 1_000_000_000 / CLOCK
    }

    /// MSR from the modem lines, with the bits that tell what changed.
    fn update_modem(&mut self) {
        let mcr = self.regs.mcr;
        // In loopback CTS, DSR, RI and DCD are RTS, DTR, OUT1 and OUT2.
        let lines = if self.is_loopback() {
            (mcr & 2) << 3 | (mcr & 1) << 5 | (mcr & 4) << 4 | (mcr & 8) << 4
        } else {
            MODEM_ON
        };
        let (before, changed) = (self.regs.msr, (self.regs.msr ^ lines) >> 4);
        // RI is reported by its end only.
        let delta = changed & 0xb | changed & before >> 4 & 4;
        self.regs.msr = lines | before & 0xf | delta;
    }

    /// Tells the source of refused input that there is room.
    fn offer_room(&mut self) {
        if self.refused && !self.is_loopback() && self.rx.len() < self.capacity() {
            self.refused = false;
            self.wires.sink.ready();
        }
    }
}

impl TimerDevice for Uart {
    fn expired(&mut self, _now: Nanos) {
        self.regs.timed_out = self.has_fifo() && !self.rx.is_empty();
        self.update();
    }
}
