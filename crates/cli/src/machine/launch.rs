//! Machines in the background: `visor launch`, `visor run --detach`.
//!
//! The machine is a process of its own session, started from the same command line; this process tells how far the boot has come
//! until the machine is up, then ends.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::builder::Resettable::Reset;
use clap::{Arg, ArgMatches, FromArgMatches};
use serde_json::{Value, json};
use visor_control::{ClaimError, Client, Place, Places};

use super::{claim_failure, place_failure};
use crate::report::Failure;
use crate::run::{NewDisks, RunArgs};
use crate::start::{Manner, StartLine};

/// Tells the process in the background that it is that, and the machine's name.
const BACKGROUND: &str = "VISOR_BACKGROUND";
/// Between two looks how far the boot is.
const LOOK: Duration = Duration::from_millis(50);
/// How long to wait for an image of ours.
const IMAGE: Duration = Duration::from_secs(600);
/// How long to wait for a system's boot loader: some show it in no way that can be seen from outside.
const SYSTEM: Duration = Duration::from_secs(20);

/// `visor run`'s arguments, with the machine's name behind the image, and with a default image.
#[derive(Debug)]
pub(crate) struct LaunchArgs {
    run: RunArgs,
    name: Option<String>,
}

impl clap::Args for LaunchArgs {
    fn augment_args(cmd: clap::Command) -> clap::Command {
        let image = |_| {
            Arg::new("image")
                .index(1)
                .value_name("IMAGE")
                .help("The image to boot: `tiny`, unless something else is given; beside that, the machine's name")
        };
        let name = Arg::new("machine").index(2).value_name("NAME").help("The machine's name");
        let cmd = RunArgs::augment_args(cmd).mut_arg("image", image).mut_arg("argv", |a| a.index(3)).arg(name);
        // The first word may be a name, so whether it fits is known later.
        ["boot", "boot_menu", "efi_vars"].into_iter().fold(cmd, |cmd, id| cmd.mut_arg(id, |a| a.conflicts_with(Reset)))
    }

    fn augment_args_for_update(cmd: clap::Command) -> clap::Command {
        Self::augment_args(cmd)
    }
}

