//! A guest by its name: a machine of that name, or a guest of a shared network.

use serde::Deserialize;
use serde_json::Value;
use visor_control::Places as Machines;
use visor_network::GuestRequest;
use visor_network::shared::{Answer, GuestStatus, NetworkStatus, Place, Question, ask};

use super::networks::{places, status};
use crate::machine::Target;
use crate::report::Failure;

/// Where a guest can be asked.
pub(super) enum GuestPlace {
    /// At its machine, which has a network of its own, or passes it on to its network.
    Machine(Target),
    /// At its network.
    Network(Place, GuestStatus),
}

impl GuestPlace {
    /// The guest called `name`.
    pub(super) fn find(name: &str) -> Result<GuestPlace, Failure> {
        if let Some((place, status)) = in_networks(name) {
            return Ok(GuestPlace::Network(place, status));
        }
        crate::machine::find(name).map(GuestPlace::Machine)
    }

    /// Asks about the guest.
    pub(super) fn request(&self, request: &GuestRequest) -> Result<Value, Failure> {
        match self {
            GuestPlace::Machine(target) => target.call("net.guest", &serde_json::json!({ "request": request })),
            GuestPlace::Network(place, guest) => {
                let question = Question::Guest { guest: guest.name.clone(), request: request.clone() };
                match ask(place, &question)? {
                    Answer::Value(value) => Ok(value),
                    Answer::Refused(why) => Err(Failure::new(why)),
                    other => Err(Failure::new(format!("an answer to another question: {other:?}"))),
                }
            }
        }
    }

    /// As [`GuestPlace::request`], with an answer of a certain form.
    pub(super) fn ask<T: for<'de> Deserialize<'de>>(&self, request: &GuestRequest) -> Result<T, Failure> {
        Ok(serde_json::from_value(self.request(request)?)?)
    }
}

/// A guest of a shared network that runs.
pub(super) fn in_networks(name: &str) -> Option<(Place, GuestStatus)> {
    let running = networks();
    running.into_iter().find_map(|(p, s)| s.guests.into_iter().find(|g| g.name == name).map(|g| (p, g)))
}

/// The networks that run.
pub(super) fn networks() -> Vec<(Place, NetworkStatus)> {
    places().all().into_iter().filter_map(|p| status(&p).map(|s| (p, s))).collect()
}

/// The machines that run and have a name.
pub(super) fn machines() -> Vec<Target> {
    let running = Machines::of_user().map(|p| p.running()).unwrap_or_default();
    running.iter().filter_map(|f| crate::machine::find(f.place.name()).ok()).collect()
}
