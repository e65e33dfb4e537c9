//! The IOMMU: registers, invalidation queue, tables, and what goes through them.

use visor_iommu::{IOMMU_BASE, IOMMU_LEN, Iommu};
use visor_pci::SourceId;
use vm_memory::{Bytes, GuestAddress};

use crate::pc::Pc;
use crate::{Input, Script};

pub(super) fn run(data: &[u8]) {
    let mut pc = Pc::new();
    let iommu = Iommu::new(pc.memory.clone(), pc.interrupts.clone());
    let registers = pc.device(iommu.registers());
    pc.at_memory(IOMMU_BASE, IOMMU_LEN, registers);
    let (msi, ioapic) = (iommu.msi(SourceId(0x18)), iommu.ioapic());
    pc.drive(&mut Input::new(data), |_, op, input| {
        let memory = iommu.memory(SourceId(u16::from(input.u8())));
        let at = GuestAddress(input.u64());
        match op {
            0 | 1 => _ = memory.write_slice(&[7; 300][..usize::from(input.u8())], at),
            2 | 3 => _ = memory.read_slice(&mut [0; 300][..usize::from(input.u8())], at),
            4 => msi.send(at.0, input.u32()),
            _ => ioapic.send(at.0, input.u32()),
        }
    });
}

/// Root, context and two levels of second-level tables that lead to 64 KiB of RAM for device 3.
fn tables() -> Script {
    let q = |v: &[u64]| v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let pages: Vec<u64> = (0..16).map(|n| 0x8_0003 + 0x1000 * n).collect();
    Script::new()
        .memory(0x1000, &q(&[0x2001, 0]))
        .memory(0x2000 + 0x18 * 16, &q(&[0x3001, 0x0101]))
        .memory(0x3000, &q(&[0x4003, 0x20_0083]))
        .memory(0x4000, &q(&[0x5003, 0x0000_0083]))
        .memory(0x5000, &q(&pages))
        .memory(0x6000, &q(&[0x0000_0000_0031_0001, 0x0004_0018]))
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let root = tables().store(0, 0x20, 8, 0x1000).store(0, 0x18, 4, 1 << 30).store(0, 0x18, 4, 1 << 31);
    let flushed = root.store(0, 0x28, 8, 1 << 63 | 1 << 61).store(0, 0x208, 8, 1 << 63 | 1 << 60);
    let access = |s: Script, op: u8, at: u64| s.extra(op).raw(&[0x18]).raw(&at.to_le_bytes()).raw(&[200]);
    let both = access(access(access(flushed.clone(), 0, 0x1ff0), 2, 0x20_0000), 0, u64::MAX - 10);
    let remap = tables().store(0, 0xb8, 8, 0x6000).store(0, 0x18, 4, 1 << 24).store(0, 0x18, 4, 1 << 25);
    let msi = |s: Script, op: u8, at: u64| s.extra(op).raw(&[0]).raw(&at.to_le_bytes()).raw(&[0; 4]);
    let ring: Vec<u8> =
        [[1u64 | 1 << 4, 0], [2 | 3 << 4, 0x1000], [4 | 1 << 4, 0], [5 | 3 << 4 | 7 << 32, 0x7000], [9, 0]]
            .concat()
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
    let queue = flushed.memory(0x1_0000, &ring).store(0, 0x90, 8, 0x1_0000).store(0, 0x18, 4, 1 << 26 | 1 << 31);
    vec![
        both.load(0, 0x34, 4).load(0, 0x220, 8).store(0, 0x34, 4, 0xff).store(0, 0x38, 4, 0).end(),
        msi(msi(remap, 4, 0xfee0_0010), 5, 0xfee0_0018).load(0, 0x228, 8).end(),
        access(queue.store(0, 0x88, 4, 0x40).load(0, 0x80, 4).store(0, 0x88, 4, 0x50), 0, 0x40_0000)
            .load(0, 0x34, 4)
            .end(),
    ]
}
