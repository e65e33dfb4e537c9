//! Telling the machine where execution has got to: single addresses through hardware breakpoints, the rest by looking where the CPU
//! is at its exits.

use kvm_bindings::{KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_USE_HW_BP, kvm_guest_debug};
use kvm_ioctls::VcpuFd;
use visor_engine::{CpuIo, EngineError, Watch};

use crate::failed;

/// Breakpoints of a processor.
const BREAKPOINTS: usize = 4;

/// Exits at which we look where the CPU is, each for two calls: a boot has that many. What has not been seen by then is given up,
/// so that watching costs a machine that runs for days nothing.
const LOOKS: u32 = 50_000;

/// What has not been reached yet.
#[derive(Default)]
pub(crate) struct Watches {
    exact: Vec<Watch>,
    sampled: Vec<Watch>,
    looks: u32,
}

impl Watches {
    pub(crate) fn set(&mut self, fd: &VcpuFd, watches: &[Watch]) -> Result<(), EngineError> {
        let had = !self.exact.is_empty();
        (self.exact, self.sampled) =
            watches.iter().partition(|w| matches!(w, Watch::Code(first, last) if first == last));
        self.exact.truncate(BREAKPOINTS);
        self.looks = LOOKS;
        if had || !self.exact.is_empty() { self.arm(fd) } else { Ok(()) }
    }

    /// The CPU has stopped at a breakpoint.
    pub(crate) fn hit(&mut self, fd: &VcpuFd, io: &dyn CpuIo) -> Result<(), EngineError> {
        let at = place(fd)?;
        report(&mut self.exact, at, io);
        self.arm(fd)
    }

    /// The CPU has left the guest for whatever reason.
    pub(crate) fn sample(&mut self, fd: &VcpuFd, io: &dyn CpuIo) -> Result<(), EngineError> {
        if !self.sampled.is_empty() {
            let at = place(fd)?;
            report(&mut self.sampled, at, io);
            self.looks = self.looks.saturating_sub(1);
            if self.looks == 0 {
                self.sampled.clear();
            }
        }
        Ok(())
    }

    fn arm(&self, fd: &VcpuFd) -> Result<(), EngineError> {
        let mut debug = kvm_guest_debug::default();
        if !self.exact.is_empty() {
            debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
        }
        for (i, watch) in self.exact.iter().enumerate() {
            if let (Watch::Code(at, _), Some(register)) = (watch, debug.arch.debugreg.get_mut(i)) {
                *register = *at;
                // Enabled, on execution (SDM 3B §18.2.4); bit 10 is always set.
                debug.arch.debugreg[7] |= 2 << (2 * i) | 0x400;
            }
        }
        fd.set_guest_debug(&debug).map_err(failed("KVM_SET_GUEST_DEBUG"))
    }
}

/// The linear address and the privilege level of the next instruction.
fn place(fd: &VcpuFd) -> Result<(u64, u8), EngineError> {
    let regs = fd.get_regs().map_err(failed("KVM_GET_REGS"))?;
    let sregs = fd.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
    Ok((sregs.cs.base.wrapping_add(regs.rip), sregs.ss.dpl))
}

fn report(watches: &mut Vec<Watch>, (at, cpl): (u64, u8), io: &dyn CpuIo) {
    let (reached, left): (Vec<_>, Vec<_>) = watches.iter().partition(|w| w.is_at(at, cpl));
    *watches = left;
    reached.into_iter().for_each(|w| io.reached(w, at));
}
