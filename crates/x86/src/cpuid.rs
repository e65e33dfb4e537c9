//! CPUID tables as data (SDM 2A, CPUID).

/// The four registers that one leaf returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct Regs {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// One leaf, or one subleaf of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// EAX on input.
    pub leaf: u32,
    /// ECX on input, where the leaf has subleaves.
    pub subleaf: Option<u32>,
    /// What it returns.
    pub regs: Regs,
}

/// A CPUID table: what one virtual CPU announces.
///
/// Bits that follow control registers (OSXSAVE, the APIC id of the CPU that asks) are filled in by the engine.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Cpuid {
    /// The leaves, in any order.
    pub entries: Vec<Entry>,
}

impl Cpuid {
    /// The entry that answers `leaf` and `subleaf`, if the table has one.
    pub fn get(&self, leaf: u32, subleaf: u32) -> Option<Regs> {
        self.entries.iter().find(|e| e.leaf == leaf && e.subleaf.is_none_or(|s| s == subleaf)).map(|e| e.regs)
    }
}
