//! Assembles a PC from devices and an engine, and runs it.
//!
//! [`MachineSpec`] says what is wished, [`MachineSpec::validate`] makes a [`MachineConfig`] of it, [`choose`] an engine, and
//! [`Machine::new`] the machine. Where to look:
//!
//! - `parts`: the table of devices, each with its constructor; `board`: what constructors draw from;
//! - `irq`, `bus_io`: how devices and CPUs reach each other;
//! - `clock`, `timers`, `io_thread`: guest time, alarms and everything that happens outside of a CPU;
//! - `life`, `vcpu`: the life cycle and the threads of the CPUs;
//! - `loader`: kernel, ACPI and SMBIOS tables in memory; `firmware`: booting through a BIOS or UEFI instead;
//! - `timeline`: how far a boot has come;
//! - `chars`, `agent`: byte streams between guest and host;
//! - `net`: network devices and the thread that moves frames to the guest.
//!
//! **Threads.** One per vCPU, one for I/O, and one for frames where there is a network device. A vCPU thread calls devices from within the engine (`bus_io`); the I/O thread calls
//! them for alarms and input. Requests that concern the whole machine (power off, reset) are notes in `life::Control`.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod agent;
mod board;
mod bus_io;
mod chars;
mod clock;
mod cpu;
mod disks;
mod engine;
mod error;
mod firmware;
mod input;
mod io_thread;
mod irq;
mod life;
mod listener;
mod loader;
mod machine;
mod net;
mod parts;
mod screen;
mod spec;
mod storage;
mod timeline;
mod timers;
mod vcpu;
mod vnc;
mod wake;

#[cfg(test)]
mod tests;

pub use agent::AgentPort;
pub use chars::{SerialInput, SerialOutput};
pub use cpu::{CpuModel, MODELS as CPU_MODELS};
pub use disks::{DiskError, DiskInfo, DiskStats, Disks};
pub use engine::{ChosenEngine, EngineChoice, choose, choose_with};
pub use error::{MachineError, MachineErrorKind};
pub use firmware::{BootClass, FirmwareKind, FirmwareLog, FirmwareSpec, VarsSpec};
pub use life::{MachineState, StopReason};
pub use machine::Machine;
pub use net::{MAX_NICS, NicModel, NicSpec};
pub use parts::AGENT_PORT;
pub use spec::{Disk, FileSource, MAX_DISKS, MAX_MEMORY, MIN_MEMORY, MachineConfig, MachineSpec};
pub use storage::{Cd, CdBus, DiskBus, IDE_PLACES};
pub use timeline::{Phase, Timeline, TimelineEvent};
pub use visor_console as console;
pub use visor_display::png;
pub use visor_engine_soft::HostFeatures;
pub use visor_storage::{EjectOutcome, Tray, TrayError, TrayState};
pub use vnc::{VncAddress, VncOptions, VncServer};
