//! One KVM virtual machine: memory slots, vCPUs, and interrupts into the kernel's local APICs.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use kvm_bindings::{
    CpuId, KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_cpuid_entry2, kvm_enable_cap, kvm_irq_routing_entry, kvm_msi,
    kvm_userspace_memory_region,
};
use kvm_bindings::{KVM_CAP_SPLIT_IRQCHIP, KVM_MEM_LOG_DIRTY_PAGES, KVM_CPUID_FLAG_SIGNIFCANT_INDEX};
use kvm_ioctls::{Kvm, VmFd};
use visor_engine::{DeviceMemory, EngineError, EngineErrorKind, Gpa, GuestMemory, MsiSink, Vcpu, VcpuId, Vm};
use visor_memory::Frame;
use visor_x86::cpuid::Cpuid;

use crate::failed;
use crate::kick::Kick;
use crate::vcpu::KvmVcpu;

/// Inputs of the I/O APIC for which the kernel reserves interrupt routes.
const IOAPIC_ROUTES: usize = 24;

/// One virtual machine on KVM.
pub(crate) struct KvmVm {
    fd: Arc<VmFd>,
    memory: Arc<GuestMemory>,
    msi: Arc<KvmMsi>,
    boot: OnceLock<Arc<Kick>>,
    /// Device memory by first frame, and where it is; its slots follow those of RAM.
    placed: Mutex<Vec<(Frame, Option<Gpa>)>>,
}

impl KvmVm {
    /// A VM over `memory`.
    pub(crate) fn new(kvm: &Kvm, memory: Arc<GuestMemory>) -> Result<Self, EngineError> {
        let fd = Arc::new(kvm.create_vm().map_err(failed("KVM_CREATE_VM"))?);
        let mut cap = kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, ..Default::default() };
        cap.args[0] = IOAPIC_ROUTES as u64;
        fd.enable_cap(&cap).map_err(failed("KVM_CAP_SPLIT_IRQCHIP"))?;
        for (slot, (range, offset)) in memory.layout().iter().enumerate() {
            let region = kvm_userspace_memory_region {
                slot: slot as u32,
                flags: 0,
                guest_phys_addr: range.start.0,
                memory_size: range.len,
                userspace_addr: memory.base() as u64 + offset,
            };
            // SAFETY: the memory is mapped as long as `memory` lives, which this VM keeps.
            unsafe { fd.set_user_memory_region(region) }.map_err(failed("KVM_SET_USER_MEMORY_REGION"))?;
        }
        let msi = Arc::new(KvmMsi { fd: fd.clone(), level: Mutex::new(VecDeque::new()) });
        Ok(KvmVm { fd, memory, msi, boot: OnceLock::new(), placed: Mutex::default() })
    }

    /// Makes slot `slot` hold `memory` at `at`, or nothing.
    fn set_slot(&self, slot: u32, memory: &DeviceMemory, at: Option<Gpa>) -> Result<(), EngineError> {
        let region = kvm_userspace_memory_region {
            slot,
            flags: KVM_MEM_LOG_DIRTY_PAGES,
            guest_phys_addr: at.map_or(0, |a| a.0),
            memory_size: if at.is_some() { memory.len() } else { 0 },
            userspace_addr: memory.host() as u64,
        };
        // SAFETY: the memory is part of the mapping of `self.memory`, which this VM keeps.
        unsafe { self.fd.set_user_memory_region(region) }.map_err(failed("KVM_SET_USER_MEMORY_REGION"))
    }
}

impl Vm for KvmVm {
    fn place(&self, memory: &DeviceMemory, at: Option<Gpa>) -> Result<(), EngineError> {
        let mut placed = self.placed.lock().unwrap_or_else(PoisonError::into_inner);
        let first = memory.first_frame();
        let index = placed.iter().position(|(f, _)| *f == first).unwrap_or_else(|| {
            placed.push((first, None));
            placed.len() - 1
        });
        let slot = (self.memory.layout().len() + index) as u32;
        // A slot's place cannot be changed, only taken and given.
        if placed[index].1.take().is_some() {
            self.set_slot(slot, memory, None)?;
        }
        if at.is_some() {
            self.set_slot(slot, memory, at)?;
            placed[index].1 = at;
        }
        memory.place(at);
        Ok(())
    }

