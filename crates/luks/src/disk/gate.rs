//! Who may write: any number of writers of whole sectors, or one that has to be alone.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What starts when its turn has come.
type Start = Box<dyn FnOnce(Ticket) + Send>;

/// The gate. It counts everything that is under way, for draining.
#[derive(Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    idle: Condvar,
}

#[derive(Default)]
struct State {
    /// Under way or waiting.
    open: usize,
    writers: usize,
    /// One that is alone is under way.
    alone: bool,
    waiting: VecDeque<(bool, Start)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Reader,
    Writer,
    Alone,
}

/// The right to be under way; it ends when it is dropped.
pub(super) struct Ticket {
    gate: Arc<Gate>,
    role: Role,
}

impl Gate {
    /// For what need not wait.
    pub(super) fn pass(self: &Arc<Self>) -> Ticket {
        self.lock().open += 1;
        Ticket { gate: self.clone(), role: Role::Reader }
    }

    /// Starts a write now or when its turn has come, in order.
    pub(super) fn enter(self: &Arc<Self>, alone: bool, start: Start) {
        let mut s = self.lock();
        s.open += 1;
        s.waiting.push_back((alone, start));
        self.admit(s);
    }

    pub(super) fn drain(&self) {
        let mut s = self.lock();
        while s.open > 0 {
            s = self.idle.wait(s).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts who may start, without holding the lock.
    fn admit<'a>(self: &'a Arc<Self>, mut s: MutexGuard<'a, State>) {
        loop {
            let Some((alone, _)) = s.waiting.front() else { return };
            if s.alone || (*alone && s.writers > 0) {
                return;
            }
            let Some((alone, start)) = s.waiting.pop_front() else { return };
            let role = if alone { Role::Alone } else { Role::Writer };
            match role {
                Role::Alone => s.alone = true,
                _ => s.writers += 1,
            }
            drop(s);
            start(Ticket { gate: self.clone(), role });
            s = self.lock();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut s = self.gate.lock();
        s.open -= 1;
        match self.role {
            Role::Reader => {}
            Role::Writer => s.writers -= 1,
            Role::Alone => s.alone = false,
        }
        if s.open == 0 {
            self.gate.idle.notify_all();
        }
        if self.role != Role::Reader {
            self.gate.admit(s);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_alone_or_many() {
        let gate = Arc::new(Gate::default());
        let held: Arc<Mutex<Vec<(u32, Ticket)>>> = Arc::default();
        let enter = |n, alone| {
            let held = held.clone();
            gate.enter(alone, Box::new(move |t| held.lock().unwrap().push((n, t))));
        };
        let inside = || held.lock().unwrap().iter().map(|(n, _)| *n).collect::<Vec<_>>();
        let leave = |n| {
            let mut h = held.lock().unwrap();
            let i = h.iter().position(|(m, _)| *m == n).unwrap();
            let gone = h.swap_remove(i);
            drop(h);
            drop(gone);
        };
        enter(1, false);
        enter(2, false);
        enter(3, true);
        enter(4, false);
        enter(5, true);
        assert_eq!(inside(), [1, 2]);
        leave(1);
        assert_eq!(inside(), [2]);
        leave(2);
        assert_eq!(inside(), [3]);
        leave(3);
        assert_eq!(inside(), [4]);
        leave(4);
        assert_eq!(inside(), [5]);
        drop(gate.pass());
        leave(5);
        gate.drain();
    }
}
