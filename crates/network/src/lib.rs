//! Networks that machines are plugged into.
//!
//! [`NatNetwork`] is one guest behind an address translator of its own, which every guest sees alike: it is 10.0.2.15, the router (and
//! the host) 10.0.2.2, the resolver 10.0.2.3. What goes on in it can be looked at and changed while the guest runs: forwarded ports,
//! firewall, the table of translations, a packet capture, and why a connection is refused.
//!
//! [`shared`] networks are processes of their own that guests of several machines are plugged into: a switch, and a translator that
//! gives each guest an address by its MAC.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod capturing;
mod forward;
mod holder;
mod live;
mod mac;
mod nat;
pub mod shared;
mod splice;
mod store;
#[cfg(test)]
mod tests;

/// An error with what is behind it, in one line.
pub(crate) fn words(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

pub use capturing::Capturing;
pub use forward::{ForwardSpec, ForwardSpecError, ForwardStatus};
pub use holder::{Holder, port_holder};
pub use live::GuestRequest;
pub use mac::random_mac;
pub use nat::{NatNetwork, NatSpec, NetBoot, NetworkError};
pub use splice::splice;
pub use store::Store;
pub use visor_nat::Translation;
