//! The engine-neutral state of one CPU: what a debugger shows and a snapshot keeps.

use crate::segment::{Segment, TableReg};

/// Architectural state of one CPU between two instructions.
///
/// Both engines save to and restore from this; nothing in it depends on which one ran. Local APIC state is separate.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct CpuState {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    /// ES, CS, SS, DS, FS, GS.
    pub seg: [Segment; 6],
    pub ldtr: Segment,
    pub tr: Segment,
    pub gdtr: TableReg,
    pub idtr: TableReg,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub cr8: u64,
    pub efer: u64,
    pub xcr0: u64,
    /// Rights of the protection keys of user pages.
    pub pkru: u32,
    /// DR0 to DR3, DR6, DR7.
    pub dr: [u64; 6],
    /// The standard-format XSAVE area (SDM 1 §13.4): 512 bytes legacy, 64 bytes header, 256 bytes YMM_Hi128.
    pub xsave: Box<[u8; 832]>,
    /// Model-specific registers by number; those absent keep their reset value on restore.
    pub msrs: Vec<(u32, u64)>,
    /// Halted by HLT, waiting for an interrupt.
    pub halted: bool,
    /// Waiting for a start-up IPI.
    pub wait_for_sipi: bool,
    /// Interrupts are blocked for one instruction after STI or MOV SS.
    pub interrupt_shadow: bool,
    /// NMIs are blocked until IRET.
    pub nmi_blocked: bool,
}

impl Default for CpuState {
    /// The state after power-up (SDM 3A table 10-1): real mode, at F000:FFF0 with CS base FFFF0000h.
    fn default() -> Self {
        let mut seg = [Segment::real_mode(0); 6];
        seg[1] = Segment { selector: 0xf000, base: 0xffff_0000, limit: 0xffff, attr: crate::segment::SegAttr(0x9b) };
        let mut xsave = Box::new([0u8; 832]);
        xsave[0..2].copy_from_slice(&0x037fu16.to_le_bytes());
        xsave[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
        CpuState {
            gpr: [0; 16],
            rip: 0xfff0,
            rflags: 2,
            seg,
            ldtr: Segment { limit: 0xffff, attr: crate::segment::SegAttr(0x82), ..Segment::default() },
            tr: Segment { limit: 0xffff, attr: crate::segment::SegAttr(0x8b), ..Segment::default() },
            gdtr: TableReg { base: 0, limit: 0xffff },
            idtr: TableReg { base: 0, limit: 0xffff },
            cr0: 0x6000_0010,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            cr8: 0,
            efer: 0,
            xcr0: 1,
            pkru: 0,
            dr: [0, 0, 0, 0, 0xffff_0ff0, 0x400],
            xsave,
            msrs: Vec::new(),
            halted: false,
            wait_for_sipi: false,
            interrupt_shadow: false,
            nmi_blocked: false,
        }
    }
}
