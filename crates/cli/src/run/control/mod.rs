//! A running machine's side of its control socket: a file for each domain of verbs, and the table of them. How to add one stands on the
//! page of `visor_control`.
//!
//! Verbs run in the threads of their clients. What is the main thread's - its agent session, its end - is asked of it by [`Wishes`].

mod console;
mod disc;
mod disk;
mod exec;
mod info;
mod net;
mod power;
mod screen;

use std::sync::{Arc, Mutex, OnceLock};

use visor_control::{Claim, MachineRecord, Places, Server, Verb, Verbs};
use visor_machine::Machine;

use super::hub::Hub;
use super::live::{Live, Wishes};
use super::network::Attached;
use crate::report::Failure;
use crate::run::RunArgs;

/// What verbs work on.
pub(super) struct Context {
    /// The machine.
    pub(super) machine: Arc<Machine>,
    /// What it is plugged into.
    pub(super) network: Attached,
    /// What it tells of itself.
    pub(super) record: MachineRecord,
    /// Where the main thread is asked for something.
    pub(super) wishes: Wishes,
    /// Which engine runs its CPUs.
    pub(super) engine: String,
    /// The console's output.
    pub(super) hub: Arc<Hub>,
    /// What keeps the guest from booting, if something does.
    pub(super) trouble: Arc<OnceLock<Vec<String>>>,
    /// The guest has an agent.
    pub(super) agent: bool,
    /// Held by who types.
    pub(super) typing: Mutex<()>,
}

/// All verbs.
const DOMAINS: &[&[Verb<Context>]] =
    &[info::VERBS, power::VERBS, screen::VERBS, disc::VERBS, console::VERBS, exec::VERBS, disk::VERBS, net::VERBS];

/// The name of a machine, and its socket while it runs.
pub(super) struct Named {
    // Ends first: until then the name is taken.
    server: Option<Server>,
    claim: Claim,
    record: MachineRecord,
    agent: bool,
}

impl Named {
    /// Takes the name that the arguments give, if they do.
    pub(super) fn claim(args: &RunArgs) -> Result<Option<Self>, Failure> {
        let Some(name) = args.network.name() else { return Ok(None) };
        let place = Places::of_user().and_then(|p| p.named(name)).map_err(crate::machine::place_failure)?;
        let claim = Claim::take(&place).map_err(crate::machine::claim_failure)?;
        let record = record(name, args);
        claim.describe(&record).map_err(|e| crate::machine::unwritable(name, e))?;
        Ok(Some(Named { server: None, claim, record, agent: args.image.is_some() }))
    }

    /// Answers requests from now on.
    pub(super) fn serve(&mut self, live: &Live, network: &Attached) -> Result<(), Failure> {
        let context = Context {
            machine: live.machine().clone(),
            network: network.clone(),
            record: self.record.clone(),
            wishes: live.wishes().clone(),
            engine: live.engine_name(),
            hub: live.hub().clone(),
            trouble: live.trouble().clone(),
            agent: self.agent,
            typing: Mutex::default(),
        };
        let server = Server::start(self.claim.place(), Arc::new(Verbs::new(context, DOMAINS)));
        self.server = Some(server.map_err(|e| {
            Failure::from(anyhow::Error::from(e).context("the machine's control socket cannot be made"))
                .hint("without --name the machine needs none")
        })?);
        Ok(())
    }
}

fn record(name: &str, args: &RunArgs) -> MachineRecord {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    MachineRecord {
        name: name.into(),
        pid: std::process::id(),
        started: now.as_secs(),
        visor: env!("CARGO_PKG_VERSION").into(),
        image: boots(args),
        memory: args.memory,
        cpus: args.cpus,
        detached: args.detach,
        ..MachineRecord::default()
    }
}

/// What is started, in a few words.
pub(super) fn boots(args: &RunArgs) -> String {
    let file = |kind: &str, path: &std::path::Path| {
        format!("{kind} {}", path.file_name().unwrap_or(path.as_os_str()).to_string_lossy())
    };
    match (&args.image, &args.kernel, args.iso.first(), args.disk.first()) {
        (Some(image), ..) => image.clone(),
        (_, Some(kernel), ..) => file("kernel", kernel),
        (_, _, Some(iso), _) => file("iso", iso),
        (_, _, _, Some(disk)) => file("disk", disk.split(',').next().unwrap_or(disk).as_ref()),
        _ => "empty machine".into(),
    }
}
