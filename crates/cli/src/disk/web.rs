//! Disks that are files of a web server: attached read-only, or shown behind a local disk.
//!
//! An image can name any address as its backing file. Only those are asked for that the user has named before, when the image was
//! made (`visor disk create --backing https://...`); what the server said of the file then is written down, and another version of it
//! is refused later.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use visor_block::{BlockBackend, BlockError, BlockErrorKind};
use visor_disk::{Format, RemoteFile, RemoteOpener, SourceDisk, open_remote};
use visor_qcow2::Source;
use visor_webfile::{Identity, WebError, WebErrorKind, WebFile, WebOptions};

use super::work::{block_failure, host_failure};
use crate::report::Failure;

/// How to reach a file.
#[derive(clap::Args, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WebArgs {
    /// Certificates of authorities (PEM) for a backing file of the web, instead of the host's.
    #[arg(long = "backing-ca", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// A file with `USER:PASSWORD`, or with the value of an Authorization header, for a backing file of the web.
    #[arg(long = "backing-auth-file", value_name = "FILE")]
    pub(crate) auth_file: Option<PathBuf>,
    /// Space that the cache of a backing file of the web may take (default 16G).
    #[arg(long = "backing-cache", value_name = "SIZE", value_parser = crate::values::parse_size)]
    pub(crate) cache: Option<u64>,
}

/// What is written down of a file that the user has named.
#[derive(Serialize, Deserialize)]
struct Pin {
    identity: Identity,
    access: WebArgs,
}

/// Opens the file at `url` as a disk that is only read.
pub(crate) fn disk(url: &str, format: Option<Format>, access: &WebArgs) -> Result<Arc<dyn BlockBackend>, Failure> {
    let (source, _) = source(url, format, access)?;
    Ok(Arc::new(SourceDisk::new(source, Path::new(url), 8).map_err(block_failure)?))
}

/// Opens the file at `url` for reading.
pub(super) fn source(
    url: &str,
    format: Option<Format>,
    access: &WebArgs,
) -> Result<(Arc<dyn Source>, Format), Failure> {
    let file: Arc<dyn RemoteFile> = Arc::new(open(url, access, None).map_err(failure)?);
    open_remote(file, url, format).map_err(block_failure)
}

/// Opens the file at `url` as the backing file of a new image, and writes down which version it is.
pub(super) fn backing(url: &str, access: &WebArgs) -> Result<(Arc<dyn Source>, Format), Failure> {
    let absolute = |p: &Option<PathBuf>| p.as_deref().map(|p| std::path::absolute(p).unwrap_or(p.to_owned()));
    let access = WebArgs { ca: absolute(&access.ca), auth_file: absolute(&access.auth_file), cache: access.cache };
    let file = open(url, &access, None).map_err(failure)?;
    let identity = file.identity().clone();
    let opened = open_remote(Arc::new(file), url, None).map_err(block_failure)?;
    let path = pin_path(url)?;
    if let Some(old) = read_pin(&path)
        && (old.identity.length, &old.identity.etag) != (identity.length, &identity.etag)
    {
        return Err(Failure::new(format!("{url} is not what it was when another disk was made over it"))
            .hint("disks made over the old version cannot be used with the new one")
            .hint(format!("if there is no such disk any more: rm {}", path.display())));
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|e| host_failure("cannot make", folder, e))?;
    let fail = |e| host_failure("cannot write", &path, e);
    // Complete or not at all.
    let temporary = path.with_extension(format!("{}.part", std::process::id()));
    let mut out = std::fs::File::create(&temporary).map_err(fail)?;
    out.write_all(&serde_json::to_vec_pretty(&Pin { identity, access })?)
        .and_then(|()| out.sync_all())
        .map_err(fail)?;
    std::fs::rename(&temporary, &path).map_err(fail)?;
    Ok(opened)
}

/// What opens the addresses that images name.
pub(crate) fn opener() -> Option<RemoteOpener> {
    Some(RemoteOpener(Arc::new(|url: &str| {
        let refuse = |kind, what: String| BlockError::new(kind, what);
        let pin = pin_path(url).ok().and_then(|p| read_pin(&p)).ok_or_else(|| {
            let what = format!("the image shows {url} behind it, which you have not allowed: make it with `visor disk create --backing`");
            refuse(BlockErrorKind::Unsupported, what)
        })?;
        let file = open(url, &pin.access, Some(pin.identity)).map_err(|e| {
            let kind = if e.kind == WebErrorKind::Changed { BlockErrorKind::Corrupt } else { BlockErrorKind::Io };
            BlockError { kind, what: e.what, source: e.source }
        })?;
        Ok(Arc::new(file) as Arc<dyn RemoteFile>)
    })))
}

fn open(url: &str, access: &WebArgs, expect: Option<Identity>) -> Result<WebFile, WebError> {
    let mut options = WebOptions { cache: cache(), ca: access.ca.clone(), expect, ..WebOptions::default() };
    options.limit = access.cache.unwrap_or(options.limit);
    if let Some(path) = &access.auth_file {
        let fail =
            |e| WebError { kind: WebErrorKind::Host, what: format!("cannot read {}", path.display()), source: Some(e) };
        options.authorization = Some(authorization(std::fs::read_to_string(path).map_err(fail)?.trim()));
    }
    WebFile::open(url, &options)
}

/// A header of what the user has written: the header itself, or user and password.
fn authorization(text: &str) -> String {
    if text.contains(' ') {
        return text.to_owned();
    }
    // RFC 7617.
    format!("Basic {}", visor_webfile::base64(text.as_bytes()))
}

/// Where caches are.
fn cache() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|h| h.join(".cache")))?;
    Some(base.join("visor/web"))
}

fn pin_path(url: &str) -> Result<PathBuf, Failure> {
    Ok(super::names::directory()?.with_file_name("web").join(format!("{}.json", Identity::name_of(url))))
}

fn read_pin(path: &Path) -> Option<Pin> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// An error with what to do about it.
pub(super) fn failure(e: WebError) -> Failure {
    let hint = match e.kind {
        WebErrorKind::NoRanges => {
            "fetch the file and attach the copy; or serve it by a server with ranges (nginx, Apache, S3)"
        }
        WebErrorKind::Changed => {
            "what was read before belongs to the old version; attach it anew, or make a new disk over it"
        }
        WebErrorKind::Refused => "look at the address with a browser; a password goes into a file: auth-file=FILE",
        WebErrorKind::Failed => "is the server up? curl -I ADDRESS; an authority of your own: tls-ca=FILE",
        _ => "",
    };
    let failure = Failure::from(anyhow::Error::from(e));
    if hint.is_empty() { failure } else { failure.hint(hint) }
}
