//! The other end of a network's socket.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use visor_firewall::Rule;
use visor_host_net::{CablePort, connect_cable, receive_greeting, send_greeting};
use visor_net::{MacAddr, NetPort, Network};

use super::message::{Answer, MAX_MESSAGE, PlugRequest, Question, VlanSpec, Welcome};
use super::place::Place;
use crate::live::GuestRequest;

/// What a guest brings along when it is plugged in.
#[derive(Clone, Debug, Default)]
pub struct Plug {
    /// Ports to be forwarded to it, as a person writes them.
    pub forwards: Vec<String>,
    /// Rules that open its firewall.
    pub rules: Vec<Rule>,
    /// Which VLANs its device sees.
    pub vlans: VlanSpec,
    /// Its permanent rules are kept under its name.
    pub named: bool,
}

/// A network in another process, for a machine of this one.
pub struct SharedNetwork {
    place: Place,
    plug: Plug,
    welcome: Mutex<Option<Welcome>>,
    guest: Mutex<String>,
    /// Plugged in already, for the device that comes.
    waiting: Mutex<Option<CablePort>>,
}

impl SharedNetwork {
    /// The network at `place`. A guest that is plugged in gets what `plug` says.
    pub fn new(place: Place, plug: Plug) -> Self {
        let (welcome, guest, waiting) = (Mutex::default(), Mutex::default(), Mutex::default());
        SharedNetwork { place, plug, welcome, guest, waiting }
    }

    /// Plugs a guest in before its device is there: what is known about it then can be told to the guest. The next
    /// [`Network::plug`] gets the cable.
    ///
    /// # Errors
    /// As [`Network::plug`].
    pub fn prepare(&self, guest: &str, mac: MacAddr) -> io::Result<()> {
        let port = self.connect(guest, mac)?;
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(port);
        Ok(())
    }

    /// What the network said to the device that was plugged in last.
    pub fn welcome(&self) -> Option<Welcome> {
        self.welcome.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks or changes something about the guest that was plugged in last.
    ///
    /// # Errors
    /// What is against it, in words.
    pub fn request(&self, request: &GuestRequest) -> Result<serde_json::Value, String> {
        let guest = self.guest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match ask(&self.place, &Question::Guest { guest, request: request.clone() }) {
            Ok(Answer::Value(value)) => Ok(value),
            Ok(Answer::Refused(why)) => Err(why),
            Ok(other) => Err(format!("an answer to another question: {other:?}")),
            Err(e) => Err(format!("the network {} does not answer: {e}", self.place.name)),
        }
    }

    fn connect(&self, guest: &str, mac: MacAddr) -> io::Result<CablePort> {
        let p = self.plug.clone();
        let request = PlugRequest {
            guest: guest.into(),
            mac,
            forwards: p.forwards,
            rules: p.rules,
            vlans: p.vlans,
            named: p.named,
        };
        let (port, welcome) = plug(&self.place, &Question::Plug(request))?;
        *self.welcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(welcome);
        *self.guest.lock().unwrap_or_else(PoisonError::into_inner) = guest.into();
        Ok(port)
    }
}

impl Network for SharedNetwork {
    fn name(&self) -> &str {
        &self.place.name
    }

    fn plug(&self, guest: &str, mac: MacAddr) -> io::Result<Box<dyn NetPort>> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(Box::new(waiting.map_or_else(|| self.connect(guest, mac), Ok)?))
    }
}

/// Plugs a shell of the host's user into the network at `place`.
///
/// # Errors
/// As [`Network::plug`].
pub fn plug_shell(place: &Place) -> io::Result<(CablePort, Welcome)> {
    plug(place, &Question::Shell)
}

fn plug(place: &Place, question: &Question) -> io::Result<(CablePort, Welcome)> {
    let (fd, answer) = talk(place, question)?;
    match answer {
        Answer::Welcome(welcome) => Ok((CablePort::new(fd, welcome.mtu)?, welcome)),
        Answer::Refused(why) => Err(io::Error::other(why)),
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

/// Asks the network at `place`.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` if it does not run, or what the kernel says.
pub fn ask(place: &Place, question: &Question) -> io::Result<Answer> {
    talk(place, question).map(|(_, answer)| answer)
}

fn talk(place: &Place, question: &Question) -> io::Result<(OwnedFd, Answer)> {
    let fd = connect_cable(&place.socket)?;
    send_greeting(&fd, &serde_json::to_vec(question)?)?;
    let answer = receive_greeting(&fd, MAX_MESSAGE)?;
    let answer = serde_json::from_slice(&answer).map_err(|e| io::Error::new(ErrorKind::InvalidData, e))?;
    Ok((fd, answer))
}
