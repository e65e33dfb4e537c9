//! The machine around a guest program: ports that record, memory that remembers, and hands that interrupt.
//!
//! | port | meaning |
//! |---|---|
//! | 80h | a trace value |
//! | 90h, 94h, 98h | found, wanted, name: one check |
//! | A0h, A4h, A8h, ACh | a host service and its operands |
//! | E9h | text |
//! | F4h | the end, with an exit code |
//! | 200h–20Fh | a latch: IN gives what was last put OUT |
//!
//! Every other port, and memory without RAM, behaves as the latch does and is logged.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use visor_engine::{CpuIo, Gpa, GuestMemory, Kicker, MsiSink, Vm};
use vm_memory::{Bytes, GuestAddress};

use crate::harness::{Access, Check, Outcome};

/// Most records kept, so that a guest run wild cannot fill the host's memory.
const LIMIT: usize = 100_000;

/// The machine.
pub(crate) struct Host {
    vm: Arc<dyn Vm>,
    memory: Arc<GuestMemory>,
    log: Mutex<Log>,
}

#[derive(Default)]
struct Log {
    out: Outcome,
    got: u32,
    want: u32,
    operands: [u32; 3],
    vector: Option<u8>,
    ports: HashMap<u16, u8>,
    cells: HashMap<u64, u8>,
    kickers: Vec<Kicker>,
    /// The guest's requests to be stopped are obeyed.
    obey: bool,
}

impl Host {
    pub(crate) fn new(vm: Arc<dyn Vm>, memory: Arc<GuestMemory>) -> Arc<Self> {
        Arc::new(Host { vm, memory, log: Mutex::default() })
    }

    /// vCPUs to stop when the guest reports its end.
    pub(crate) fn stop_at_end(&self, kicker: Kicker) {
        self.log().kickers.push(kicker);
    }

    /// From now on the guest is stopped where it asks for it.
    pub(crate) fn obey_stops(&self) {
        self.log().obey = true;
    }

    /// What was recorded so far.
    pub(crate) fn outcome(&self) -> Outcome {
        self.log().out.clone()
    }

    /// Whether the guest has reported its end.
    pub(crate) fn ended(&self) -> bool {
        self.log().out.exit.is_some()
    }

    /// Goes on with the records of `other`.
    pub(crate) fn take_over(&self, other: &Host) {
        let mut old = other.log();
        let mut log = self.log();
        log.out = std::mem::take(&mut old.out);
        (log.got, log.want, log.operands) = (old.got, old.want, old.operands);
        log.ports = std::mem::take(&mut old.ports);
        log.cells = std::mem::take(&mut old.cells);
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, code: u8) {
        let mut log = self.log();
        log.out.exit.get_or_insert(code);
        for kicker in &log.kickers {
            kicker.kick();
        }
    }

    fn service(&self, command: u32) {
        let [a, b, c] = self.log().operands;
        if command == STOP {
            let log = self.log();
            return if log.obey {
                log.kickers.iter().for_each(Kicker::kick)
            };
        }
        if command & LATER == 0 {
            return serve(&self.vm, &self.memory, command, a, b, &mut self.log().vector);
        }
        if command & !LATER == INTR {
            self.log().vector = Some(a as u8);
        }
        let (vm, memory) = (self.vm.clone(), self.memory.clone());
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(u64::from(c)));
            serve(&vm, &memory, command & !LATER, a, b, &mut None);
        });
    }
}

/// Flag of a command: later, from another thread.
const LATER: u32 = 0x80;
const MSI: u32 = 1;
const INTR: u32 = 2;
const NMI: u32 = 3;
const DMA: u32 = 4;
const STOP: u32 = 5;

fn serve(vm: &Arc<dyn Vm>, memory: &GuestMemory, command: u32, a: u32, b: u32, vector: &mut Option<u8>) {
    match command {
        MSI => {
            let sink: Arc<dyn MsiSink> = vm.msi();
            sink.send(u64::from(a), b);
        }
        INTR => {
            vector.get_or_insert(a as u8);
            vm.set_intr(true);
        }
        NMI => vm.nmi(),
        // A DMA outside RAM is dropped, as a bus would.
        DMA => drop(memory.view().write_slice(&b.to_le_bytes(), GuestAddress(u64::from(a)))),
        _ => {}
    }
}

impl CpuIo for Host {
    fn pio_read(&self, port: u16, data: &mut [u8]) {
        let mut log = self.log();
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = log.ports.get(&port.wrapping_add(i as u16)).copied().unwrap_or(0xff);
        }
        log.record(Access::In { port, value: le(data), size: data.len() as u8 });
    }

    fn pio_write(&self, port: u16, data: &[u8]) {
        let value = le(data) as u32;
        let mut log = self.log();
        match port {
            0x80 => log.out.trace.push(value),
            0x90 => log.got = value,
            0x94 => log.want = value,
            0x98 => {
                let check = Check { name: crate::image::check_name(value), got: log.got, want: log.want };
                if log.out.checks.len() < LIMIT {
                    log.out.checks.push(check);
                }
            }
            0xa4 | 0xa8 | 0xac => log.operands[usize::from(port - 0xa4) / 4] = value,
            0xa0 => {
                drop(log);
                self.service(value);
            }
            0xe9 => log.out.text.push(value as u8 as char),
            0xf4 => {
                drop(log);
                self.end(value as u8);
            }
            _ => {
                for (i, &byte) in data.iter().enumerate() {
                    log.ports.insert(port.wrapping_add(i as u16), byte);
                }
                log.record(Access::Out { port, value: u64::from(value), size: data.len() as u8 });
            }
        }
    }

    fn mmio_read(&self, at: Gpa, data: &mut [u8]) {
        let mut log = self.log();
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = log.cells.get(&(at.0.wrapping_add(i as u64))).copied().unwrap_or(0xff);
        }
        log.record(Access::Load { at, value: le(data), size: data.len() as u8 });
    }

    fn mmio_write(&self, at: Gpa, data: &[u8]) {
        let mut log = self.log();
        if log.cells.len() < LIMIT {
            for (i, &byte) in data.iter().enumerate() {
                log.cells.insert(at.0.wrapping_add(i as u64), byte);
            }
        }
        log.record(Access::Store { at, value: le(data), size: data.len() as u8 });
    }

    fn acknowledge_irq(&self) -> Option<u8> {
        let vector = self.log().vector.take();
        self.vm.set_intr(false);
        vector
    }

    fn end_of_interrupt(&self, vector: u8) {
        self.log().record(Access::Eoi { vector });
    }
}

impl Log {
    fn record(&mut self, access: Access) {
        if self.out.accesses.len() < LIMIT {
            self.out.accesses.push(access);
        }
    }
}

fn le(data: &[u8]) -> u64 {
    data.iter().rev().fold(0, |v, &b| v << 8 | u64::from(b))
}
