//! `visor disk serve`, and disks of other servers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::signal::Signal;
use visor_block::BlockBackend;
use visor_disk::{
    Access, ImageOptions, NbdAddress, NbdDisk, NbdExport, NbdOptions, NbdServer, TlsClient, TlsFiles, TlsServer,
    open_disk,
};

use super::args::ServeArgs;
use super::work::{Work, block_failure, host_failure};
use super::{failure, keys, names, outer};
use crate::report::Failure;
use crate::terminal::take_signals;

/// Removes the socket when the server ends.
struct Socket(Option<PathBuf>);

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

pub(super) fn serve(args: &ServeArgs, quiet: bool) -> Result<u8, Failure> {
    let exports = exports(args)?;
    let backends: Vec<_> = exports.values().map(|e| e.backend.clone()).collect();
    let names: Vec<String> = exports.keys().cloned().collect();
    let (mut server, place) = listen(args, exports)?;
    if let (Some(cert), Some(key)) = (&args.tls_cert, &args.tls_key) {
        let files =
            TlsFiles { ca: args.tls_ca.clone(), cert: Some(cert.clone()), key: Some(key.clone()), server_name: None };
        server = server.secured(TlsServer::new(&files).map_err(tls_failure)?);
    }
    let _socket = Socket(args.socket.clone());
    // From here on, signals end the server in good order.
    let _signals = Work::new(true)?;
    if !quiet {
        names.iter().for_each(|name| println!("{}", place.replace('*', name)));
    }
    let stop = server.stopper();
    let watcher = std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            if take_signals().iter().any(|s| *s != Signal::SIGWINCH) {
                stop.store(true, Ordering::Relaxed);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let result = server.serve().map_err(anyhow::Error::from);
    server.stopper().store(true, Ordering::Relaxed);
    let _ = watcher.join();
    backends.iter().for_each(|b| b.drain());
    result?;
    Ok(0)
}

/// A disk, and its own name.
fn open_one(disk: &str, args: &ServeArgs, access: Access) -> Result<(Arc<dyn BlockBackend>, String), Failure> {
    let encrypted = args.key_file.is_some();
    if let Some((pool, volume)) = crate::pool::volume(disk) {
        let mut backend = crate::pool::open(pool, volume, args.read_only)?;
        if encrypted {
            backend = keys::open(backend, disk.as_ref(), args.key_file.as_deref())?;
        }
        return Ok((backend, volume.to_owned()));
    }
    let path = names::find(disk)?;
    let format = args.format.or_else(|| outer(&path));
    let options =
        ImageOptions { format, policy: names::policy(), remote: super::web::opener(), ..ImageOptions::new(access) };
    let mut backend = open_disk(&path, &options).map_err(failure)?;
    if encrypted || keys::is_encrypted(&path) {
        backend = keys::open(backend, &path, args.key_file.as_deref())?;
    }
    Ok((backend, names::bare(&path)))
}

/// The disks that are offered, by name, and to whom.
fn exports(args: &ServeArgs) -> Result<BTreeMap<String, NbdExport>, Failure> {
    let access = if args.read_only { Access::ReadOnly } else { Access::ReadWrite };
    let mut exports = BTreeMap::new();
    for (i, disk) in args.disks.iter().enumerate() {
        let (backend, own) = open_one(disk, args, access)?;
        let name = args.export.get(i).cloned().unwrap_or(own);
        if exports.insert(name.clone(), NbdExport { backend, read_only: args.read_only, allow: None }).is_some() {
            return Err(
                Failure::new(format!("two exports are called `{name}`")).hint("name them: --export ONE --export TWO")
            );
        }
    }
    for rule in &args.allow {
        let (export, client) = rule.split_once('=').map_or((None, rule.as_str()), |(e, c)| (Some(e), c));
        let mut found = false;
        for (_, e) in exports.iter_mut().filter(|(name, _)| export.is_none_or(|e| e == *name)) {
            e.allow.get_or_insert_default().push(client.to_owned());
            found = true;
        }
        if !found {
            return Err(Failure::new(format!("--allow {rule}: nothing is offered under that name")));
        }
    }
    // Who says who may have one export does not mean everybody for the others.
    if !args.allow.is_empty() {
        exports.values_mut().for_each(|e| _ = e.allow.get_or_insert_default());
    }
    Ok(exports)
}

/// Listens. Returns the address, with `*` for the export.
fn listen(args: &ServeArgs, exports: BTreeMap<String, NbdExport>) -> Result<(NbdServer, String), Failure> {
    let scheme = if args.tls_cert.is_some() { "nbds" } else { "nbd" };
    match (&args.socket, &args.listen) {
        (Some(socket), _) => {
            let server = NbdServer::unix(socket, exports).map_err(|e| host_failure("cannot listen at", socket, e))?;
            Ok((server, format!("{scheme}+unix:///*?socket={}", socket.display())))
        }
        (None, Some(listen)) => {
            let server =
                NbdServer::tcp(listen, exports).map_err(|e| host_failure("cannot listen at", listen.as_ref(), e))?;
            let host = listen.rsplit_once(':').map_or(listen.as_str(), |(host, _)| host);
            let port = server.port().unwrap_or_default();
            Ok((server, format!("{scheme}://{host}:{port}/*")))
        }
        (None, None) => Err(Failure::new("where to listen?").hint("--socket PATH or --listen ADDRESS:PORT")),
    }
}

/// Connects to a disk of another server.
pub(crate) fn connect(address: &str, read_only: bool, tls: &TlsFiles) -> Result<Arc<dyn BlockBackend>, Failure> {
    let address = NbdAddress::parse(address).map_err(Failure::new)?;
    if !address.tls() && *tls != TlsFiles::default() {
        return Err(
            Failure::new(format!("{address} is not reached through TLS")).hint("write nbds:// instead of nbd://")
        );
    }
    let client = match address.tls() {
        true => Some(TlsClient::new(tls).map_err(tls_failure)?),
        false => None,
    };
    let options = NbdOptions { read_only, tls: client, ..NbdOptions::default() };
    Ok(Arc::new(NbdDisk::connect(&address, options).map_err(block_failure)?))
}

/// An error of certificates.
fn tls_failure(e: std::io::Error) -> Failure {
    Failure::from(anyhow::Error::from(e).context("cannot use TLS"))
        .hint("certificate, key and authority are files in PEM: tls-cert, tls-key, tls-ca")
}
