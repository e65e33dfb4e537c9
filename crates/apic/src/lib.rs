//! Local APIC and I/O APIC models.
//!
//! [`LocalApic`] is a state machine without clock, thread or lock: time comes in as [`Now`], everything that concerns others
//! leaves as a value ([`Effect`], [`Delivery`]), so an engine may keep it behind whatever lock it likes and must not hold that
//! lock while it acts on the value. [`IoApic`] is a device of the machine; it sends [`Message`]s through
//! `visor_engine::MsiSink`. [`Message`] is the common form of MSIs, I/O APIC interrupts and inter-processor interrupts.
//!
//! Intel SDM 3A chapter 11 (APIC), §11.11 (MSI), §11.12 (x2APIC); Intel 82093AA data sheet (I/O APIC).
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod io;
mod local;
mod message;

pub use io::{IOAPIC_BASE, IOAPIC_INPUTS, IOAPIC_LEN, IoApic, IoApicState};
pub use local::{
    APIC_BASE, ApicMode, Delivery, Effect, GeneralProtection, IA32_APIC_BASE, IA32_TSC_DEADLINE, Interrupt, Ipi,
    LocalApic, LocalApicConfig, LocalApicState, LocalSource, Lowest, Now, Shorthand, TIMER_HZ, X2APIC_FIRST,
    X2APIC_LAST,
};
pub use message::{BROADCAST, DeliveryMode, Message, Trigger};
