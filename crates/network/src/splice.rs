//! Joining two ports: what comes out of one goes into the other.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use visor_net::{Frame, NetPort, Notify, Sent};

/// How long to sleep at most; a link that is gone is noticed then at the latest.
const LOOK: Duration = Duration::from_secs(5);

/// A bell that threads wait for.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    bell: Condvar,
}

/// Moves frames between `a` and `b` until the link of one is down. Each is told what the other takes undone.
pub fn splice(mut a: impl NetPort, mut b: impl NetPort) {
    let bell = Arc::new(Bell::default());
    let ring = bell.clone();
    let notify: Notify = Arc::new(move || {
        *ring.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        ring.bell.notify_one();
    });
    let (mut from_a, mut from_b) = (b.peer_accepts(), a.peer_accepts());
    a.set_accepts(from_a);
    b.set_accepts(from_b);
    a.on_ready(notify.clone());
    b.on_ready(notify);
    while a.link_up() && b.link_up() {
        // Sent::Full leaves the frame where it was; the other side rings when there is room.
        let mut moved = a.receive(&mut |f: Frame<'_>| b.send(f));
        moved += b.receive(&mut |f: Frame<'_>| a.send(f));
        if std::mem::replace(&mut from_a, b.peer_accepts()) != from_a {
            a.set_accepts(from_a);
        }
        if std::mem::replace(&mut from_b, a.peer_accepts()) != from_b {
            b.set_accepts(from_b);
        }
        let mut rung = bell.rung.lock().unwrap_or_else(PoisonError::into_inner);
        if !*rung && moved == 0 {
            rung = bell.bell.wait_timeout(rung, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
        *rung = false;
    }
    // What is on the way when one side goes is lost, as on a cable.
    let _ = a.receive(&mut |_: Frame<'_>| Sent::Dropped);
}
