//! A port behind which a filter stands.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use visor_net::{Direction, Frame, FrameFilter, FrameSink, NetPort, Sent, leave_to};

/// Most answers of the filter that wait for the guest, or are sent in one go. Whoever sends many refused frames is told of some.
const MAX_ANSWERS: usize = 32;

/// A port whose frames `filter` judges; what it refuses is [`Sent::Dropped`], and answered as the filter wants it.
pub struct Filtered<P> {
    port: P,
    filter: Arc<Mutex<dyn FrameFilter>>,
    /// For the guest, about its own frames; it gets them when it receives next.
    answers: VecDeque<Vec<u8>>,
}

impl<P: NetPort> Filtered<P> {
    /// Puts `filter` before `port`. The filter stays usable from outside through its lock.
    pub fn new(port: P, filter: Arc<Mutex<dyn FrameFilter>>) -> Self {
        Filtered { port, filter, answers: VecDeque::new() }
    }
}

/// `Ok` if the frame may pass, else what is to be answered.
fn judge(filter: &Mutex<dyn FrameFilter>, way: Direction, frame: &[u8]) -> Result<(), Option<Vec<u8>>> {
    let mut filter = filter.lock().unwrap_or_else(PoisonError::into_inner);
    if filter.pass(way, frame) { Ok(()) } else { Err(filter.answer()) }
}

impl<P: NetPort> NetPort for Filtered<P> {
    fn send(&mut self, frame: Frame<'_>) -> Sent {
        match judge(&self.filter, Direction::Outbound, frame.data) {
            Ok(()) => self.port.send(frame),
            Err(answer) => {
                self.answers.extend(answer.filter(|_| self.answers.len() < MAX_ANSWERS));
                Sent::Dropped
            }
        }
    }

    fn receive(&mut self, sink: &mut dyn FrameSink) -> usize {
        let mut taken = 0;
        while let Some(answer) = self.answers.front() {
            if sink.frame(Frame::plain(answer)) == Sent::Full {
                return taken;
            }
            self.answers.pop_front();
            taken += 1;
        }
        let (filter, mut back) = (&self.filter, Vec::new());
        taken += self.port.receive(&mut |frame: Frame<'_>| match judge(filter, Direction::Inbound, frame.data) {
            Ok(()) => sink.frame(frame),
            Err(answer) => {
                back.extend(answer.filter(|_| back.len() < MAX_ANSWERS));
                Sent::Dropped
            }
        });
        back.iter().for_each(|answer| _ = self.port.send(Frame::plain(answer)));
        taken
    }

    leave_to!(self => self.port);
}
