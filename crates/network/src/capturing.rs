//! Any network, with a capture of what passes.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use visor_net::{MacAddr, NetPort, Network};
use visor_switch::{Capture, CaptureSlot, Captured};

use crate::NetworkError;

/// Most bytes of a capture.
const LIMIT: u64 = 16 << 30;

/// A network whose packets can be captured at the guest's end.
pub struct Capturing {
    network: Arc<dyn Network>,
    slot: CaptureSlot,
}

impl Capturing {
    /// Wraps `network`; nothing is captured until [`Capturing::start`].
    pub fn new(network: Arc<dyn Network>) -> Self {
        Capturing { network, slot: CaptureSlot::default() }
    }

    /// Begins to write what passes to a pcap file; ends a capture that is under way.
    ///
    /// # Errors
    /// [`NetworkError::Capture`].
    pub fn start(&self, path: &Path) -> Result<(), NetworkError> {
        start(&self.slot, path)
    }

    /// Ends the capture; the number of packets in it, if there was one.
    ///
    /// # Errors
    /// What went wrong when it was written.
    pub fn stop(&self) -> io::Result<Option<u64>> {
        self.slot.stop().map(Capture::finish).transpose()
    }
}

pub(crate) fn start(slot: &CaptureSlot, path: &Path) -> Result<(), NetworkError> {
    let fail = |source| NetworkError::Capture { path: path.display().to_string(), source };
    let file = File::create(path).map_err(fail)?;
    slot.start(Capture::begin(file, LIMIT).map_err(fail)?);
    Ok(())
}

impl Network for Capturing {
    fn name(&self) -> &str {
        self.network.name()
    }

    fn plug(&self, guest: &str, mac: MacAddr) -> io::Result<Box<dyn NetPort>> {
        Ok(Box::new(Captured::new(self.network.plug(guest, mac)?, self.slot.clone())))
    }
}
