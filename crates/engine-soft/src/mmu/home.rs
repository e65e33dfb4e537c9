//! The memory in which one CPU lives: its state, the TLB tables of the kernel, and those of several user address spaces.
//!
//! Generated code reaches everything through the GS base, at fixed offsets. So each address space has a *window* onto that
//! memory, in which the state and the kernel's tables are the same pages everywhere and the user tables its own: a switch
//! of address spaces is a new GS base, and nothing is copied or flushed.
//!
//! ```text
//! file:      | CPU | kernel tables | user 0 | user 1 | ... |
//! window 1:  | CPU | kernel tables | user 1 |
//! ```

use std::mem::offset_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use crate::cpu::Cpu;
use crate::mmu::tables::Tables;
use crate::translate::Targets;

/// Address spaces kept at a time; Linux rotates through six PCIDs.
pub(crate) const SPACES: usize = 8;
/// Bytes for the CPU's state.
const CPU_BYTES: usize = 8192;
/// Most indirect branch targets kept of the kernel, and of each user address space.
const KERNEL_TARGETS: usize = 65536;
const USER_TARGETS: usize = 8192;

const _: () = assert!(size_of::<Cpu>() <= CPU_BYTES);

/// Tables of supervisor accesses without RFLAGS.AC: one set for all address spaces.
#[repr(C, align(4096))]
pub(crate) struct KernelTables {
    pub(crate) tables: Tables,
    pub(crate) targets: Targets<KERNEL_TARGETS>,
    /// Which kind of code they lead to; 0 is 64-bit code.
    pub(crate) layout: u32,
}

/// Tables that each address space has of its own.
#[repr(C, align(4096))]
pub(crate) struct UserTables {
    /// Ring 3.
    pub(crate) user: Tables,
    /// Supervisor with RFLAGS.AC, which lifts SMAP.
    pub(crate) ac: Tables,
    pub(crate) targets: Targets<USER_TARGETS>,
    /// Which kind of code they lead to; 0 is 64-bit code.
    pub(crate) layout: u32,
}

/// Offsets from the GS base.
pub(crate) const KERNEL_AT: usize = CPU_BYTES;
/// See [`KERNEL_AT`].
pub(crate) const USER_AT: usize = KERNEL_AT + size_of::<KernelTables>();
/// Offsets of a table of branch targets from the GS base.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TargetsAt {
    pub(crate) neg_lin: i32,
    pub(crate) code: i32,
}

/// Of the kernel.
pub(crate) const KERNEL_TARGETS_AT: TargetsAt =
    targets_at::<KERNEL_TARGETS>(KERNEL_AT + offset_of!(KernelTables, targets));
/// Of user code.
pub(crate) const USER_TARGETS_AT: TargetsAt = targets_at::<USER_TARGETS>(USER_AT + offset_of!(UserTables, targets));
/// Offsets from the GS base of what says which kind of code the targets are.
pub(crate) const KERNEL_LAYOUT_AT: i32 = (KERNEL_AT + offset_of!(KernelTables, layout)) as i32;
/// Likewise.
pub(crate) const USER_LAYOUT_AT: i32 = (USER_AT + offset_of!(UserTables, layout)) as i32;
/// Bits of a linear address that select an entry there.
pub(crate) const KERNEL_TARGETS_MASK: u64 = Targets::<KERNEL_TARGETS>::MASK;
/// Likewise.
pub(crate) const USER_TARGETS_MASK: u64 = Targets::<USER_TARGETS>::MASK;

const fn targets_at<const N: usize>(at: usize) -> TargetsAt {
    TargetsAt {
        neg_lin: (at + offset_of!(Targets<N>, neg_lin)) as i32,
        code: (at + offset_of!(Targets<N>, code)) as i32,
    }
}

const WINDOW: usize = USER_AT + size_of::<UserTables>();
const LEN: usize = USER_AT + SPACES * size_of::<UserTables>() + ALIGNED;
/// Tables that stay empty, for ring 3 under alignment checks.
const ALIGNED: usize = size_of::<Tables>().next_multiple_of(4096);

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Home {
    base: *mut u8,
    windows: [*mut u8; SPACES],
}

// SAFETY: plain memory; who may touch what when is the business of the CPU that lives in it.
unsafe impl Send for Home {}
// SAFETY: as above; no method gives a reference.
unsafe impl Sync for Home {}

