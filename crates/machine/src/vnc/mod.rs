//! The machine's screen, keyboard and pointer for VNC clients, on a local socket.
//!
//! One thread serves all clients. It sleeps until a socket has something, or, while a client waits for news, until it is time to look
//! at the screen again: 30 times a second while things happen, ten times when nothing does, never without clients.
//!
//! - `address`: where to listen;
//! - `server`: the thread and its poll;
//! - `client`: one connection;
//! - `keys`: from what clients send to keys.

mod address;
mod client;
mod keys;
mod server;
#[cfg(test)]
mod tests;

pub use address::VncAddress;
pub use server::{VncOptions, VncServer};
