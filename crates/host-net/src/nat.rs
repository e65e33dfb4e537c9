//! A translator with a cable: [`NatPort`] is plugged into a network device or a switch, [`Nat`] stays with whoever manages it.
//!
//! Frames of the guest are translated in the thread that sends them, and frames for the guest are made in the thread that
//! receives them, straight from the host's sockets: no queue, and no copy in between.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use visor_nat::{ConfigError, NatConfig, NatEngine, Time};
use visor_net::{Accepts, Frame, FrameSink, NetPort, Notify, Sent};

use crate::resolv::Resolvers;
use crate::sockets::HostSockets;
use crate::sys::raise_open_files;
use crate::waker::Waker;

/// Files left to the rest of the process.
const SPARE_FILES: u64 = 512;

/// How long small datagrams in a row are collected: they cost one system call together, and each of them about as much alone.
const COLLECT: Duration = Duration::from_micros(250);

/// The same when many came the last time.
const COLLECT_MORE: Duration = Duration::from_micros(500);

/// When the engine looks at what it has put off.
const PUT_OFF: Duration = Duration::from_millis(1);

/// The engine of a [`Nat`].
pub type Engine = NatEngine<HostSockets>;

struct Shared {
    inner: Mutex<Inner>,
    start: Instant,
}

struct Inner {
    waker: Waker,
    engine: Engine,
}

/// A translator. Clones are the same one; it ends when the last of them and its port are gone.
#[derive(Clone)]
pub struct Nat {
    shared: Arc<Shared>,
}

/// The guests' end of a translator's cable.
pub struct NatPort {
    shared: Arc<Shared>,
}

impl Nat {
    /// A translator that asks the host's own resolvers. The limits of flows are lowered to what the process may open.
    ///
    /// # Errors
    ///
    /// `InvalidInput` around a [`ConfigError`], or what the kernel says.
    pub fn open(config: NatConfig) -> io::Result<(Nat, NatPort)> {
        Nat::with_resolvers(config, Resolvers::new("/etc/resolv.conf"))
    }

    /// As [`Nat::open`], with other resolvers.
    ///
    /// # Errors
    ///
    /// As [`Nat::open`].
    pub fn with_resolvers(mut config: NatConfig, resolvers: Resolvers) -> io::Result<(Nat, NatPort)> {
        let files = usize::try_from(raise_open_files().saturating_sub(SPARE_FILES).max(64)).unwrap_or(usize::MAX);
        config.max_tcp = config.max_tcp.min(files / 3 * 2);
        config.max_datagram = config.max_datagram.min(files / 3);
        let host = HostSockets::new(resolvers)?;
        let news = host.epoll().try_clone()?;
        let invalid = |e: ConfigError| io::Error::new(io::ErrorKind::InvalidInput, e);
        let engine = NatEngine::new(config, host).map_err(invalid)?;
        let waker = Waker::new("nat", news, libc::EPOLLIN as u32)?;
        let inner = Mutex::new(Inner { waker, engine });
        let shared = Arc::new(Shared { inner, start: Instant::now() });
        Ok((Nat { shared: Arc::clone(&shared) }, NatPort { shared }))
    }

    /// Looks at or changes the engine while it runs: forwarded ports, names, policy, leases, the table of flows. `act` holds up
    /// the guests' frames, so it must be short.
    pub fn with<R>(&self, act: impl FnOnce(&mut Engine, Time) -> R) -> R {
        let now = self.shared.now();
        let mut inner = self.shared.lock();
        let result = act(&mut inner.engine, now);
        // What was changed may have made frames, or an earlier timer.
        inner.waker.tell();
        result
    }
}

impl Shared {
    fn now(&self) -> Time {
        Time(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere is a bug; the engine keeps its tables whole between calls.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts what a sink takes.
struct Counted<'a> {
    sink: &'a mut dyn FrameSink,
    taken: usize,
    full: bool,
}

impl FrameSink for Counted<'_> {
    fn frame(&mut self, frame: Frame<'_>) -> Sent {
        let sent = self.sink.frame(frame);
        self.full |= sent == Sent::Full;
        self.taken += usize::from(sent != Sent::Full);
        sent
    }
}

impl NetPort for NatPort {
    fn send(&mut self, frame: Frame<'_>) -> Sent {
        let now = self.shared.now();
        let mut inner = self.shared.lock();
        let sent = inner.engine.ingress(now, frame);
        if inner.engine.has_answers() {
            inner.waker.tell();
        } else if inner.engine.has_collected() {
            inner.waker.alarm(Instant::now() + COLLECT);
        } else if inner.engine.has_put_off() {
            inner.waker.alarm(Instant::now() + PUT_OFF);
        }
        sent
    }

    fn receive(&mut self, sink: &mut dyn FrameSink) -> usize {
        let mut inner = self.shared.lock();
        inner.waker.looking();
        let mut counted = Counted { sink, taken: 0, full: false };
        let mut next = Some(Duration::ZERO);
        // What comes meanwhile is taken along, but not without end.
        for _ in 0..16 {
            next = inner.engine.poll(self.shared.now(), &mut counted);
            if counted.full || next != Some(Duration::ZERO) {
                break;
            }
        }
        if next == Some(Duration::ZERO) && !counted.full {
            inner.waker.tell();
        }
        if inner.engine.has_collected() {
            next = Some(next.map_or(COLLECT_MORE, |d| d.min(COLLECT_MORE)));
        }
        inner.waker.rearm(next.map(|d| Instant::now() + d));
        counted.taken
    }

    fn set_accepts(&mut self, accepts: Accepts) {
        self.shared.lock().engine.set_accepts(accepts);
    }

    fn peer_accepts(&self) -> Accepts {
        Accepts { checksum: true, tcp4: true, tcp6: true }
    }

    fn on_ready(&mut self, notify: Notify) {
        self.shared.lock().waker.set_notify(notify);
    }

    fn mtu(&self) -> u16 {
        self.shared.lock().engine.config().mtu
    }

    fn collects(&self) -> bool {
        // What is collected has set the alarm when it was sent, or rung at once for an answer besides.
        self.shared.lock().engine.has_collected()
    }

    fn ring_in(&mut self, delay: Duration) -> bool {
        self.shared.lock().waker.alarm(Instant::now() + delay);
        true
    }
}
