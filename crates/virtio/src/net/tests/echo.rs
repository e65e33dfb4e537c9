//! A network that answers while it is being asked.

use visor_net::FrameSink;

use super::*;

/// Answers each frame with itself, and rings while it is being sent to.
#[derive(Default)]
struct Echo {
    frames: Vec<Vec<u8>>,
    notify: Option<Notify>,
}

impl NetPort for Echo {
    fn send(&mut self, f: Frame<'_>) -> Sent {
        let mut answer = f.data.to_vec();
        answer[..6].copy_from_slice(&OURS);
        self.frames.push(answer);
        self.notify.iter().for_each(|n| n());
        Sent::Yes
    }

    fn receive(&mut self, sink: &mut dyn FrameSink) -> usize {
        let mut taken = 0;
        while taken < self.frames.len() && sink.frame(Frame::plain(&self.frames[taken])) != Sent::Full {
            taken += 1;
        }
        self.frames.drain(..taken).count()
    }

    fn set_accepts(&mut self, _: Accepts) {}

    fn peer_accepts(&self) -> Accepts {
        Accepts::ALL
    }

    fn on_ready(&mut self, notify: Notify) {
        self.notify = Some(notify);
    }
}

#[test]
fn answers_are_received_where_the_question_was_sent() {
    let wakes = Arc::new(AtomicUsize::new(0));
    let w = wakes.clone();
    let wake: Notify = Arc::new(move || _ = w.fetch_add(1, Ordering::SeqCst));
    let (device, nic) = Net::new(Box::new(Echo::default()), &NetConfig { mac: MAC, pairs: 1 }, wake);
    let rig = Rig::new(device);
    let mut q = rig.start(MERGE);
    nic.pump();
    wakes.store(0, Ordering::SeqCst);
    rig.store(DATA, &[&header(0, 0, 0, 0, 0)[..], &frame([2; 6], 100)].concat());
    q[0].send(&rig, &[(DATA + 0x1000, 2000, true)]);
    q[1].send(&rig, &[(DATA, 112, false)]);
    assert!(q[1].used(&rig).is_some() && q[0].used(&rig).is_some(), "the answer is there");
    assert_eq!(rig.bytes(DATA + 0x1000 + 12, 6), OURS);
    assert_eq!(wakes.load(Ordering::SeqCst), 0, "nobody was woken");
    // Without a buffer it waits until the driver brings one.
    q[1].send(&rig, &[(DATA, 112, false)]);
    assert!(q[0].used(&rig).is_none());
    q[0].send(&rig, &[(DATA + 0x1000, 2000, true)]);
    assert!(wakes.load(Ordering::SeqCst) > 0);
    nic.pump();
    assert!(q[0].used(&rig).is_some());
}
