//! A port behind which a filter stands.

use std::sync::{Arc, Mutex, PoisonError};

use visor_net::{Accepts, Direction, Frame, FrameFilter, FrameSink, NetPort, Notify, Sent};

/// A port whose frames `filter` judges; what it refuses is [`Sent::Dropped`].
pub struct Filtered<P> {
    port: P,
    filter: Arc<Mutex<dyn FrameFilter>>,
}

impl<P: NetPort> Filtered<P> {
    /// Puts `filter` before `port`. The filter stays usable from outside through its lock.
    pub fn new(port: P, filter: Arc<Mutex<dyn FrameFilter>>) -> Self {
        Filtered { port, filter }
    }
}

fn passes(filter: &Mutex<dyn FrameFilter>, way: Direction, frame: &[u8]) -> bool {
    filter.lock().unwrap_or_else(PoisonError::into_inner).pass(way, frame)
}

impl<P: NetPort> NetPort for Filtered<P> {
    fn send(&mut self, frame: Frame<'_>) -> Sent {
        if passes(&self.filter, Direction::Outbound, frame.data) { self.port.send(frame) } else { Sent::Dropped }
    }

    fn receive(&mut self, sink: &mut dyn FrameSink) -> usize {
        let filter = &self.filter;
        self.port.receive(&mut |frame: Frame<'_>| {
            if passes(filter, Direction::Inbound, frame.data) { sink.frame(frame) } else { Sent::Dropped }
        })
    }

    fn set_accepts(&mut self, accepts: Accepts) {
        self.port.set_accepts(accepts);
    }

    fn peer_accepts(&self) -> Accepts {
        self.port.peer_accepts()
    }

    fn on_ready(&mut self, notify: Notify) {
        self.port.on_ready(notify);
    }

    fn link_up(&self) -> bool {
        self.port.link_up()
    }

    fn mtu(&self) -> u16 {
        self.port.mtu()
    }
}
