//! Time as devices see it.

/// Nanoseconds of guest time since power-on. Guest time stands still while the machine is paused.
pub type Nanos = u64;

/// Tells guest time.
pub trait Clock: Send + Sync {
    /// Now; never goes backwards.
    fn now(&self) -> Nanos;

    /// Seconds since 1970-01-01 UTC that the guest's real-time clock should show, with nanoseconds.
    fn wall(&self) -> std::time::Duration;
}

/// A device's alarm, kept by the machine.
pub trait TimerSlot: Send + Sync {
    /// Sets or clears the alarm: [`TimerDevice::expired`] is called once, at or soon after `at`.
    fn arm(&self, at: Option<Nanos>);
}

/// A device with an alarm.
pub trait TimerDevice {
    /// The alarm that was armed last has gone off; may be spurious.
    fn expired(&mut self, now: Nanos);
}
