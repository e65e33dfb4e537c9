//! The time-stamp counter and guest time, both from the host's TSC.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The host's TSC.
#[inline]
pub(crate) fn host_tsc() -> u64 {
    // SAFETY: RDTSC exists on every x86-64 host and user mode may execute it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Frequency of the TSC, in Hz: from CPUID leaf 15h or the hypervisor's timing leaf where the host tells it, else measured.
pub(crate) fn tsc_hz() -> u64 {
    static HZ: OnceLock<u64> = OnceLock::new();
    *HZ.get_or_init(|| announced_hz().unwrap_or_else(measured_hz))
}

/// Guest time at host TSC `tsc`, in nanoseconds.
pub(crate) fn guest_nanos(tsc: u64) -> u64 {
    // Nanoseconds per tick as a 32.32 fixed-point number would drift; 128-bit arithmetic does not.
    (u128::from(tsc) * scale().0 >> 64) as u64
}

/// TSC ticks in `nanos` nanoseconds, rounded up.
pub(crate) fn ticks(nanos: u64) -> u64 {
    let ticks = (u128::from(nanos) * scale().1 >> 32) + 1;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

/// Nanoseconds per tick × 2^64 and ticks per nanosecond × 2^32. Both below 2^64 for any TSC above 1 GHz; a slower one
/// saturates to 1 GHz, which no x86-64 host undercuts.
fn scale() -> (u128, u128) {
    static SCALE: OnceLock<(u128, u128)> = OnceLock::new();
    *SCALE.get_or_init(|| {
        let hz = u128::from(tsc_hz().max(1_000_000_001));
        ((1_000_000_000u128 << 64) / hz, (hz << 32) / 1_000_000_000)
    })
}

fn announced_hz() -> Option<u64> {
    use core::arch::x86_64::__cpuid;
    // CPUID has no side effects.
    let leaf0 = __cpuid(0);
    if leaf0.eax >= 0x15 {
        let r = __cpuid(0x15);
        if r.eax != 0 && r.ebx != 0 && r.ecx != 0 {
            return Some(u64::from(r.ecx) * u64::from(r.ebx) / u64::from(r.eax));
        }
    }
    let hypervisor = __cpuid(1).ecx >> 31 != 0 && __cpuid(0x4000_0000).eax >= 0x4000_0010;
    if hypervisor {
        let khz = u64::from(__cpuid(0x4000_0010).eax);
        if (500_000..20_000_000).contains(&khz) {
            return Some(khz * 1000);
        }
    }
    None
}

/// Counts ticks over a few milliseconds, twice, and keeps the longer-lasting agreement with the clock.
fn measured_hz() -> u64 {
    let (start, tsc) = (Instant::now(), host_tsc());
    std::thread::sleep(Duration::from_millis(20));
    let (elapsed, ticks) = (start.elapsed(), host_tsc() - tsc);
    let hz = u128::from(ticks) * 1_000_000_000 / elapsed.as_nanos().max(1);
    // TSC frequencies are round numbers of kHz.
    (hz as u64 + 500) / 1000 * 1000
}
