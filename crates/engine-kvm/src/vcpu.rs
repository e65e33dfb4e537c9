//! One vCPU: KVM_RUN, and its exits turned into calls of the machine.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use kvm_bindings::{kvm_interrupt, kvm_mp_state};
use kvm_ioctls::{VcpuExit, VcpuFd};
use visor_engine::{
    CpuIo, EngineError, EngineErrorKind, Gpa, GuestMemory, Kicker, Stop, Timed, Vcpu, VcpuId, VcpuStats, Watch,
};
use visor_x86::state::CpuState;

use crate::kick::Kick;
use crate::watch::Watches;
use crate::{failed, state};

/// `_IOW(KVMIO, 0x86, struct kvm_interrupt)`, which the library does not wrap.
const KVM_INTERRUPT: libc::c_ulong = 0x4004_ae86;

/// One virtual CPU on KVM.
pub(crate) struct KvmVcpu {
    fd: VcpuFd,
    id: VcpuId,
    kick: Arc<Kick>,
    stats: VcpuStats,
    watches: Watches,
    /// Keeps the memory slots' host mapping alive.
    _memory: Arc<GuestMemory>,
}

impl KvmVcpu {
    /// Wraps a fresh vCPU.
    pub(crate) fn new(mut fd: VcpuFd, id: VcpuId, memory: Arc<GuestMemory>) -> Self {
        let immediate_exit = &raw mut fd.get_kvm_run().immediate_exit;
        // SAFETY: the page is mapped while `fd` lives, and `kick` is used between enter and leave by `run` on it.
        let kick = Arc::new(unsafe { Kick::new(immediate_exit) });
        KvmVcpu { fd, id, kick, stats: VcpuStats::default(), watches: Watches::default(), _memory: memory }
    }

    /// How other threads reach it.
    pub(crate) fn kick(&self) -> Arc<Kick> {
        self.kick.clone()
    }

    fn run_entered(&mut self, io: &dyn CpuIo) -> Result<Stop, EngineError> {
        loop {
            self.kick.rearm();
            if self.kick.stop.swap(false, Ordering::SeqCst) {
                self.finish_pending()?;
                return Ok(Stop::Kicked);
            }
            self.inject(io)?;
            self.watches.sample(&self.fd, io)?;
            if let Some(stop) = self.enter(io)? {
                return Ok(stop);
            }
        }
    }

    /// One KVM_RUN.
    fn enter(&mut self, io: &dyn CpuIo) -> Result<Option<Stop>, EngineError> {
        // SAFETY: the union member is valid if the exit is one of port I/O, which is where it is used.
        let io_size = |run: &kvm_bindings::kvm_run| usize::from(unsafe { run.__bindgen_anon_1.io }.size.max(1));
        match self.fd.run() {
            Ok(VcpuExit::IoOut(port, data)) => {
                let (at, len) = (data.as_ptr(), data.len());
                let size = io_size(self.fd.get_kvm_run());
                // SAFETY: the data lies in the kvm_run mapping, which stays until the next KVM_RUN.
                let data = unsafe { std::slice::from_raw_parts(at, len) };
                for value in data.chunks(size) {
                    timed(&mut self.stats.exits.pio, || io.pio_write(port, value));
                }
            }
            Ok(VcpuExit::IoIn(port, data)) => {
                let (at, len) = (data.as_mut_ptr(), data.len());
                let size = io_size(self.fd.get_kvm_run());
                // SAFETY: as above; nothing else refers to it.
                let data = unsafe { std::slice::from_raw_parts_mut(at, len) };
                for value in data.chunks_mut(size) {
                    timed(&mut self.stats.exits.pio, || io.pio_read(port, value));
                }
            }
            Ok(VcpuExit::MmioRead(at, data)) => {
                timed(&mut self.stats.exits.mmio, || io.mmio_read(Gpa(at), data));
            }
            Ok(VcpuExit::MmioWrite(at, data)) => {
                timed(&mut self.stats.exits.mmio, || io.mmio_write(Gpa(at), data));
            }
            Ok(VcpuExit::IoapicEoi(vector)) => io.end_of_interrupt(vector),
            Ok(VcpuExit::Debug(_)) => self.watches.hit(&self.fd, io)?,
            Ok(VcpuExit::IrqWindowOpen | VcpuExit::Intr) => {}
            Ok(VcpuExit::Hlt) => return Ok(Some(Stop::Halted)),
            Ok(VcpuExit::Shutdown) => return Ok(Some(Stop::TripleFault)),
            Ok(VcpuExit::SystemEvent(..)) => return Ok(Some(Stop::TripleFault)),
            Ok(VcpuExit::FailEntry(reason, _)) => {
                let what =
                    format!("KVM: the host's processor refuses the state of CPU {} (reason {reason:#x})", self.id.0);
                return Err(EngineError::new(EngineErrorKind::Host, what));
            }
            Ok(VcpuExit::InternalError) => {
                let what = format!("KVM: its instruction emulator gave up on CPU {} (InternalError)", self.id.0);
                return Err(EngineError::new(EngineErrorKind::Host, what));
            }
            Ok(other) => {
                let what = format!("KVM: CPU {} stopped for a reason visor does not know: {other:?}", self.id.0);
                return Err(EngineError::new(EngineErrorKind::Host, what));
            }
            Err(e) if e.errno() == libc::EINTR || e.errno() == libc::EAGAIN => {}
            Err(e) => return Err(failed("KVM_RUN")(e)),
        }
        Ok(None)
    }

