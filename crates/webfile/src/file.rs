//! A file of a web server.

use std::io;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use visor_qcow2::{Error, ErrorKind, Source, Storage};

use crate::cache::{BLOCK, Cache};
use crate::client::Client;
use crate::{Identity, WebError, WebErrorKind};

/// Blocks fetched at once at least where they are missing, and at most.
const AHEAD: u64 = 4;
const MOST: u64 = 16;

/// How to read a file of a web server.
#[derive(Clone, Debug)]
pub struct WebOptions {
    /// The folder for caches; without one nothing is kept but the last blocks.
    pub cache: Option<PathBuf>,
    /// Bytes that the cache of this file may take.
    pub limit: u64,
    /// How often a request is made before it fails.
    pub attempts: u32,
    /// The wait after the first failure; it doubles with each one.
    pub wait: Duration,
    /// How long a server may take to connect, to answer, and to send a range.
    pub timeout: Duration,
    /// Certificates of authorities (PEM) instead of the host's.
    pub ca: Option<PathBuf>,
    /// The value of the header `Authorization`. It is never written anywhere.
    pub authorization: Option<String>,
    /// The version that it has to be.
    pub expect: Option<Identity>,
}

impl Default for WebOptions {
    fn default() -> Self {
        WebOptions {
            cache: None,
            limit: 16 << 30,
            attempts: 6,
            wait: Duration::from_millis(200),
            timeout: Duration::from_secs(30),
            ca: None,
            authorization: None,
            expect: None,
        }
    }
}

/// An open file of a web server. It can be read from several threads at once.
pub struct WebFile {
    client: Client,
    identity: Identity,
    cache: Option<Cache>,
    /// The last block, for small reads without a cache.
    last: Mutex<Option<(u64, Vec<u8>)>>,
    fetched: AtomicU64,
}

impl WebFile {
    /// Asks the server for the file.
    ///
    /// # Errors
    /// See [`WebErrorKind`]. [`WebErrorKind::Changed`] if it is not the version that is expected.
    pub fn open(url: &str, options: &WebOptions) -> Result<Self, WebError> {
        let client = Client::new(url, options)?;
        let (start, identity) = client.get(0, BLOCK as usize, options.expect.as_ref())?;
        let cache = match &options.cache {
            Some(folder) => Some(Cache::open(folder, &identity, options.limit)?),
            None => None,
        };
        let fetched = AtomicU64::new(start.len() as u64);
        let file = WebFile { client, identity, cache, last: Mutex::default(), fetched };
        file.keep(0, start);
        Ok(file)
    }

    /// The version that it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Bytes that came over the network so far.
    pub fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    /// Bytes that the cache takes on this host.
    pub fn cached(&self) -> u64 {
        self.cache.as_ref().map_or(0, Cache::taken)
    }

    fn keep(&self, block: u64, data: Vec<u8>) {
        match &self.cache {
            Some(cache) => cache.put(block, &data),
            None => *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((block, data)),
        }
    }

    fn kept(&self, block: u64) -> Option<Vec<u8>> {
        match &self.cache {
            Some(cache) => cache.get(block),
            None => {
                let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
                last.as_ref().filter(|(b, _)| *b == block).map(|(_, data)| data.clone())
            }
        }
    }

    /// Fills `data`; what lies behind the end is zero.
    fn fill(&self, data: &mut [u8], at: u64) -> Result<(), WebError> {
        let length = self.identity.length;
        let inside = length.saturating_sub(at).min(data.len() as u64) as usize;
        data[inside..].fill(0);
        let mut done = 0;
        while done < inside {
            let block = (at + done as u64) / BLOCK;
            let Some(found) = self.kept(block) else {
                let wanted = (at + inside as u64).div_ceil(BLOCK) - block;
                done += self.fetch(block, wanted, &mut data[done..inside], at + done as u64)?;
                continue;
            };
            done += copy(&found, block * BLOCK, &mut data[done..inside], at + done as u64);
        }
        Ok(())
    }

    /// Fetches missing blocks from `block` on, keeps them, and fills `data`, which starts at `at` in the first one. Returns how
    /// much of it is filled.
    fn fetch(&self, block: u64, wanted: u64, data: &mut [u8], at: u64) -> Result<usize, WebError> {
        let blocks = self.identity.length.div_ceil(BLOCK);
        let ahead = if self.cache.is_some() { AHEAD } else { 1 };
        let most = wanted.max(ahead).min(MOST).min(blocks - block);
        let have = |b: u64| self.cache.as_ref().is_some_and(|c| c.has(b));
        let count = (1..most).find(|n| have(block + n)).unwrap_or(most);
        let start = block * BLOCK;
        let len = (count * BLOCK).min(self.identity.length - start);
        let (bytes, _) = self.client.get(start, len as usize, Some(&self.identity))?;
        if bytes.len() as u64 != len {
            let what = format!("{}: the server sends too little", self.identity.url);
            return Err(WebError::new(WebErrorKind::Failed, what));
        }
        self.fetched.fetch_add(len, Ordering::Relaxed);
        let filled = copy(&bytes, start, data, at);
        for (i, part) in bytes.chunks(BLOCK as usize).enumerate() {
            self.keep(block + i as u64, part.to_vec());
        }
        Ok(filled)
    }
}

/// Copies what `from`, which starts at `start`, has for `to`, which starts at `at`.
fn copy(from: &[u8], start: u64, to: &mut [u8], at: u64) -> usize {
    let part = &from[(at - start) as usize..];
    let n = part.len().min(to.len());
    to[..n].copy_from_slice(&part[..n]);
    n
}

impl Source for WebFile {
    /// Rounded up to whole sectors.
    fn size(&self) -> u64 {
        self.identity.length.next_multiple_of(512)
    }

    fn read(&self, at: u64, data: &mut [u8]) -> visor_qcow2::Result<()> {
        self.fill(data, at).map_err(|e| Error { kind: ErrorKind::Io, what: e.what, source: e.source })
    }
}

impl Storage for WebFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.identity.length)
    }

    fn read_at(&self, data: &mut [u8], at: u64) -> io::Result<()> {
        self.fill(data, at).map_err(|e| match e.source {
            Some(s) => io::Error::new(s.kind(), format!("{}: {s}", e.what)),
            None => io::Error::other(e.what),
        })
    }

    fn write_at(&self, _data: &[u8], _at: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn zero_at(&self, _at: u64, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn release(&self, _at: u64, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn allocate(&self, _at: u64, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn set_size(&self, _size: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}
