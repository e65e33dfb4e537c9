//! CPUID tables as data (SDM 2A, CPUID).

pub mod feature;
mod model;
#[cfg(test)]
mod tests;

pub use feature::{Feature, Register};
pub use model::{Model, ModelConfig};

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

    /// Whether the bit of `feature` is set.
    pub fn has(&self, feature: Feature) -> bool {
        let regs = self.get(feature.leaf, feature.subleaf);
        regs.is_some_and(|r| feature.register.of(&r) >> feature.bit & 1 != 0)
    }

    /// Sets or clears the bit of `feature` in its leaf, if the table has the leaf.
    pub fn set(&mut self, feature: Feature, on: bool) {
        let matches = |e: &&mut Entry| e.leaf == feature.leaf && e.subleaf.is_none_or(|s| s == feature.subleaf);
        if let Some(entry) = self.entries.iter_mut().find(matches) {
            let register = feature.register.of_mut(&mut entry.regs);
            *register = (*register & !(1 << feature.bit)) | (u32::from(on) << feature.bit);
        }
    }

    /// Clears the feature bits that `host` does not have, and the leaves of extended state with them.
    pub fn restrict_to(&mut self, host: &Cpuid) {
        for feature in feature::ALL {
            if !host.has(*feature) {
                self.set(*feature, false);
            }
        }
        self.drop_dependents();
    }

    /// Clears what makes no sense without a feature that is absent: extended state without XSAVE, AVX2 without AVX.
    fn drop_dependents(&mut self) {
        use feature::{AVX, AVX2, F16C, FMA, PKU, VAES, VPCLMULQDQ, XSAVE};
        if !self.has(XSAVE) {
            self.set(AVX, false);
            self.entries.retain(|e| e.leaf != 0xd);
        }
        // The place of PKRU in the XSAVE area is that behind AVX.
        if !self.has(AVX) {
            self.set(PKU, false);
        }
        if !self.has(PKU) {
            self.entries.retain(|e| (e.leaf, e.subleaf) != (0xd, Some(9)));
            for e in
                self.entries.iter_mut().filter(|e| e.leaf == 0xd && e.regs.eax & 1 << 9 != 0 && e.subleaf == Some(0))
            {
                e.regs.eax &= !(1 << 9);
                (e.regs.ebx, e.regs.ecx) = (e.regs.ebx.min(832), e.regs.ecx.min(832));
            }
        }
        if self.has(AVX) {
            return;
        }
        for dependent in [AVX2, FMA, F16C, VAES, VPCLMULQDQ] {
            self.set(dependent, false);
        }
        self.entries.retain(|e| (e.leaf, e.subleaf) != (0xd, Some(2)));
        for e in self.entries.iter_mut().filter(|e| e.leaf == 0xd) {
            match e.subleaf {
                Some(0) => e.regs = Regs { eax: 3, ebx: 576, ecx: 576, edx: 0 },
                _ => e.regs.ebx = 576,
            }
        }
    }
}
