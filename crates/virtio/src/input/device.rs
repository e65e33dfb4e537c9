//! The tablet and the host's end of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use visor_console::{Button, InputEvent, POINTER_RANGE};

use crate::{Chain, DeviceType, Queues, VirtioDevice};

const EVENTS: u16 = 0;
const STATUS: u16 = 1;
const QUEUE_SIZE: u16 = 64;

/// Event types and codes.
const EV_SYN: u16 = 0;
const EV_KEY: u16 = 1;
const EV_REL: u16 = 2;
const EV_ABS: u16 = 3;
const REL_HWHEEL: u16 = 6;
const REL_WHEEL: u16 = 8;
const ABS_X: u16 = 0;
const ABS_Y: u16 = 1;
const BTN_LEFT: u16 = 0x110;

/// What the driver can ask for (§5.8.2).
const ID_NAME: u8 = 0x01;
const ID_SERIAL: u8 = 0x02;
const ID_DEVIDS: u8 = 0x03;
const PROP_BITS: u8 = 0x10;
const EV_BITS: u8 = 0x11;
const ABS_INFO: u8 = 0x12;
/// Where the answer is in configuration space.
const ANSWER: usize = 8;

/// The device.
pub struct Tablet {
    shared: Arc<Shared>,
    select: u8,
    subselect: u8,
}

/// The host's end of a [`Tablet`]; clones are the same.
#[derive(Clone)]
pub struct TabletHandle(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queues: OnceLock<Arc<Queues>>,
    active: AtomicBool,
    /// One packet after the other.
    sending: Mutex<()>,
}

impl Tablet {
    /// A tablet and the host's end of it.
    pub fn new() -> (Self, TabletHandle) {
        let shared = Arc::<Shared>::default();
        (Tablet { shared: shared.clone(), select: 0, subselect: 0 }, TabletHandle(shared))
    }

    fn answer(&self) -> Vec<u8> {
        match (self.select, self.subselect) {
            (ID_NAME, 0) => b"virtio tablet".to_vec(),
            (ID_SERIAL, 0) => b"0".to_vec(),
            // Virtual bus, then vendor, product, version.
            (ID_DEVIDS, 0) => [6u16, 0x1af4, 1, 1].iter().flat_map(|v| v.to_le_bytes()).collect(),
            // INPUT_PROP_POINTER
            (PROP_BITS, 0) => vec![1],
            (EV_BITS, 1) => bits(&[BTN_LEFT, BTN_LEFT + 1, BTN_LEFT + 2, BTN_LEFT + 3, BTN_LEFT + 4]),
            (EV_BITS, 2) => bits(&[REL_HWHEEL, REL_WHEEL]),
            (EV_BITS, 3) => bits(&[ABS_X, ABS_Y]),
            // Minimum, maximum, fuzz, flat, resolution.
            (ABS_INFO, 0 | 1) => [0, u32::from(POINTER_RANGE), 0, 0, 0].iter().flat_map(|v| v.to_le_bytes()).collect(),
            _ => Vec::new(),
        }
    }
}

/// A bitmap with these bits set.
fn bits(numbers: &[u16]) -> Vec<u8> {
    let len = numbers.iter().max().map_or(0, |n| usize::from(*n) / 8 + 1);
    let mut map = vec![0; len];
    numbers.iter().for_each(|n| map[usize::from(*n) / 8] |= 1 << (n % 8));
    map
}

impl TabletHandle {
    /// A driver listens.
    pub fn is_active(&self) -> bool {
        self.0.active.load(Ordering::SeqCst) && self.0.queues.get().is_some_and(|q| q.running())
    }

    /// Tells the driver of pointer events that happened at once. They are lost as a whole if it has no room for them.
    pub fn input(&self, events: &[InputEvent]) {
        let mut packet: Vec<(u16, u16, u32)> = events.iter().flat_map(encode).collect();
        let Some(queues) = self.0.queues.get().filter(|_| !packet.is_empty() && self.is_active()) else { return };
        packet.push((EV_SYN, 0, 0));
        let _one = self.0.sending.lock().unwrap_or_else(PoisonError::into_inner);
        let mut chains: Vec<Chain> = Vec::new();
        while chains.len() < packet.len() {
            match queues.next(EVENTS) {
                Some(chain) => chains.push(chain),
                // Chains that were taken go back empty; the driver takes their zeroes for a second end of the last packet.
                None => break,
            }
        }
        let complete = chains.len() == packet.len();
        for (chain, (kind, code, value)) in chains.into_iter().zip(packet) {
            let mut bytes = [0; 8];
            if complete {
                bytes[..2].copy_from_slice(&kind.to_le_bytes());
                bytes[2..4].copy_from_slice(&code.to_le_bytes());
                bytes[4..].copy_from_slice(&value.to_le_bytes());
            }
            if chain.writable.put(0, &bytes).is_err() {
                return queues.fail("input event buffer of less than 8 bytes");
            }
            chain.complete(8);
        }
    }
}

/// Types, codes and values of an event.
fn encode(event: &InputEvent) -> Vec<(u16, u16, u32)> {
    match *event {
        InputEvent::Position { x, y } => {
            let clip = |v: u16| u32::from(v.min(POINTER_RANGE));
            vec![(EV_ABS, ABS_X, clip(x)), (EV_ABS, ABS_Y, clip(y))]
        }
        InputEvent::Button { button, down } => {
            let code = match button {
                Button::Left => 0,
                Button::Right => 1,
                Button::Middle => 2,
                Button::Side => 3,
                Button::Extra => 4,
            };
            vec![(EV_KEY, BTN_LEFT + code, down.into())]
        }
        InputEvent::Wheel { dx, dy } => {
            let wheels = [(EV_REL, REL_HWHEEL, dx as u32), (EV_REL, REL_WHEEL, dy as u32)];
            wheels.into_iter().filter(|(_, _, v)| *v != 0).collect()
        }
        InputEvent::Key { .. } | InputEvent::Motion { .. } => Vec::new(),
    }
}

impl VirtioDevice for Tablet {
    fn name(&self) -> &str {
        "virtio-tablet"
    }

    fn device_type(&self) -> DeviceType {
        DeviceType { id: 18, class: 0x09_8000 }
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE, QUEUE_SIZE]
    }

    fn attach(&mut self, queues: Arc<Queues>) {
        let _ = self.shared.queues.set(queues);
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let answer = self.answer();
        let head = [self.select, self.subselect, answer.len() as u8];
        for (at, byte) in (offset as usize..).zip(data) {
            *byte = match at {
                0..=2 => head[at],
                _ => at.checked_sub(ANSWER).and_then(|at| answer.get(at)).copied().unwrap_or(0),
            };
        }
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        for (at, byte) in (offset..).zip(data) {
            match at {
                0 => self.select = *byte,
                1 => self.subselect = *byte,
                _ => {}
            }
        }
    }

    fn activate(&mut self, _features: u64) {
        self.shared.active.store(true, Ordering::SeqCst);
    }

    fn notify(&mut self, queue: u16) {
        let Some(queues) = self.shared.queues.get().filter(|_| queue == STATUS) else { return };
        for _ in 0..QUEUE_SIZE {
            let Some(chain) = queues.next(STATUS) else { break };
            chain.complete(0);
        }
    }

    fn reset(&mut self) {
        self.shared.active.store(false, Ordering::SeqCst);
        (self.select, self.subselect) = (0, 0);
    }
}
