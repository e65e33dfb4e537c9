//! Which version of a file it is.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A file of a web server in one of its versions: what the server says of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its address.
    pub url: String,
    /// Bytes.
    pub length: u64,
    /// The `ETag` header, as it came.
    pub etag: Option<String>,
    /// The `Last-Modified` header, as it came.
    pub modified: Option<String>,
}

impl Identity {
    /// In what another version differs, in words; nothing if it is the same.
    pub(crate) fn differs(&self, now: &Identity) -> Option<String> {
        let text = |t: &Option<String>| t.clone().unwrap_or_else(|| "none".into());
        if self.length != now.length {
            return Some(format!("it had {} bytes and has {}", self.length, now.length));
        }
        if self.etag != now.etag {
            return Some(format!("its tag was {} and is {}", text(&self.etag), text(&now.etag)));
        }
        // A tag says more than a time, which servers behind one address need not agree on.
        if self.etag.is_none() && self.modified != now.modified {
            return Some(format!("it was of {} and is of {}", text(&self.modified), text(&now.modified)));
        }
        None
    }

    /// A name for this version, for files.
    pub(crate) fn key(&self) -> String {
        let modified = if self.etag.is_some() { &None } else { &self.modified };
        let text = format!("{}\n{}\n{:?}\n{modified:?}", self.url, self.length, self.etag);
        Sha256::digest(text.as_bytes())[..16].iter().map(|b| format!("{b:02x}")).collect()
    }
}

impl Identity {
    /// A name for an address, for files.
    pub fn name_of(url: &str) -> String {
        Sha256::digest(url.as_bytes())[..16].iter().map(|b| format!("{b:02x}")).collect()
    }
}
