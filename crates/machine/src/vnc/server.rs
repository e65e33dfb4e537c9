//! The thread that serves all clients.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use visor_console::{Display, InputSink};
use visor_rfb::Config;

use super::address::{Listener, VncAddress};
use super::client::Client;
use crate::error::{MachineError, MachineErrorKind};
use crate::wake::Waker;

/// Most clients at a time.
const CLIENTS: usize = 16;

/// How a VNC server greets its clients.
#[derive(Clone, Debug, Default)]
pub struct VncOptions {
    /// The desktop's name.
    pub name: String,
    /// The password, of which eight bytes count; none: everybody who reaches the socket.
    pub password: Option<String>,
}

/// A running server; dropping it ends it and its connections.
pub struct VncServer {
    address: VncAddress,
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

struct Thread {
    listener: Listener,
    options: VncOptions,
    screen: Arc<dyn Display>,
    input: Arc<dyn InputSink>,
    clients: Vec<Client>,
    stop: Arc<AtomicBool>,
    waker: Waker,
}

impl VncServer {
    /// Serves `screen` and `input` at `address`.
    ///
    /// # Errors
    /// [`MachineErrorKind::Host`] if the address is in use or not possible.
    pub fn start(
        address: &VncAddress,
        options: VncOptions,
        screen: Arc<dyn Display>,
        input: Arc<dyn InputSink>,
    ) -> Result<Self, MachineError> {
        let failed = |what: String| move |e: io::Error| MachineError::because(MachineErrorKind::Host, what, e);
        let listener =
            Listener::bind(address).map_err(failed(format!("cannot listen for VNC clients at {address}")))?;
        let address = listener.address().map_err(failed("the VNC server has no address".into()))?;
        let waker =
            Waker::new().map_err(|e| MachineError::because(MachineErrorKind::Host, "cannot make an eventfd", e))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (mine, woken) = (stop.clone(), waker.clone());
        let thread = Thread { listener, options, screen, input, clients: Vec::new(), stop: mine, waker: woken };
        let thread = std::thread::Builder::new().name("vnc".into()).spawn(move || thread.run());
        let thread = Some(thread.map_err(failed("cannot start a thread".into()))?);
        Ok(VncServer { address, stop, waker, thread })
    }

    /// Where it listens.
    pub fn address(&self) -> &VncAddress {
        &self.address
    }
}

impl Drop for VncServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Thread {
    fn run(mut self) {
        while !self.stop.load(Ordering::SeqCst) {
            let (knocks, ready) = self.sleep();
            self.waker.drain();
            let (screen, input) = (self.screen.clone(), self.input.clone());
            let mut ready = ready.into_iter();
            self.clients.retain_mut(|c| {
                let has_input = ready.next().unwrap_or(false);
                let alive = !has_input || c.read(&*screen, &*input);
                let alive = alive && c.work(&*screen);
                if !alive {
                    c.release(&*input);
                }
                alive
            });
            if knocks {
                self.accept();
            }
        }
    }

    /// Waits; tells whether somebody knocks, and which clients have sent something.
    fn sleep(&self) -> (bool, Vec<bool>) {
        let mut fds = vec![
            PollFd::new(self.waker.fd(), PollFlags::POLLIN),
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
        ];
        for c in &self.clients {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::POLLIN, c.wants_input());
            flags.set(PollFlags::POLLOUT, c.wants_output());
            fds.push(PollFd::new(c.stream().as_fd(), flags));
        }
        let alarm = self.clients.iter().filter_map(Client::alarm).min();
        let timeout = alarm.map(|at| TimeSpec::from(at.saturating_duration_since(Instant::now())));
        // Interrupted or not: the loop looks at everything again.
        let _ = ppoll(&mut fds, timeout, None);
        let readable = PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR;
        let mut ready = fds.iter().map(|fd| fd.revents().is_some_and(|r| r.intersects(readable)));
        let _ = ready.next();
        (ready.next().unwrap_or(false), ready.collect())
    }

    fn accept(&mut self) {
        let Ok(stream) = self.listener.accept() else { return };
        let mut challenge = [0; 16];
        // Without randomness there is no authentication, and without room no service.
        if self.clients.len() >= CLIENTS || getrandom::fill(&mut challenge).is_err() {
            return;
        }
        let config = Config { name: self.options.name.clone(), password: self.options.password.clone(), challenge };
        let mut client = Client::new(stream, config, &*self.screen);
        if client.work(&*self.screen) {
            self.clients.push(client);
        }
    }
}
