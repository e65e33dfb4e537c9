//! The other end of a network's socket.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use visor_firewall::Rule;
use visor_host_net::{CablePort, connect_cable, receive_greeting, send_greeting};
use visor_net::{MacAddr, NetPort, Network};

use super::message::{Answer, MAX_MESSAGE, PlugRequest, Question, Welcome};
use super::place::Place;

/// A network in another process, for a machine of this one.
pub struct SharedNetwork {
    place: Place,
    forwards: Vec<String>,
    rules: Vec<Rule>,
    welcome: Mutex<Option<Welcome>>,
    /// Plugged in already, for the device that comes.
    waiting: Mutex<Option<CablePort>>,
}

impl SharedNetwork {
    /// The network at `place`. A guest that is plugged in gets `forwards` and `rules`.
    pub fn new(place: Place, forwards: Vec<String>, rules: Vec<Rule>) -> Self {
        SharedNetwork { place, forwards, rules, welcome: Mutex::new(None), waiting: Mutex::new(None) }
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

impl SharedNetwork {
    fn connect(&self, guest: &str, mac: MacAddr) -> io::Result<CablePort> {
        let request =
            PlugRequest { guest: guest.into(), mac, forwards: self.forwards.clone(), rules: self.rules.clone() };
        let (fd, answer) = talk(&self.place, &Question::Plug(request))?;
        match answer {
            Answer::Welcome(welcome) => {
                let port = CablePort::new(fd, welcome.mtu)?;
                *self.welcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(welcome);
                Ok(port)
            }
            Answer::Refused(why) => Err(io::Error::other(why)),
            _ => Err(ErrorKind::InvalidData.into()),
        }
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
