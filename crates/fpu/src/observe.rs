//! What MXCSR holds after an unmasked SIMD exception: the host is made to raise it (Intel SDM 1 §11.5.3).
//!
//! Which flags accompany the exception depends on intermediate results that an execution with masked exceptions does not
//! show - whether a tiny or huge result was exact before it was cut to the format, or how far DPPS came. So the instruction is
//! executed once more with the guest's own masks. The host's kernel turns its #XM into SIGFPE; the handler notes the MXCSR of
//! the interrupted code and masks all exceptions there, so that the instruction completes when the handler returns.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::sync::OnceLock;

use crate::vector::MXCSR_ALL_MASKED;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Probe {
    /// A SIGFPE of this thread is none of ours.
    Idle,
    Armed,
    /// MXCSR at the exception.
    Seen(u32),
}

thread_local! {
    // A constant without destructor, so that the signal handler can reach it without any initialisation.
    static PROBE: Cell<Probe> = const { Cell::new(Probe::Idle) };
}

/// What handled SIGFPE before; `None` if the handler could not be installed.
static PREVIOUS: OnceLock<Option<libc::sigaction>> = OnceLock::new();

/// Calls `run`, which executes a host instruction that should raise a SIMD exception, and returns MXCSR as the exception
/// left it; `None` if there was none.
pub(crate) fn observe(run: impl FnOnce()) -> Option<u32> {
    PREVIOUS.get_or_init(install).as_ref()?;
    PROBE.set(Probe::Armed);
    run();
    match PROBE.replace(Probe::Idle) {
        Probe::Seen(mxcsr) => Some(mxcsr),
        Probe::Idle | Probe::Armed => None,
    }
}

fn install() -> Option<libc::sigaction> {
    let mut previous = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a zeroed sigaction is valid; the handler has the type that SA_SIGINFO asks for and is async-signal-safe.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        if libc::sigaction(libc::SIGFPE, &raw const action, previous.as_mut_ptr()) != 0 {
            return None;
        }
        Some(previous.assume_init())
    }
}

extern "C" fn handler(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the third argument is the interrupted ucontext.
    if !unsafe { note(context) } {
        pass_on(signal, info, context);
    }
}

/// The signal handler's work; false if the exception is none of ours.
///
/// # Safety
/// `context` is what the kernel passed to a handler of SIGFPE.
pub(crate) unsafe fn note(context: *mut libc::c_void) -> bool {
    if PROBE.get() != Probe::Armed {
        return false;
    }
    // SAFETY: as promised; Linux gives the floating-point state with every signal on x86-64.
    unsafe {
        let context = context.cast::<libc::ucontext_t>();
        if let Some(state) = (*context).uc_mcontext.fpregs.as_mut() {
            PROBE.set(Probe::Seen(state.mxcsr));
            state.mxcsr |= MXCSR_ALL_MASKED;
            return true;
        }
    }
    false
}

/// To whoever handled SIGFPE before; without anybody the default action ends the process when the instruction is repeated.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some(Some(previous)) = PREVIOUS.get() else { return };
    let with_info = previous.sa_flags & libc::SA_SIGINFO != 0;
    match previous.sa_sigaction {
        libc::SIG_IGN | libc::SIG_DFL => {
            // SAFETY: the very action that was in force before; sigaction is async-signal-safe.
            unsafe { libc::sigaction(signal, previous, std::ptr::null_mut()) };
        }
        // SAFETY: not a special value, so it is a handler of the type that the flag says.
        f if with_info => unsafe {
            type Full = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
            std::mem::transmute::<usize, Full>(f)(signal, info, context);
        },
        // SAFETY: as above.
        f => unsafe { std::mem::transmute::<usize, extern "C" fn(libc::c_int)>(f)(signal) },
    }
}
