//! Code that has changed: where, and who wrote there.
//!
//! Watchers of guest memory are called by whoever wrote, on any thread. Which CPU a thread runs, and whether a device is at work in
//! it, is kept here for them. What they report waits until the CPU looks; that may be long, so the list is bounded: one that
//! outgrows it says that anything may have changed.

use std::cell::Cell;

use visor_engine::VcpuId;
use visor_memory::Frame;

/// Reports that wait, before they are looked through for repetitions.
const MOST: usize = 4096;

/// Who wrote to code, as the CPU sees it that keeps the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writer {
    /// That CPU itself.
    Own,
    /// Another one.
    OtherCpu,
    /// A device, whichever thread it works on.
    Device,
}

/// What has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changed {
    /// These frames.
    pub(crate) frames: Vec<(Frame, Writer)>,
    /// Any frame at all; the last of those who wrote.
    pub(crate) any: Option<Writer>,
}

impl Changed {
    /// Adds a frame.
    pub(crate) fn push(&mut self, frame: Frame, writer: Writer) {
        if self.any.is_some() || self.frames.last() == Some(&(frame, writer)) {
            return;
        }
        self.frames.push((frame, writer));
        if self.frames.len() < MOST {
            return;
        }
        self.frames.sort_by_key(|(frame, _)| frame.0);
        self.frames.dedup_by_key(|(frame, _)| frame.0);
        // So that not every report to come looks through them again.
        if self.frames.len() > MOST / 2 {
            self.any = Some(writer);
            self.frames = Vec::new();
        }
    }
}

thread_local! {
    /// The VM and the CPU whose guest code this thread executes.
    static RUNS: Cell<Option<(usize, VcpuId)>> = const { Cell::new(None) };
}

/// While it lives, this thread stores as it says; then as before.
#[derive(Debug)]
#[must_use]
pub(crate) struct Acting {
    before: Option<(usize, VcpuId)>,
    /// Of this thread alone.
    _here: std::marker::PhantomData<*const ()>,
}

/// This thread runs the guest code of CPU `id` of the VM that `vm`, an address, tells from others.
pub(crate) fn as_cpu(vm: usize, id: VcpuId) -> Acting {
    Acting { before: RUNS.replace(Some((vm, id))), _here: std::marker::PhantomData }
}

/// A device is at work on this thread.
pub(crate) fn as_device() -> Acting {
    Acting { before: RUNS.replace(None), _here: std::marker::PhantomData }
}

impl Drop for Acting {
    fn drop(&mut self) {
        RUNS.set(self.before);
    }
}

/// Who stores on this thread now, as CPU `id` of VM `vm` sees it.
pub(crate) fn writer(vm: usize, id: VcpuId) -> Writer {
    match RUNS.get() {
        Some((v, i)) if v == vm => {
            if i == id {
                Writer::Own
            } else {
                Writer::OtherCpu
            }
        }
        _ => Writer::Device,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_told_from_the_others() {
        let (a, b) = (VcpuId(0), VcpuId(1));
        assert_eq!(writer(1, a), Writer::Device, "a thread of a device");
        let cpu = as_cpu(1, a);
        assert_eq!((writer(1, a), writer(1, b)), (Writer::Own, Writer::OtherCpu));
        assert_eq!(writer(2, a), Writer::Device, "not a CPU of this VM");
        let device = as_device();
        assert_eq!(writer(1, a), Writer::Device);
        drop(device);
        assert_eq!(writer(1, a), Writer::Own);
        std::thread::spawn(move || assert_eq!(writer(1, a), Writer::Device)).join().unwrap();
        drop(cpu);
        assert_eq!(writer(1, a), Writer::Device);
    }

    #[test]
    fn a_cpu_that_does_not_look_is_told_of_everything_in_the_end() {
        let mut changed = Changed::default();
        for i in 0..1_000_000 {
            changed.push(Frame(i % 1000), Writer::OtherCpu);
        }
        assert!(changed.any.is_none() && changed.frames.len() <= MOST, "the same thousand frames");
        let mut there: Vec<u32> = changed.frames.iter().map(|(f, _)| f.0).collect();
        there.sort_unstable();
        there.dedup();
        assert_eq!(there, (0..1000).collect::<Vec<_>>(), "all of them");
        for i in 0..1_000_000 {
            changed.push(Frame(i), Writer::Device);
        }
        assert_eq!((changed.any, changed.frames.len()), (Some(Writer::Device), 0));
    }
}
