//! KVM's memory slots, which follow what the machine shows where.

use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use visor_engine::{EngineError, GuestMemory};
use visor_memory::{Frame, Mapping, PAGE};

use crate::failed;

/// The slots of one VM; the index is the slot's number.
pub(crate) struct Slots {
    fd: Arc<VmFd>,
    base: u64,
    /// Device memory begins here: its writes are followed.
    devices: u64,
    current: Mutex<Vec<Option<Mapping>>>,
}

impl Slots {
    pub(crate) fn new(fd: Arc<VmFd>, memory: &GuestMemory) -> Self {
        Slots { fd, base: memory.base() as u64, devices: memory.devices(), current: Mutex::default() }
    }

    /// Makes the slots show `wanted`. Slots that stay are not touched: vCPUs may be running.
    pub(crate) fn show(&self, wanted: &[Mapping]) -> Result<(), EngineError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        for (slot, entry) in current.iter_mut().enumerate() {
            if let Some(m) = entry.filter(|m| !wanted.contains(m)) {
                self.set(slot, &m, 0)?;
                *entry = None;
            }
        }
        for m in wanted {
            if current.contains(&Some(*m)) {
                continue;
            }
            let slot = current.iter().position(Option::is_none).unwrap_or(current.len());
            self.set(slot, m, m.range.len)?;
            if slot == current.len() {
                current.push(None);
            }
            if let Some(entry) = current.get_mut(slot) {
                *entry = Some(*m);
            }
        }
        Ok(())
    }

    /// Moves the stamps of the frames of device memory that the guest has written since the last call.
    pub(crate) fn collect(&self, memory: &GuestMemory) {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        for (slot, m) in current.iter().enumerate() {
            let Some(m) = m.filter(|m| m.offset >= self.devices) else { continue };
            let log = self.fd.get_dirty_log(slot as u32, m.range.len as usize).unwrap_or_default();
            for (i, word) in log.into_iter().enumerate() {
                let first = m.offset / PAGE + 64 * i as u64;
                (0..64).filter(|b| word >> b & 1 != 0).for_each(|b| memory.frames().touch(Frame((first + b) as u32)));
            }
        }
    }

    fn flags(&self, m: &Mapping) -> u32 {
        let readonly = if m.writable { 0 } else { KVM_MEM_READONLY };
        readonly | if m.offset >= self.devices { KVM_MEM_LOG_DIRTY_PAGES } else { 0 }
    }

    fn set(&self, slot: usize, m: &Mapping, len: u64) -> Result<(), EngineError> {
        let region = kvm_userspace_memory_region {
            slot: slot as u32,
            flags: self.flags(m),
            guest_phys_addr: m.range.start.0,
            memory_size: len,
            userspace_addr: self.base + m.offset,
        };
        // SAFETY: the range lies in the mapping of guest memory, which the VM keeps as long as it lives; nothing in the house
        // holds a reference into it.
        unsafe { self.fd.set_user_memory_region(region) }.map_err(failed("KVM_SET_USER_MEMORY_REGION"))
    }
}
