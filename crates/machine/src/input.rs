//! The machine's keyboard and pointers as one [`InputSink`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use visor_chipset::I8042;
use visor_console::{Display, InputEvent, InputSink, POINTER_RANGE};
use visor_virtio::input::TabletHandle;

use crate::machine::Machine;

/// Sends each event to the device that the guest listens to: keys to the PS/2 keyboard; the pointer to the tablet if the guest has
/// a driver for it, else to the PS/2 mouse, for which positions become movements.
pub(crate) struct Inputs {
    i8042: Arc<Mutex<I8042>>,
    tablet: Option<TabletHandle>,
    screen: Option<Arc<dyn Display>>,
    /// The last absolute position.
    last: Mutex<Option<(u16, u16)>>,
}

impl Inputs {
    fn i8042(&self) -> MutexGuard<'_, I8042> {
        self.i8042.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The movement from the last position to (`x`, `y`), in pixels of the picture.
    fn movement(&self, x: u16, y: u16) -> Option<InputEvent> {
        let size = self.screen.as_ref().map_or((0, 0), |s| s.size());
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (from_x, from_y) = last.replace((x, y))?;
        let pixels = |v: u16, size: u32| (u32::from(v) * size / (u32::from(POINTER_RANGE) + 1)) as i32;
        let dx = pixels(x, size.0) - pixels(from_x, size.0);
        let dy = pixels(y, size.1) - pixels(from_y, size.1);
        Some(InputEvent::Motion { dx, dy })
    }
}

impl InputSink for Inputs {
    fn input(&self, events: &[InputEvent]) {
        let tablet = self.tablet.as_ref().filter(|t| t.is_active());
        let (keys, pointer): (Vec<_>, Vec<_>) = events.iter().partition(|e| matches!(e, InputEvent::Key { .. }));
        if let Some(tablet) = tablet {
            tablet.input(&pointer);
            return self.i8042().input(&keys);
        }
        let moved = |e: InputEvent| match e {
            InputEvent::Position { x, y } => self.movement(x, y),
            e => Some(e),
        };
        let mut all = keys;
        all.extend(pointer.into_iter().filter_map(moved));
        self.i8042().input(&all);
    }

    fn is_idle(&self) -> bool {
        self.i8042().is_idle()
    }
}

impl Machine {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The keyboard and the pointers.
    pub fn input(&self) -> Option<Arc<dyn InputSink>> {
        let i8042 = self.built.i8042.clone()?;
        let inputs = Inputs { i8042, tablet: self.built.tablet.clone(), screen: self.screen(), last: Mutex::default() };
        Some(Arc::new(inputs))
    }
}
