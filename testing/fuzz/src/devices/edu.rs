//! The teaching device: DMA both ways, behind an IOMMU that translates or not.

use visor_iommu::{IOMMU_BASE, IOMMU_LEN, Iommu};
use visor_pci::edu::Edu;
use visor_pci::{PciAddress, SourceId};

use crate::pc::Pc;
use crate::{Input, Script};

pub(super) fn run(data: &[u8]) {
    let mut pc = Pc::with_pci();
    let iommu = Iommu::new(pc.memory.clone(), pc.interrupts.clone());
    let registers = pc.device(iommu.registers());
    pc.at_memory(IOMMU_BASE, IOMMU_LEN, registers);
    let at = PciAddress::device(3);
    let edu = Edu::new(iommu.memory(SourceId::from(at)), iommu.msi(SourceId::from(at)), pc.intx(3));
    pc.function(at, edu.expect("there is room"));
    pc.drive(&mut Input::new(data), |_, _, _| ());
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let dma = |from: u64, to: u64, len: u64, command: u64| {
        let s = Script::new().store(1, 0x80, 8, from).store(1, 0x88, 8, to).store(1, 0x90, 8, len);
        s.store(1, 0x98, 8, command).load(1, 0x98, 8).store(1, 0x08, 4, 12).load(1, 8, 4).store(1, 0x60, 4, 1)
    };
    vec![dma(0x1000, 0x4_0000, 64, 1).end(), dma(0x4_0000, 0x1f_ffff, 4096, 7).end()]
}
