//! The state of one virtual CPU.

use std::ptr::NonNull;
use std::sync::Arc;

use visor_engine::{CpuIo, VcpuId, VcpuStats};
use visor_fpu::{FpuState, FpuUnit};
use visor_memory::GuestMemory;
use visor_x86::cpuid::Cpuid;
use visor_x86::exception::Exception;
use visor_x86::regs::Rflags;
use visor_x86::segment::{Segment, TableReg};

use crate::account::Account;
use crate::clock::TscClock;
use crate::fabric::{CpuPort, Fabric};
use crate::mmu::{CpuBox, Home, Mmu};
use crate::op::{Faulted, Guest, Op};
use crate::sys::{Debug, MsrFile, ResetKind};
use crate::translate::Frame;

/// Bits of a CPU's attention word: reasons to leave straight-line execution at the next block boundary.
pub mod attention {
    /// A kicker wants `run` to return.
    pub const KICK: u32 = 1 << 0;
    /// The interrupt state changed (local APIC, INTR line, NMI, INIT, SIPI): look at it.
    pub const INTERRUPT: u32 = 1 << 1;
    /// Work from another CPU waits.
    pub const WORK: u32 = 1 << 2;
    /// The alarm of translated code rang: look at the clock.
    pub const TIMER: u32 = 1 << 3;
    /// Other memory is shown at some addresses than before: forget cached translations.
    pub const REMAP: u32 = 1 << 4;
}

/// Execution mode of the code that runs, part of the key of a decoded block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum CodeSize {
    /// 16-bit segments: real mode, virtual-8086 mode, 16-bit protected mode.
    #[default]
    Bits16,
    /// 32-bit segments, compatibility mode included.
    Bits32,
    /// 64-bit mode.
    Bits64,
}

impl CodeSize {
    /// 16, 32 or 64.
    pub fn bits(self) -> u32 {
        match self {
            CodeSize::Bits16 => 16,
            CodeSize::Bits32 => 32,
            CodeSize::Bits64 => 64,
        }
    }
}

/// What of the CPU's mode decides how bytes decode and which checks handlers make: the key of a block beside its address.
/// Recomputed by `Cpu::mode_changed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Mode {
    /// Default operand and address size.
    pub size: CodeSize,
    /// CR0.PE and not virtual-8086.
    pub protected: bool,
    /// Blocks hold one instruction: TF, RF, breakpoints or an interrupt shadow are in force.
    pub single: bool,
}

/// What a CPU is made from.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) id: VcpuId,
    pub(crate) cpuid: Cpuid,
    pub(crate) port: Arc<CpuPort>,
    pub(crate) fabric: Arc<Fabric>,
    pub(crate) ram: Arc<GuestMemory>,
    pub(crate) fpu_unit: Arc<FpuUnit>,
    pub(crate) clock: TscClock,
    pub(crate) epoch_tsc: u64,
}

impl Mode {
    /// All of it in one number, for comparing.
    #[inline(always)]
    pub fn bits(self) -> u32 {
        u32::from_le_bytes([self.size as u8, u8::from(self.protected), u8::from(self.single), 0])
    }
}

/// The state of one virtual CPU. Fields that handlers touch come first.
#[repr(C)]
pub struct Cpu {
    /// RAX to R15, then [`crate::op::REG_ZERO`] and [`crate::op::REG_BLOCK_RIP`].
    pub gpr: [u64; 18],
    /// CF, PF, AF, ZF, SF, OF in their RFLAGS positions and nothing else. The other bits are in `sysflags`.
    pub status: u64,
    /// RFLAGS without the six status flags; bit 1 is set.
    pub sysflags: u64,
    /// Next instruction; exact only between blocks (see [`crate::op::Handler`]).
    pub rip: u64,
    /// Ones where RIP has bits in this mode: FFFFh, FFFFFFFFh or all.
    pub rip_mask: u64,
    /// One past the last op of the running block. A store that changes code sets it to the op after the storing one, so
    /// that the block ends there.
    pub block_end: *const Op,
    /// What execution has not reached yet and the machine wants to know of.
    pub watches: Vec<visor_engine::Watch>,
    /// Bases of ES, CS, SS, DS, FS, GS as seen by this mode, then zero ([`crate::op::SEG_FLAT`]).
    pub seg_base: [u64; 7],
    /// The segment registers.
    pub seg: [Segment; 6],
    /// Current privilege level.
    pub cpl: u8,
    /// How code decodes.
    pub mode: Mode,
    /// Width of the stack pointer: ones where RSP has bits (from SS.B or 64-bit mode).
    pub stack_mask: u64,
    /// The exception that [`crate::op::Flow::Fault`] or [`Faulted`] announces.
    pub fault: Exception,
    /// The fault is a trap: it is reported with the next instruction's address.
    pub fault_is_trap: bool,
    /// x87, MMX, SSE and AVX state.
    pub fpu: Box<FpuState>,
    /// The unit that executes FP and SIMD instructions, shared by all CPUs.
    pub fpu_unit: Arc<FpuUnit>,
    /// Soft TLBs and translation state.
    pub(crate) mmu: Mmu,
    /// What translated code and its stubs use.
    pub(crate) frame: Frame,

