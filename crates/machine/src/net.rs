//! Network devices of a machine, and the thread that moves frames to the guest.
//!
//! A device is plugged into a [`Network`] when the machine is assembled and stays plugged until the machine is dropped, across
//! resets. Frames from the guest leave on the vCPU's thread; frames to the guest are copied by the thread here, which sleeps until
//! a port or a device asks for it. A paused machine's RAM is not touched: frames wait in the ports.

use std::sync::{Arc, Mutex, PoisonError};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use visor_net::{MacAddr, NetPort, Network, Nic, Notify};
use visor_nic::e1000::{E1000, E1000Handle, E1000Timer, E1000Wires};
use visor_pci::{IntxPin, PciAddress, PciError};
use visor_virtio::VirtioPci;
use visor_virtio::net::{Net, NetConfig};

use crate::board::{Board, PciWires};
use crate::error::{MachineError, MachineErrorKind};
use crate::firmware::Bootable;
use crate::life::{Control, MachineState};
use crate::loader::read;
use crate::spec::FileSource;
use crate::wake::Waker;

/// Most network devices of a machine.
pub const MAX_NICS: usize = 8;
/// Most pairs of queues of a device.
const MAX_PAIRS: u32 = 4;

/// Which device the guest finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NicModel {
    /// Virtio: fast, for systems that know it.
    #[default]
    Virtio,
    /// Intel 82540EM, for all others.
    E1000,
}

/// A network device.
#[derive(Clone)]
pub struct NicSpec {
    /// Which device.
    pub model: NicModel,
    /// Its address; not a group address.
    pub mac: MacAddr,
    /// What it is plugged into.
    pub network: Arc<dyn Network>,
    /// The option ROM with which a BIOS boots from it; without one it cannot.
    pub rom: Option<FileSource>,
}

impl std::fmt::Debug for NicSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {} in {}", self.model, self.mac, self.network.name())
    }
}

/// Checks what can be checked without a host.
pub(crate) fn check(nics: &[NicSpec]) -> Result<(), MachineError> {
    let bad = |what: String| Err(MachineError::new(MachineErrorKind::Spec, what));
    if nics.len() > MAX_NICS {
        return bad(format!("{} network devices; {MAX_NICS} is the most", nics.len()));
    }
    for (i, nic) in nics.iter().enumerate() {
        if nic.mac.is_multicast() || nic.mac == MacAddr::default() {
            return bad(format!("{} is not an address for a network device; 52:54:00:12:34:56 is one", nic.mac));
        }
        if nics[..i].iter().any(|n| n.mac == nic.mac) {
            return bad(format!("two network devices have the address {}", nic.mac));
        }
    }
    Ok(())
}

/// Moves frames between ports and devices.
pub(crate) struct Drive {
    waker: Waker,
    nics: Vec<Arc<dyn Nic>>,
    /// Held while guest memory may be written.
    moving: Mutex<()>,
}

/// Makes the devices.
pub(crate) fn build(b: &mut Board<'_>) -> Result<(), MachineError> {
    let waker = Waker::new().map_err(|e| MachineError::because(MachineErrorKind::Host, "cannot make an eventfd", e))?;
    let mut nics: Vec<Arc<dyn Nic>> = Vec::new();
    for nic in &b.config.nics {
        let port = nic.network.plug(&b.config.name, nic.mac).map_err(|e| {
            let what = format!("cannot plug a network device into {}", nic.network.name());
            MachineError::because(MachineErrorKind::Host, what, e)
        })?;
        let w = waker.clone();
        let wake: Notify = Arc::new(move || w.wake());
        let rom = nic.rom.as_ref().map(|rom| read(rom, "option ROM")).transpose()?;
        let (at, handle) = match nic.model {
            NicModel::Virtio => {
                let config = NetConfig { mac: nic.mac, pairs: b.config.cpus.min(MAX_PAIRS) as u16 };
                let (device, handle) = Net::new(port, &config, wake);
                let at = b.pci_function(|w| {
                    let function = VirtioPci::new(Box::new(device), w.memory, w.msi, w.intx)?;
                    rom.iter().try_fold(function, |f, rom| f.with_rom(rom))
                })?;
                (at, Arc::new(handle) as Arc<dyn Nic>)
            }
            NicModel::E1000 => e1000(b, nic.mac, port, wake, rom.as_deref())?,
        };
        b.built.bootable.push(Bootable::nic(at, format!("network {}", nic.network.name()), rom.is_some()));
        nics.push(handle);
    }
    b.built.net = Some(Arc::new(Drive { waker, nics, moving: Mutex::new(()) }));
    Ok(())
}

fn e1000(
    b: &mut Board<'_>,
    mac: MacAddr,
    port: Box<dyn NetPort>,
    wake: Notify,
    rom: Option<&[u8]>,
) -> Result<(PciAddress, Arc<dyn Nic>), MachineError> {
    let pci = b.built.pci.clone().ok_or(PciError::Full)?;
    let mut pci = pci.lock().unwrap_or_else(PoisonError::into_inner);
    let at = pci.free_device()?;
    let slot = b.timers.slot();
    let PciWires { memory, intx, .. } = b.pci_wires(at, pci.intx(at, IntxPin::A));
    let wires = E1000Wires { memory, intx, clock: b.clock.clone(), timer: slot.clone(), port, wake };
    let device = rom.iter().try_fold(E1000::new(mac, wires)?, |d, rom| d.with_rom(rom))?;
    let device = Arc::new(Mutex::new(device));
    slot.bind(Arc::new(Mutex::new(E1000Timer(Arc::downgrade(&device)))));
    pci.add(at, device.clone())?;
    Ok((at, Arc::new(E1000Handle::new(device))))
}

impl Drive {
    /// The devices.
    pub(crate) fn nics(&self) -> &[Arc<dyn Nic>] {
        &self.nics
    }

    /// Has the thread look again.
    pub(crate) fn wake(&self) {
        self.waker.wake();
    }

    /// Waits until nothing is being moved. Of a machine that is paused, nothing will be.
    pub(crate) fn settle(&self) {
        drop(self.moving.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The thread: runs until the machine stops.
    pub(crate) fn main(&self, control: &Control) {
        while control.stop_reason().is_none() {
            self.waker.drain();
            {
                let _moving = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
                if control.machine_state() != MachineState::Paused {
                    self.nics.iter().for_each(|n| n.pump());
                }
            }
            let mut fds = [PollFd::new(self.waker.fd(), PollFlags::POLLIN)];
            // Interrupted or not: the loop looks at everything again.
            let _ = poll(&mut fds, PollTimeout::NONE);
        }
    }
}