    /// Completes an access whose value was given but not yet taken over, so that the registers are exact.
    fn finish_pending(&mut self) -> Result<(), EngineError> {
        self.fd.set_kvm_immediate_exit(1);
        let end = self.fd.run().map(|_| ());
        self.fd.set_kvm_immediate_exit(0);
        match end {
            Ok(()) => Ok(()),
            Err(e) if e.errno() == libc::EINTR => Ok(()),
            Err(e) => Err(failed("KVM_RUN")(e)),
        }
    }

    /// Gives the CPU a waiting NMI, or the 8259's interrupt if it can take one now; otherwise asks to be told when it can.
    fn inject(&mut self, io: &dyn CpuIo) -> Result<(), EngineError> {
        if self.kick.nmi.swap(false, Ordering::SeqCst) {
            self.fd.nmi().map_err(failed("KVM_NMI"))?;
        }
        let wanted = self.kick.intr.load(Ordering::SeqCst);
        let run = self.fd.get_kvm_run();
        let ready = run.ready_for_interrupt_injection != 0 && run.if_flag != 0;
        run.request_interrupt_window = u8::from(wanted && !ready);
        if !wanted || !ready {
            return Ok(());
        }
        if let Some(vector) = io.acknowledge_irq() {
            self.stats.exits.interrupt.count += 1;
            let interrupt = kvm_interrupt { irq: u32::from(vector) };
            let fd = std::os::fd::AsRawFd::as_raw_fd(&self.fd);
            // SAFETY: the call reads one kvm_interrupt.
            if unsafe { libc::ioctl(fd, KVM_INTERRUPT as _, &raw const interrupt) } != 0 {
                return Err(EngineError::host("KVM: KVM_INTERRUPT failed", std::io::Error::last_os_error()));
            }
        }
        Ok(())
    }
}

impl Vcpu for KvmVcpu {
    fn run(&mut self, io: &dyn CpuIo) -> Result<Stop, EngineError> {
        let begin = Instant::now();
        self.kick.enter();
        let stop = self.run_entered(io);
        self.kick.leave();
        self.stats.time.guest += begin.elapsed().as_nanos() as u64;
        stop
    }

    fn kicker(&self) -> Kicker {
        let kick = self.kick.clone();
        Kicker::new(move || {
            kick.stop.store(true, Ordering::SeqCst);
            kick.interrupt();
        })
    }

    fn save(&mut self) -> Result<CpuState, EngineError> {
        state::save(&self.fd)
    }

    fn restore(&mut self, state: &CpuState) -> Result<(), EngineError> {
        state::restore(&self.fd, state)
    }

    fn reset(&mut self) -> Result<(), EngineError> {
        let boot = self.id == VcpuId(0);
        let state = CpuState { wait_for_sipi: !boot, ..CpuState::default() };
        state::restore(&self.fd, &state)?;
        // KVM_MP_STATE_RUNNABLE is 0, UNINITIALIZED (waiting for INIT and SIPI) is 1.
        self.fd.set_mp_state(kvm_mp_state { mp_state: u32::from(!boot) }).map_err(failed("KVM_SET_MP_STATE"))
    }

    fn watch(&mut self, watches: &[Watch]) -> Result<(), EngineError> {
        self.watches.set(&self.fd, watches)
    }

    fn stats(&self) -> VcpuStats {
        let mut stats = self.stats.clone();
        stats.time.devices = stats.exits.pio.nanos.saturating_add(stats.exits.mmio.nanos);
        // What the host's kernel does for the guest, sleep included, cannot be told from guest code.
        stats.time.guest = stats.time.guest.saturating_sub(stats.time.devices);
        stats
    }
}

/// Counts what `access` takes.
fn timed(exit: &mut Timed, access: impl FnOnce()) {
    let begin = Instant::now();
    access();
    exit.add(begin.elapsed().as_nanos() as u64);
}