impl FromArgMatches for LaunchArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(LaunchArgs { run: RunArgs::from_arg_matches(matches)?, name: matches.get_one("machine").cloned() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl LaunchArgs {
    /// The same as arguments of `visor run --detach`.
    pub(crate) fn into_run(self) -> RunArgs {
        let mut run = self.run;
        run.detach = true;
        let firmware = run.firmware.firmware.is_some();
        let else_to_boot = run.kernel.is_some() || !run.disk.is_empty() || !run.iso.is_empty() || firmware || run.empty;
        // `visor launch --iso debian.iso deb`: there is something to boot already, so that is the name.
        let named = run.image.take_if(|i| else_to_boot && self.name.is_none() && !crate::image::is_known(i));
        if let Some(name) = self.name.or(named) {
            run.network.set_name(&name);
        }
        if run.image.is_none() && !else_to_boot {
            run.image = Some("tiny".into());
        }
        run
    }
}

/// `visor run`, in the background if that is wished and not so already.
pub(crate) fn run(mut args: RunArgs, verbose: u8, quiet: bool) -> Result<u8, Failure> {
    match std::env::var(BACKGROUND) {
        Ok(name) if args.detach => {
            // The terminal of whoever started it must not take it along.
            let _ = nix::unistd::setsid();
            args.network.set_name(&name);
            NewDisks::recall(&mut args);
            crate::run::main(&args, verbose, quiet)
        }
        _ if args.detach => launch(&mut args, verbose, quiet),
        _ => {
            let mut disks = NewDisks::make(&mut args, quiet)?;
            crate::run::main(&args, verbose, quiet).inspect_err(|_| disks.undo())
        }
    }
}

fn launch(args: &mut RunArgs, verbose: u8, quiet: bool) -> Result<u8, Failure> {
    let f = &args.firmware;
    let through = args.empty || f.firmware.is_some() || !f.boot.is_empty() || f.boot_menu || f.efi_vars.is_some();
    if let Some(image) = args.image.as_ref().filter(|_| through || args.kernel.is_some()) {
        return Err(Failure::new(format!(
            "the image {image} has a kernel of its own, which is entered without firmware"
        ))
        .hint(format!(
            "leave out --kernel and the options of firmware, or the image: --name {image} if that is a name"
        )));
    }
    let places = Places::of_user().map_err(place_failure)?;
    let name = args.network.name().map_or_else(|| free_name(&places), ToOwned::to_owned);
    args.network.set_name(&name);
    let place = places.named(&name).map_err(place_failure)?;
    if let Some(found) = place.find() {
        return Err(claim_failure(ClaimError::Taken { name, record: found.record.map(Box::new) }));
    }
    let mut disks = NewDisks::make(args, quiet)?;
    let done = follow(&place, args, verbose, quiet);
    if !matches!(done, Ok(0)) {
        disks.undo();
    }
    done
}

/// Starts the machine and tells of its boot until it is up.
fn follow(place: &Place, args: &RunArgs, verbose: u8, quiet: bool) -> Result<u8, Failure> {
    let name = place.name();
    crate::run::rehearse(args, verbose, quiet)?;
    let mut child = spawn(place)?;
    let mut start = StartLine::new(name, if quiet { Manner::Silent } else { Manner::of_stderr() });
    let begin = Instant::now();
    let trouble = loop {
        if let Some(status) = child.try_wait()? {
            start.finish("", "\n");
            return ended(place, status);
        }
        let boot = ask(place, &child);
        show(&mut start, boot.as_ref());
        match boot.and_then(|b| is_up(&b, args, begin.elapsed())) {
            Some(trouble) => break trouble,
            None => std::thread::sleep(LOOK),
        }
    };
    start.finish(&format!("   {:.1} s", begin.elapsed().as_secs_f64()), "\n");
    println!("{name}");
    if !quiet {
        trouble.iter().for_each(|line| eprintln!("visor: {line}"));
        let screen = if args.image.is_none() && args.kernel.is_none() { "screen" } else { "console" };
        eprintln!("\n  visor {screen} {name}     visor info {name}     visor stop {name}");
    }
    Ok(0)
}

/// The same command line once more, as a process that nobody waits for.
fn spawn(place: &Place) -> Result<Child, Failure> {
    let log = place.new_log().map_err(|e| {
        Failure::from(anyhow::Error::from(e)).context(format!("cannot write {}", place.log().display()))
    })?;
    let program = std::env::current_exe()?;
    Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(BACKGROUND, place.name())
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(|e| Failure::from(anyhow::Error::from(e)).context("cannot start the machine's process"))
}

/// How far the boot is, once the machine answers.
fn ask(place: &Place, child: &Child) -> Option<Value> {
    // Somebody else may have been quicker with the name.
    place.record().filter(|r| r.pid == child.id())?;
    Client::connect(place).ok()?.call("info.timeline", &json!({})).ok()
}

/// What is to be told of a machine that has come as far as a boot can be followed; nothing while it has not.
fn is_up(boot: &Value, args: &RunArgs, waited: Duration) -> Option<Vec<String>> {
    if let Some(trouble) = boot["trouble"].as_array() {
        return Some(trouble.iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect());
    }
    let reached = |phase: &str| boot["events"].as_array().into_iter().flatten().any(|e| e["phase"] == phase);
    let (up, patience) = match (&args.image, &args.kernel) {
        // What a command does is its own affair.
        (Some(_), _) => (reached("ready") || !args.argv.is_empty(), IMAGE),
        (_, Some(_)) => (reached("kernel"), SYSTEM),
        _ => (["boot loader", "kernel", "init"].into_iter().any(reached), SYSTEM),
    };
    (up || waited >= patience).then(Vec::new)
}

/// The machine ended before it was up.
fn ended(place: &Place, status: std::process::ExitStatus) -> Result<u8, Failure> {
    let said = std::fs::read_to_string(place.log()).unwrap_or_default();
    let code = status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(crate::report::FAILED);
    if code == 0 {
        eprint!("{said}");
        eprintln!("visor: {} has ended already", place.name());
        return Ok(0);
    }
    let mut lines = said.lines();
    let what = lines.find_map(|l| l.strip_prefix("error: ")).unwrap_or("the machine ended before it was up");
    let failure = Failure { status: code, ..Failure::new(what) };
    Err(lines.map(str::trim_start).fold(failure, Failure::hint))
}

/// Tells of the phases that the machine has reported.
fn show(start: &mut StartLine, boot: Option<&Value>) {
    let events = boot.and_then(|b| b["events"].as_array()).map(Vec::as_slice).unwrap_or_default();
    let phase = |e: &Value| (e["phase"].as_str().unwrap_or_default().to_owned(), e["seconds"].as_f64());
    let told: Vec<_> = events.iter().map(phase).collect();
    start.phases(told.iter().map(|(phase, at)| (phase.as_str(), at.unwrap_or_default())), "\n");
}

/// A name that no machine has.
fn free_name(places: &Places) -> String {
    const HOW: [&str; 16] = [
        "calm", "brave", "quick", "quiet", "bright", "clever", "gentle", "happy", "keen", "lucky", "merry", "noble",
        "proud", "swift", "warm", "wise",
    ];
    const WHO: [&str; 16] = [
        "otter", "heron", "badger", "falcon", "lynx", "marten", "owl", "raven", "robin", "seal", "stork", "swan",
        "tern", "trout", "wolf", "wren",
    ];
    let running: Vec<String> = places.running().iter().map(|f| f.place.name().to_owned()).collect();
    let random = |salt: u64| {
        use std::hash::{BuildHasher, RandomState};
        RandomState::new().hash_one(salt) as usize
    };
    let name = |n: usize| format!("{}-{}", HOW[n % 16], WHO[n / 16 % 16]);
    // With many machines a number makes it another name.
    (0..64)
        .map(|i| name(random(i)))
        .find(|n| !running.contains(n))
        .unwrap_or_else(|| format!("{}-{}", name(random(64)), random(65) % 1_000_000))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Args, Command};

    fn launched(line: &str) -> Result<RunArgs, clap::Error> {
        match Args::try_parse_from(line.split(' '))?.command {
            Command::Launch(launch) => Ok(launch.into_run()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_launch_is_a_run_in_the_background() {
        let run = launched("visor launch").unwrap();
        assert_eq!((run.image.as_deref(), run.network.name(), run.detach), (Some("tiny"), None, true));
        let run = launched("visor launch tiny web -p 8080:80 -- sleep 5").unwrap();
        assert_eq!((run.image.as_deref(), run.network.name()), (Some("tiny"), Some("web")));
        assert_eq!(run.argv, ["sleep", "5"]);
        let run = launched("visor launch --iso x.iso --disk d --name deb").unwrap();
        assert_eq!((run.image, run.iso.len()), (None, 1));
        assert!(launched("visor launch tiny web more").is_err());
        let run = launched("visor launch --iso x.iso --firmware uefi --boot cd,disk deb --disk 20G").unwrap();
        assert_eq!((run.image.as_deref(), run.network.name()), (None, Some("deb")));
        let run = launched("visor launch --empty bare").unwrap();
        assert_eq!((run.image, run.network.name(), run.empty), (None, Some("bare"), true));
        let run = launched("visor launch tiny --disk data web").unwrap();
        assert_eq!((run.image.as_deref(), run.network.name()), (Some("tiny"), Some("web")));
    }

    #[test]
    fn a_boot_is_followed_as_far_as_it_can_be() {
        let args = |line: &str| launched(line).unwrap();
        let boot = |phases: &[&str]| {
            let events: Vec<Value> = phases.iter().map(|p| json!({ "phase": p, "seconds": 0.1 })).collect();
            json!({ "events": events, "trouble": null })
        };
        let (image, disk) = (args("visor launch"), args("visor launch --disk d"));
        assert_eq!(is_up(&boot(&["power on", "init"]), &image, SYSTEM), None);
        assert_eq!(is_up(&boot(&["ready"]), &image, Duration::ZERO), Some(vec![]));
        assert_eq!(is_up(&boot(&["POST"]), &disk, Duration::ZERO), None);
        assert_eq!(is_up(&boot(&["POST"]), &disk, SYSTEM), Some(vec![]));
        assert_eq!(is_up(&boot(&["boot loader"]), &disk, Duration::ZERO), Some(vec![]));
        let trouble = json!({ "events": [], "trouble": ["nothing to boot", "insert a disc"] });
        assert_eq!(is_up(&trouble, &disk, Duration::ZERO).unwrap().len(), 2);
    }

    #[test]
    fn chosen_names_are_names() {
        let dir = std::env::temp_dir().join(format!("visor-names-{}", std::process::id()));
        let places = Places::new(&dir).unwrap();
        assert!(places.named(&free_name(&places)).is_ok());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
