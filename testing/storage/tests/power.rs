//! ACPI with Debian's unmodified kernel: suspend to RAM, and what ends it.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::{Duration, Instant};

use visor_machine::{FirmwareKind, FirmwareSpec, StopReason};
use visor_test_storage::{Linux, Session, firmware};

const KERNEL: &str = "linux-image-cloud-amd64";
/// Many times what anything here takes.
const PATIENCE: Duration = Duration::from_secs(600);

/// Sleeps until an alarm of the real-time clock, then until somebody presses the button; memory and the clock are what they were.
const SCRIPT: &str = "
    say states $(cat /sys/power/state), $(cat /sys/power/mem_sleep)
    echo kept > /tmp/file
    slept() { dmesg | grep -c 'Waking up from system sleep state S3'; }
    now() { cat /sys/class/rtc/rtc0/since_epoch; }
    before=$(now)
    echo +3 > /sys/class/rtc/rtc0/wakealarm
    say until the alarm
    echo mem > /sys/power/state
    say awake $(slept) $(cat /tmp/file) $(( $(now) - before >= 3 )) CPUs $(cat /sys/devices/system/cpu/online)
    say until the button
    echo mem > /sys/power/state
    say awake $(slept) $(cat /tmp/file)";

fn sleeps_and_wakes(firmware: Option<FirmwareSpec>) {
    let linux = Linux::new(KERNEL, &["button"]).unwrap();
    let mut spec = linux.spec(SCRIPT).unwrap();
    spec.firmware = firmware;
    spec.cpus = 2;
    let mut session = Session::start(spec).unwrap();
    let states = session.expect("states").unwrap();
    assert!(states.contains("mem") && states.contains("[deep]"), "{states}");
    session.expect("until the alarm").unwrap();
    assert_eq!(session.expect("awake").unwrap(), "1 kept 1 CPUs 0-1");
    session.expect("until the button").unwrap();
    let end = Instant::now() + PATIENCE;
    while !session.machine().sleeps() {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(20));
    }
    // Nothing else wakes it.
    std::thread::sleep(Duration::from_secs(1));
    assert!(session.machine().sleeps());
    session.machine().power_button();
    assert_eq!(session.expect("awake").unwrap(), "2 kept");
    assert_eq!(session.machine().reboots(), 0);
    assert_eq!(session.end().unwrap(), StopReason::PowerOff);
}

#[test]
fn a_kernel_that_was_booted_directly_sleeps_and_wakes() {
    sleeps_and_wakes(None);
}

#[test]
fn a_kernel_that_uefi_has_booted_sleeps_and_wakes() {
    sleeps_and_wakes(Some(firmware(FirmwareKind::Uefi).unwrap()));
}