    fn collect_writes(&self, memory: &DeviceMemory) {
        let placed = self.placed.lock().unwrap_or_else(PoisonError::into_inner);
        let first = memory.first_frame();
        let Some(index) = placed.iter().position(|(f, at)| *f == first && at.is_some()) else { return };
        let slot = (self.memory.layout().len() + index) as u32;
        let log = self.fd.get_dirty_log(slot, memory.len() as usize).unwrap_or_default();
        for (i, word) in log.iter().enumerate() {
            let mut bits = *word;
            while bits != 0 {
                self.memory.frames().touch(Frame(first.0 + (i as u32) * 64 + bits.trailing_zeros()));
                bits &= bits - 1;
            }
        }
    }

    fn add_vcpu(&self, id: VcpuId, cpuid: &Cpuid) -> Result<Box<dyn Vcpu>, EngineError> {
        let fd = self.fd.create_vcpu(u64::from(id.0)).map_err(failed("KVM_CREATE_VCPU"))?;
        fd.set_cpuid2(&table(cpuid, id)?).map_err(failed("KVM_SET_CPUID2"))?;
        let vcpu = KvmVcpu::new(fd, id, self.memory.clone());
        if id == VcpuId(0) {
            let _ = self.boot.set(vcpu.kick());
        }
        Ok(Box::new(vcpu))
    }

    fn msi(&self) -> Arc<dyn MsiSink> {
        self.msi.clone()
    }

    fn set_intr(&self, level: bool) {
        if let Some(kick) = self.boot.get() {
            kick.set_intr(level);
        }
    }

    fn nmi(&self) {
        if let Some(kick) = self.boot.get() {
            kick.nmi();
        }
    }
}

/// Sends messages into the kernel's local APICs.
///
/// The kernel reports the end of a level-triggered interrupt (KVM_EXIT_IOAPIC_EOI) only for vectors that appear in the routing
/// table's reserved entries, so level messages are entered there before they are first sent; the oldest one makes room.
struct KvmMsi {
    fd: Arc<VmFd>,
    level: Mutex<VecDeque<(u64, u32)>>,
}

impl KvmMsi {
    fn route_level(&self, address: u64, data: u32) {
        let mut routes = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        if routes.contains(&(address, data)) {
            return;
        }
        if routes.len() == IOAPIC_ROUTES {
            routes.pop_front();
        }
        routes.push_back((address, data));
        let entries: Vec<_> =
            routes.iter().enumerate().map(|(gsi, &(address, data))| msi_route(gsi, address, data)).collect();
        let set = KvmIrqRouting::from_entries(&entries).map(|table| self.fd.set_gsi_routing(&table));
        if !matches!(set, Ok(Ok(()))) {
            tracing::error!("KVM refuses the interrupt routing table; level-triggered interrupts may stall");
        }
    }
}

fn msi_route(gsi: usize, address: u64, data: u32) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi: gsi as u32, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    entry.u.msi.address_lo = address as u32;
    entry.u.msi.address_hi = (address >> 32) as u32;
    entry.u.msi.data = data;
    entry
}

impl MsiSink for KvmMsi {
    fn send(&self, address: u64, data: u32) {
        if address >> 20 != 0xfee {
            return;
        }
        if data & 1 << 15 != 0 {
            self.route_level(address, data);
        }
        let msi = kvm_msi { address_lo: address as u32, data, ..Default::default() };
        if let Err(e) = self.fd.signal_msi(msi) {
            tracing::debug!("KVM_SIGNAL_MSI: {e}");
        }
    }
}

/// The CPUID table of CPU `id`, with its APIC id filled in.
fn table(cpuid: &Cpuid, id: VcpuId) -> Result<CpuId, EngineError> {
    let entries: Vec<_> = cpuid
        .entries
        .iter()
        .map(|e| {
            let mut regs = e.regs;
            match e.leaf {
                1 => regs.ebx = regs.ebx & 0x00ff_ffff | id.0 << 24,
                0xb | 0x1f => regs.edx = id.0,
                _ => {}
            }
            kvm_cpuid_entry2 {
                function: e.leaf,
                index: e.subleaf.unwrap_or(0),
                flags: if e.subleaf.is_some() { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 },
                eax: regs.eax,
                ebx: regs.ebx,
                ecx: regs.ecx,
                edx: regs.edx,
                ..Default::default()
            }
        })
        .collect();
    CpuId::from_entries(&entries).map_err(|_| EngineError::new(EngineErrorKind::Invalid, "the CPUID table is too long"))
}
