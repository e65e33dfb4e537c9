//! The KVM engine: guest code runs on the host's CPUs through `/dev/kvm`.
//!
//! Local APICs live in the host's kernel ("split irqchip", KVM_CAP_SPLIT_IRQCHIP); the 8259 pair and the I/O APIC are the
//! machine's, as with every engine. See the kernel's Documentation/virt/kvm/api.rst for all that is named KVM_ here.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod kick;
mod slots;
mod state;
mod vcpu;
mod vm;
mod watch;

use std::sync::Arc;

use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::{Cap, Kvm};
use visor_engine::{Engine, EngineCaps, EngineError, EngineErrorKind, GuestMemory, Vm, VmConfig};
use visor_x86::cpuid::{Cpuid, Entry, Regs, feature};

/// The leaves whose answer depends on ECX (SDM 2A, CPUID).
const WITH_SUBLEAVES: [u32; 8] = [4, 7, 0xb, 0xd, 0xf, 0x10, 0x14, 0x8000_001d];

/// The KVM engine.
#[derive(Debug)]
pub struct KvmEngine {
    kvm: Kvm,
    caps: EngineCaps,
}

impl KvmEngine {
    /// Opens `/dev/kvm`.
    ///
    /// # Errors
    /// [`EngineErrorKind::Unavailable`] where it is absent, forbidden, or lacks what visor needs.
    pub fn new() -> Result<Self, EngineError> {
        let kvm = Kvm::new().map_err(|e| EngineError {
            kind: EngineErrorKind::Unavailable,
            what: "/dev/kvm cannot be opened".to_owned(),
            source: Some(e.into()),
        })?;
        for (cap, name) in [
            (Cap::UserMemory, "user memory"),
            (Cap::SplitIrqchip, "split irqchip"),
            (Cap::ImmediateExit, "immediate exit"),
            (Cap::ExtCpuid, "CPUID2"),
        ] {
            if !kvm.check_extension(cap) {
                let what = format!("this host's KVM lacks {name}");
                return Err(EngineError::new(EngineErrorKind::Unavailable, what));
            }
        }
        let cpuid = supported(&kvm)?;
        let tsc_hz = tsc_hz(&kvm)?;
        let max_vcpus = u32::try_from(kvm.get_max_vcpus()).unwrap_or(254).min(254);
        kick::install_handler();
        Ok(KvmEngine { kvm, caps: EngineCaps { name: "kvm", cpuid, tsc_hz, max_vcpus } })
    }
}

impl Engine for KvmEngine {
    fn caps(&self) -> &EngineCaps {
        &self.caps
    }

    fn create_vm(&self, config: &VmConfig, memory: Arc<GuestMemory>) -> Result<Box<dyn Vm>, EngineError> {
        if config.vcpus == 0 || config.vcpus > self.caps.max_vcpus {
            let what = format!("a VM has 1 to {} CPUs, not {}", self.caps.max_vcpus, config.vcpus);
            return Err(EngineError::new(EngineErrorKind::Invalid, what));
        }
        Ok(Box::new(vm::KvmVm::new(&self.kvm, memory)?))
    }
}

/// A failed KVM call.
pub(crate) fn failed(call: &str) -> impl FnOnce(kvm_ioctls::Error) -> EngineError + '_ {
    move |e| EngineError::host(format!("KVM: {call} failed"), e.into())
}

fn supported(kvm: &Kvm) -> Result<Cpuid, EngineError> {
    let table = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(failed("KVM_GET_SUPPORTED_CPUID"))?;
    let entries = table.as_slice().iter().map(|e| Entry {
        leaf: e.function,
        subleaf: WITH_SUBLEAVES.contains(&e.function).then_some(e.index),
        regs: Regs { eax: e.eax, ebx: e.ebx, ecx: e.ecx, edx: e.edx },
    });
    let mut table = Cpuid { entries: entries.collect() };
    // It depends on the local APIC being in the kernel, which KVM does not know at this point and we do.
    table.set(feature::TSC_DEADLINE, kvm.check_extension(Cap::TscDeadlineTimer));
    Ok(table)
}

/// The rate of a fresh vCPU's TSC.
fn tsc_hz(kvm: &Kvm) -> Result<u64, EngineError> {
    let vm = kvm.create_vm().map_err(failed("KVM_CREATE_VM"))?;
    let vcpu = vm.create_vcpu(0).map_err(failed("KVM_CREATE_VCPU"))?;
    Ok(u64::from(vcpu.get_tsc_khz().map_err(failed("KVM_GET_TSC_KHZ"))?) * 1000)
}
