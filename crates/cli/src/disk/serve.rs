//! `visor disk serve`, and disks of other servers.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::signal::Signal;
use visor_block::BlockBackend;
use visor_disk::{Access, ImageOptions, NbdAddress, NbdDisk, NbdExport, NbdOptions, NbdServer, open_disk};

use super::args::ServeArgs;
use super::work::{Work, block_failure, host_failure};
use super::{failure, names};
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
    let path = names::find(&args.disk)?;
    let access = if args.read_only { Access::ReadOnly } else { Access::ReadWrite };
    let options = ImageOptions { format: args.format, policy: names::policy(), ..ImageOptions::new(access) };
    let backend = open_disk(&path, &options).map_err(failure)?;
    let own = path.file_stem().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let name = args.export.clone().unwrap_or(own);
    let exports = [(name.clone(), NbdExport { backend: backend.clone(), read_only: args.read_only })].into();
    let (server, address) = match (&args.socket, &args.listen) {
        (Some(socket), _) => {
            let server = NbdServer::unix(socket, exports).map_err(|e| host_failure("cannot listen at", socket, e))?;
            (server, format!("nbd+unix:///{name}?socket={}", socket.display()))
        }
        (None, Some(listen)) => {
            let server =
                NbdServer::tcp(listen, exports).map_err(|e| host_failure("cannot listen at", listen.as_ref(), e))?;
            let host = listen.rsplit_once(':').map_or(listen.as_str(), |(host, _)| host);
            let port = server.port().unwrap_or_default();
            (server, format!("nbd://{host}:{port}/{name}"))
        }
        (None, None) => return Err(Failure::new("where to listen?").hint("--socket PATH or --listen ADDRESS:PORT")),
    };
    let _socket = Socket(args.socket.clone());
    // From here on, signals end the server in good order.
    let _signals = Work::new(true)?;
    if !quiet {
        println!("{address}");
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
    backend.drain();
    result?;
    Ok(0)
}

/// Connects to a disk of another server.
pub(crate) fn connect(address: &str, read_only: bool) -> Result<Arc<dyn BlockBackend>, Failure> {
    let address = NbdAddress::parse(address).map_err(Failure::new)?;
    let options = NbdOptions { read_only, ..NbdOptions::default() };
    Ok(Arc::new(NbdDisk::connect(&address, options).map_err(block_failure)?))
}