impl Home {
    /// Maps a home with empty tables.
    ///
    /// # Errors
    /// The host's, if it gives no memory.
    pub(crate) fn new() -> std::io::Result<Arc<Self>> {
        let file = memory_file(LEN)?;
        let mut home =
            Home { base: map(&file, std::ptr::null_mut(), 0, LEN)?, windows: [std::ptr::null_mut(); SPACES] };
        for i in 0..SPACES {
            let at = reserve(WINDOW)?;
            home.windows[i] = at;
            map(&file, at, 0, USER_AT)?;
            // SAFETY: within the reservation.
            map(&file, unsafe { at.add(USER_AT) }, user_at(i), size_of::<UserTables>())?;
        }
        // SAFETY: fresh memory of the right size and alignment, all zeroes, and nobody else knows it.
        unsafe {
            (*home.kernel()).tables.init();
            (*home.kernel()).targets.clear();
            (*home.aligned()).init();
            for i in 0..SPACES {
                (*home.user(i)).user.init();
                (*home.user(i)).ac.init();
                (*home.user(i)).targets.clear();
            }
        }
        Ok(Arc::new(home))
    }

    /// The tables of the kernel.
    pub(crate) fn kernel(&self) -> *mut KernelTables {
        self.at(KERNEL_AT)
    }

    /// The tables of address space `i`.
    pub(crate) fn user(&self, i: usize) -> *mut UserTables {
        self.at(user_at(i))
    }

    /// The tables that stay empty.
    pub(crate) fn aligned(&self) -> *mut Tables {
        self.at(LEN - ALIGNED)
    }

    /// The GS base under which generated code sees address space `i`.
    pub(crate) fn window(&self, i: usize) -> u64 {
        self.windows[i] as u64
    }

    fn at<T>(&self, offset: usize) -> *mut T {
        // SAFETY: callers name parts of the mapping.
        unsafe { self.base.add(offset).cast() }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // SAFETY: our own mappings, or null where `new` failed half-way.
        unsafe {
            libc::munmap(self.base.cast(), LEN);
            for window in self.windows.iter().filter(|w| !w.is_null()) {
                libc::munmap(window.cast(), WINDOW);
            }
        }
    }
}

const fn user_at(i: usize) -> usize {
    USER_AT + i * size_of::<UserTables>()
}

/// A CPU in its home.
pub(crate) struct CpuBox {
    cpu: *mut Cpu,
    _home: Arc<Home>,
}

// SAFETY: the CPU is Send, and this owns it.
unsafe impl Send for CpuBox {}

impl CpuBox {
    /// Moves `cpu` into `home`, which must be the one of its MMU and empty.
    pub(crate) fn new(home: Arc<Home>, cpu: Cpu) -> Self {
        let at: *mut Cpu = home.at(0);
        // SAFETY: large enough (asserted above), aligned to a page, and nothing lives there yet.
        unsafe { at.write(cpu) };
        CpuBox { cpu: at, _home: home }
    }
}

impl std::ops::Deref for CpuBox {
    type Target = Cpu;

    fn deref(&self) -> &Cpu {
        // SAFETY: written by `new`, dropped by `drop` only.
        unsafe { &*self.cpu }
    }
}

impl std::ops::DerefMut for CpuBox {
    fn deref_mut(&mut self) -> &mut Cpu {
        // SAFETY: as above.
        unsafe { &mut *self.cpu }
    }
}

impl Drop for CpuBox {
    fn drop(&mut self) {
        // SAFETY: as above; the home outlives this.
        unsafe { std::ptr::drop_in_place(self.cpu) };
    }
}

fn memory_file(len: usize) -> std::io::Result<OwnedFd> {
    // SAFETY: a plain system call with a C string.
    let fd = unsafe { libc::memfd_create(c"visor-cpu".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: a plain system call on our own descriptor.
    if unsafe { libc::ftruncate(fd.as_raw_fd(), len as i64) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(fd)
}

/// Maps part of `file` at `at`, or anywhere if that is null.
fn map(file: &OwnedFd, at: *mut u8, offset: usize, len: usize) -> std::io::Result<*mut u8> {
    let fixed = if at.is_null() { 0 } else { libc::MAP_FIXED };
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | fixed;
    // SAFETY: a new mapping, or one over a reservation of ours.
    let got = unsafe { libc::mmap(at.cast(), len, protection, flags, file.as_raw_fd(), offset as i64) };
    if got == libc::MAP_FAILED { Err(std::io::Error::last_os_error()) } else { Ok(got.cast()) }
}

fn reserve(len: usize) -> std::io::Result<*mut u8> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let got = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
    if got == libc::MAP_FAILED { Err(std::io::Error::last_os_error()) } else { Ok(got.cast()) }
}
