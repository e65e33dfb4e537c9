//! One KVM virtual machine: memory slots, vCPUs, and interrupts into the kernel's local APICs.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use kvm_bindings::{
    CpuId, KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_cpuid_entry2, kvm_enable_cap, kvm_irq_routing_entry, kvm_msi,
};
use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_X2APIC_API, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_X2APIC_API_USE_32BIT_IDS,
};
use kvm_ioctls::{Kvm, VmFd};
use visor_engine::{EngineError, EngineErrorKind, GuestMemory, MsiSink, Vcpu, VcpuId, Vm};
use visor_x86::cpuid::Cpuid;

use crate::failed;
use crate::kick::Kick;
use crate::slots::Slots;
use crate::vcpu::KvmVcpu;

/// Inputs of the I/O APIC for which the kernel reserves interrupt routes.
const IOAPIC_ROUTES: usize = 24;

/// One virtual machine on KVM.
pub(crate) struct KvmVm {
    fd: Arc<VmFd>,
    memory: Arc<GuestMemory>,
    slots: Arc<Slots>,
    msi: Arc<KvmMsi>,
    boot: OnceLock<Arc<Kick>>,
}

impl KvmVm {
    /// A VM over `memory`.
    pub(crate) fn new(kvm: &Kvm, memory: Arc<GuestMemory>) -> Result<Self, EngineError> {
        let fd = Arc::new(kvm.create_vm().map_err(failed("KVM_CREATE_VM"))?);
        let mut cap = kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, ..Default::default() };
        cap.args[0] = IOAPIC_ROUTES as u64;
        fd.enable_cap(&cap).map_err(failed("KVM_CAP_SPLIT_IRQCHIP"))?;
        // Destinations of 32 bits in messages; needed only where the host allows CPUs beyond 254, so older hosts may lack it.
        let mut cap = kvm_enable_cap { cap: KVM_CAP_X2APIC_API, ..Default::default() };
        cap.args[0] = u64::from(KVM_X2APIC_API_USE_32BIT_IDS);
        if let Err(e) = fd.enable_cap(&cap) {
            tracing::debug!("KVM_CAP_X2APIC_API: {e}");
        }
        let slots = Slots::new(fd.clone(), &memory);
        slots.show(&memory.mappings())?;
        let slots = Arc::new(slots);
        let (seen, follower) = (Arc::downgrade(&memory), slots.clone());
        memory.on_remap(move || {
            let Some(memory) = seen.upgrade() else { return };
            if let Err(e) = follower.show(&memory.mappings()) {
                tracing::error!("the guest's memory cannot be mapped anew: {e}");
            }
        });
        let msi = Arc::new(KvmMsi { fd: fd.clone(), level: Mutex::new(VecDeque::new()) });
        Ok(KvmVm { fd, memory, slots, msi, boot: OnceLock::new() })
    }
}

impl Vm for KvmVm {
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

    fn collect_writes(&self) {
        self.slots.collect(&self.memory);
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
        // Bits 63:40 are the upper part of a wide destination.
        if address >> 20 & 0xf_ffff != 0xfee {
            return;
        }
        if data & 1 << 15 != 0 {
            self.route_level(address, data);
        }
        let msi =
            kvm_msi { address_lo: address as u32, address_hi: (address >> 32) as u32, data, ..Default::default() };
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
