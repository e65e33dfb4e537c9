//! PID 1 of a guest.
//!
//! Begins in the initial ramfs: mounts the kernel's file systems, loads the modules of the devices it finds, changes to
//! the root disk if the machine has one, and then serves as init: services, the console's shell, the agent, device
//! events, orphans, shutdown.
//!
//! Settings come from the kernel's command line:
//!
//! | word | meaning |
//! |---|---|
//! | `root=LABEL=name`, `root=/dev/x` | the root disk; without it the initial ramfs stays the root |
//! | `rw`, `ro` | how the root disk is mounted; a read-only disk, or `ro`, gets a layer in memory on top |
//! | `visor.console=shell\|off` | whether a shell runs on the console (default: `shell`) |
//! | `visor.hostname=name` | host name, instead of `/etc/hostname` |
//! | `visor.address=A/P,G,R` | address, prefix length, router and resolver of the first wired interface until DHCP confirms them, so that a command that runs at once has a network |
//! | `visor.net=off` | do not ask for an address on network interfaces |

mod cmdline;
mod console;
mod devices;
mod mounts;
mod root;
mod run;
mod shutdown;

pub use run::main;
