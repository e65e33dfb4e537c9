//! Other programs that lie: VNC clients, people's commands, the agent in the guest.

mod agent;
mod control;
mod rfb;

use crate::Target;

/// The other programs.
pub(crate) const TARGETS: &[Target] = &[
    Target::new("rfb", "a VNC client's bytes", rfb::run, rfb::seeds).heap(16 << 20),
    Target::new("control", "a client of a machine's control socket", control::run, control::seeds).inputs(300),
    Target::new("agent", "both ends of the agent's protocol", agent::run, agent::seeds).inputs(3000),
];
