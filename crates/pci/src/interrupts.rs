//! How a function interrupts: MSI-X when software has enabled it, its INTx pin otherwise.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use visor_engine::MsiSink;

use crate::intx::IntxLine;
use crate::msix::{Msix, MsixLayout};
use crate::{ConfigSpace, PciError};

/// A function's interrupts. Shared between the function and the threads that finish its work; its lock is taken after theirs.
pub struct Interrupts {
    state: Mutex<State>,
    /// Offset of the message control register.
    control: u8,
}

struct State {
    msix: Msix,
    intx: Option<IntxLine>,
    /// The function wants its pin asserted.
    wanted: bool,
    /// Software forbids it.
    intx_disabled: bool,
}

impl Interrupts {
    /// Adds an MSI-X capability to `config` and, for a function with a pin, drives `intx`. The function must pass accesses of
    /// the BAR of `layout` on to [`Interrupts::msix_read`] and [`Interrupts::msix_write`].
    ///
    /// # Errors
    /// [`PciError::Capability`] when `config` has no room.
    pub fn new(
        config: &mut ConfigSpace,
        layout: MsixLayout,
        sink: Arc<dyn MsiSink>,
        intx: Option<IntxLine>,
    ) -> Result<Self, PciError> {
        let body = layout.capability();
        let at = config.add_capability(MsixLayout::describe(&body))?;
        let state = State { msix: Msix::new(layout, sink), intx, wanted: false, intx_disabled: false };
        Ok(Interrupts { state: Mutex::new(state), control: at + 2 })
    }

    /// Takes over command and message control register; to be called after each configuration write.
    pub fn update(&self, config: &ConfigSpace) {
        let control = u16::from_le_bytes([config.byte(self.control), config.byte(self.control + 1)]);
        let mut s = self.lock();
        s.intx_disabled = config.command().intx_disabled();
        s.msix.control(control, config.command().bus_master());
        s.drive();
    }

    /// Whether software has enabled MSI-X.
    pub fn msix_enabled(&self) -> bool {
        self.lock().msix.enabled()
    }

    /// Number of vectors.
    pub fn vectors(&self) -> u16 {
        self.lock().msix.vectors()
    }

    /// Sends the message of `vector` if MSI-X is enabled; unknown vectors are ignored.
    pub fn signal(&self, vector: u16) {
        self.lock().msix.signal(vector);
    }

    /// Sets the wish for INTx; the pin follows unless MSI-X is enabled or INTx disabled.
    pub fn set_intx(&self, level: bool) {
        let mut s = self.lock();
        s.wanted = level;
        s.drive();
    }

    /// Whether INTx is wanted, as the status register shows it.
    pub fn intx_pending(&self) -> bool {
        self.lock().wanted
    }

    /// A load from the MSI-X structures.
    pub fn msix_read(&self, offset: u64, data: &mut [u8]) {
        self.lock().msix.read(offset, data);
    }

    /// A store to the MSI-X structures.
    pub fn msix_write(&self, offset: u64, data: &[u8]) {
        self.lock().msix.write(offset, data);
    }

    /// Back to the state after power-on.
    pub fn reset(&self) {
        let mut s = self.lock();
        s.msix.reset();
        s.wanted = false;
        s.intx_disabled = false;
        s.drive();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn drive(&mut self) {
        if let Some(line) = &self.intx {
            line.set(self.wanted && !self.intx_disabled && !self.msix.enabled());
        }
    }
}
