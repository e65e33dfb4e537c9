//! Files of a web server as something to read at any place: by range requests, with what was read kept on this host.
//!
//! - [`WebFile`] is such a file; it reads as a disk image does ([`Source`](visor_qcow2::Source), [`Storage`](visor_qcow2::Storage));
//! - [`Identity`] says which version of the file it is. A server that shows another version later is an error, never data of both.
//!
//! HTTP: RFC 9110, §14 for ranges, §8.8 for validators.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod cache;
mod client;
mod error;
mod file;
mod identity;
#[cfg(test)]
mod tests;

pub use error::{WebError, WebErrorKind};
pub use file::{WebFile, WebOptions};
pub use identity::Identity;

/// Base64 of `data` (RFC 4648 §4), for headers.
pub fn base64(data: &[u8]) -> String {
    use base64ct::Encoding;
    base64ct::Base64::encode_string(data)
}