    /// Control registers.
    pub cr0: u64,
    /// Page-fault address.
    pub cr2: u64,
    /// Paging-structure base and PCID.
    pub cr3: u64,
    /// Control register 4.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// XCR0.
    pub xcr0: u64,
    /// DR0 to DR3.
    pub dr: [u64; 4],
    /// Debug status.
    pub dr6: u64,
    /// Debug control.
    pub dr7: u64,
    /// GDTR.
    pub gdtr: TableReg,
    /// IDTR.
    pub idtr: TableReg,
    /// LDTR.
    pub ldtr: Segment,
    /// Task register.
    pub tr: Segment,
    /// Model-specific registers without a field of their own.
    pub(crate) msr: MsrFile,
    /// What CPUID answers.
    pub cpuid: Cpuid,
    /// Interrupts are held off until after the next instruction (STI, MOV SS, POP SS).
    pub shadow: bool,
    /// NMIs are held off until IRET.
    pub nmi_blocked: bool,
    /// The local APIC has an interrupt that RFLAGS.IF, or the shadow, holds off.
    pub(crate) irq_waiting: bool,
    /// Breakpoints and single-stepping between instructions.
    pub(crate) debug: Debug,
    /// HLT: waiting for an interrupt.
    pub halted: bool,
    /// Waiting for a start-up IPI.
    pub wait_for_sipi: bool,
    /// `run` has told the machine that this CPU halted with interrupts off; reset when it wakes.
    pub reported_halt: bool,
    /// A triple fault happened.
    pub shutdown: bool,

    /// Which CPU this is.
    pub id: VcpuId,
    /// How other threads reach this CPU: attention, local APIC, pending NMI, INIT and SIPI.
    pub(crate) port: Arc<CpuPort>,
    /// The rate of the TSC.
    pub(crate) clock: TscClock,
    /// Host TSC at which guest time was zero.
    pub epoch_tsc: u64,
    /// Guest TSC = host TSC + this (wrapping).
    pub tsc_offset: u64,
    /// Guest TSC at which the local APIC's timer must be looked at, or `u64::MAX`; compared now and then by the run loop.
    pub timer_tsc: u64,
    /// Guest RAM.
    pub ram: Arc<GuestMemory>,
    /// The machine, while `run` is on the stack.
    pub io: Option<NonNull<dyn CpuIo>>,
    /// The VM's other CPUs and interrupt routing.
    pub(crate) fabric: Arc<Fabric>,
    /// Counters; their times are in TSC ticks, see `account::report`.
    pub stats: VcpuStats,
    /// Where the time goes.
    pub(crate) account: Account,
}

// SAFETY: `io` and `block_end` are only set while `run` is on the stack of the one thread that owns the CPU; the rest is Send.
unsafe impl Send for Cpu {}

impl Cpu {
    /// Records `exception` and returns the marker for `?`.
    #[cold]
    pub fn raise(&mut self, exception: Exception) -> Faulted {
        self.fault = exception;
        self.fault_is_trap = false;
        Faulted
    }

    /// `Err` with `exception`.
    #[cold]
    pub fn fail<T>(&mut self, exception: Exception) -> Guest<T> {
        Err(self.raise(exception))
    }

    /// The whole RFLAGS register.
    #[inline(always)]
    pub fn rflags(&self) -> u64 {
        self.sysflags | self.status
    }

    /// Replaces RFLAGS without any privilege rule; bit 1 reads as one. The caller calls `Cpu::mode_changed` if TF, VM
    /// or AC changed, and re-examines interrupts if IF was set.
    pub fn set_rflags(&mut self, value: u64) {
        let status = Rflags::STATUS.bits();
        self.status = value & status;
        self.sysflags = (value & !status) | 2;
    }

    /// 64-bit mode (not compatibility mode).
    #[inline(always)]
    pub fn is_64(&self) -> bool {
        self.mode.size == CodeSize::Bits64
    }

    /// The machine. Panics outside `run`, where no guest code can execute.
    #[inline]
    pub fn io(&self) -> &dyn CpuIo {
        match self.io {
            // SAFETY: set by `run` from a reference that outlives the call, cleared when it returns.
            Some(io) => unsafe { io.as_ref() },
            None => unreachable!("guest code runs only inside `run`"),
        }
    }
}

impl Cpu {
    /// A CPU after power-up.
    ///
    /// # Errors
    /// The host's, if it gives no memory.
    pub(crate) fn power_up(parts: Parts) -> std::io::Result<CpuBox> {
        let home = Home::new()?;
        let cpu = Cpu {
            gpr: [0; 18],
            status: 0,
            sysflags: 2,
            rip: 0,
            rip_mask: 0xffff,
            block_end: std::ptr::null(),
            watches: Vec::new(),
            seg_base: [0; 7],
            seg: [Segment::default(); 6],
            cpl: 0,
            mode: Mode::default(),
            stack_mask: 0xffff,
            fault: Exception::UD,
            fault_is_trap: false,
            fpu: Box::default(),
            fpu_unit: parts.fpu_unit,
            mmu: Mmu::new(&parts.ram, home.clone()),
            frame: Frame::default(),
            cr0: 0,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
            xcr0: 1,
            dr: [0; 4],
            dr6: 0,
            dr7: 0,
            gdtr: TableReg::default(),
            idtr: TableReg::default(),
            ldtr: Segment::default(),
            tr: Segment::default(),
            msr: MsrFile::default(),
            cpuid: parts.cpuid,
            shadow: false,
            nmi_blocked: false,
            irq_waiting: false,
            debug: Debug::default(),
            halted: false,
            wait_for_sipi: false,
            reported_halt: false,
            shutdown: false,
            id: parts.id,
            port: parts.port,
            clock: parts.clock,
            epoch_tsc: parts.epoch_tsc,
            tsc_offset: parts.epoch_tsc.wrapping_neg(),
            timer_tsc: u64::MAX,
            ram: parts.ram,
            io: None,
            fabric: parts.fabric,
            stats: VcpuStats::default(),
            account: Account::default(),
        };
        let mut cpu = CpuBox::new(home, cpu);
        cpu.reset(ResetKind::Power);
        Ok(cpu)
    }
}
