//! The host's side of networks.
