//! Exception vectors and the exceptions an instruction can raise (SDM 3A §6.15).

/// An exception vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Vector {
    DivideError = 0,
    Debug = 1,
    Nmi = 2,
    Breakpoint = 3,
    Overflow = 4,
    BoundRange = 5,
    InvalidOpcode = 6,
    DeviceNotAvailable = 7,
    DoubleFault = 8,
    InvalidTss = 10,
    SegmentNotPresent = 11,
    StackFault = 12,
    GeneralProtection = 13,
    PageFault = 14,
    MathFault = 16,
    AlignmentCheck = 17,
    MachineCheck = 18,
    SimdFault = 19,
}

impl Vector {
    /// Whether delivery pushes an error code (SDM 3A table 6-1).
    pub fn has_error_code(self) -> bool {
        use Vector::*;
        matches!(
            self,
            DoubleFault | InvalidTss | SegmentNotPresent | StackFault | GeneralProtection | PageFault | AlignmentCheck
        )
    }
}

/// An exception as raised by an instruction, before delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Which.
    pub vector: Vector,
    /// Error code, meaningful where [`Vector::has_error_code`].
    pub error: u32,
    /// Faulting linear address (page faults), or the DR6 bits to set (debug exceptions).
    pub info: u64,
}

impl Exception {
    /// #UD.
    pub const UD: Exception = Exception { vector: Vector::InvalidOpcode, error: 0, info: 0 };
    /// #NM.
    pub const NM: Exception = Exception { vector: Vector::DeviceNotAvailable, error: 0, info: 0 };
    /// #DE.
    pub const DE: Exception = Exception { vector: Vector::DivideError, error: 0, info: 0 };
    /// #GP with the given error code.
    pub const fn gp(error: u32) -> Exception {
        Exception { vector: Vector::GeneralProtection, error, info: 0 }
    }
    /// #SS with the given error code.
    pub const fn ss(error: u32) -> Exception {
        Exception { vector: Vector::StackFault, error, info: 0 }
    }
    /// #NP with the given error code.
    pub const fn np(error: u32) -> Exception {
        Exception { vector: Vector::SegmentNotPresent, error, info: 0 }
    }
    /// #TS with the given error code.
    pub const fn ts(error: u32) -> Exception {
        Exception { vector: Vector::InvalidTss, error, info: 0 }
    }
    /// #PF at linear address `at`.
    pub const fn pf(error: u32, at: u64) -> Exception {
        Exception { vector: Vector::PageFault, error, info: at }
    }
}

/// Bits of a page-fault error code (SDM 3A §4.7).
pub mod pf {
    /// The page was present: a protection violation.
    pub const PRESENT: u32 = 1;
    /// The access was a write.
    pub const WRITE: u32 = 2;
    /// The access was made at ring 3.
    pub const USER: u32 = 4;
    /// A reserved bit was set in a paging-structure entry.
    pub const RESERVED: u32 = 8;
    /// The access was an instruction fetch.
    pub const FETCH: u32 = 16;
    /// A protection key forbids the access.
    pub const KEY: u32 = 32;
}
