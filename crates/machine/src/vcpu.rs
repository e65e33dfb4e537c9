//! The thread of one vCPU.

use std::sync::{Arc, Mutex, PoisonError};

use visor_engine::{EngineError, Stop, Vcpu, VcpuStats, Watch};
use visor_x86::{CpuState, Rflags, Seg};

use crate::bus_io::BusIo;
use crate::life::{Control, Gate, StopReason};

/// What a vCPU thread works with.
pub(crate) struct VcpuThread {
    pub(crate) id: usize,
    pub(crate) vcpu: Box<dyn Vcpu>,
    pub(crate) io: Arc<BusIo>,
    pub(crate) control: Arc<Control>,
    /// Where the counters are left for others to read.
    pub(crate) stats: Arc<Mutex<VcpuStats>>,
    /// What to look for after each start.
    pub(crate) watches: Vec<Watch>,
}

/// Runs a vCPU until the machine stops.
pub(crate) fn main(mut t: VcpuThread) {
    loop {
        let done = match t.control.gate(t.id) {
            Gate::Exit => break,
            Gate::Run => run(&mut t),
            Gate::Start(state) => start(&mut t, &state),
            Gate::Reset => t.vcpu.reset().inspect(|()| t.control.was_reset(t.id)),
            Gate::Census => t.vcpu.save().map(|state| t.control.report(t.id, cannot_wake(&state))),
        };
        *t.stats.lock().unwrap_or_else(PoisonError::into_inner) = t.vcpu.stats();
        if let Err(e) = done {
            t.control.stop(StopReason::Failed(format!("vCPU {}: {e}", t.id)));
        }
    }
}

fn start(t: &mut VcpuThread, state: &CpuState) -> Result<(), EngineError> {
    t.vcpu.restore(state)?;
    t.io.timeline.begin(state.seg[Seg::Cs as usize].base.wrapping_add(state.rip));
    if t.watches.is_empty() { Ok(()) } else { t.vcpu.watch(&t.watches) }
}

fn run(t: &mut VcpuThread) -> Result<(), EngineError> {
    match t.vcpu.run(&*t.io)? {
        Stop::Kicked => {}
        Stop::Halted => t.control.census(),
        Stop::TripleFault => t.control.reset(StopReason::TripleFault),
    }
    Ok(())
}

/// Whether only another CPU, an NMI or a reset can make this CPU run again.
fn cannot_wake(state: &CpuState) -> bool {
    state.wait_for_sipi || state.halted && state.rflags & Rflags::IF.bits() == 0
}
