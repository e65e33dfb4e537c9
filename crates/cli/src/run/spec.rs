//! From the command line to a machine and what to do with it.

use std::path::{Path, PathBuf};

use visor_disk::Access;
use visor_engine::EngineOptions;
use visor_image::Image;
use visor_machine::{Disk, EngineChoice, FileSource, MachineSpec};

use super::firmware;
use super::live::is_terminal;
use crate::args::{DebugArg, EngineArg, RunArgs, TuningArgs};
use crate::image;
use crate::report::Failure;

/// What the machine is for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Job {
    /// A kernel of the user's: its serial port is the console.
    Serial,
    /// A person at the console of an image.
    Shell,
    /// A command in an image, as the agent runs it.
    Command(Vec<String>),
}

/// Reads the command line; builds the image if it is wanted and missing.
pub(super) fn plan(args: &RunArgs, verbose: u8, quiet: bool) -> Result<(MachineSpec, Job), Failure> {
    let Some(name) = &args.image else {
        let mut spec = machine(args, args.kernel.clone())?;
        spec.firmware = firmware::plan(args, quiet)?;
        firmware::screen(args, &mut spec, quiet)?;
        return Ok((spec, Job::Serial));
    };
    let image = image::find_or_build(name, quiet)?;
    let job = job(&args.argv, is_terminal(std::io::stdin()));
    let mut spec = machine(args, Some(image.kernel()))?;
    boot_image(&mut spec, &image, &job, args.append.as_deref(), verbose)?;
    firmware::screen(args, &mut spec, quiet)?;
    Ok((spec, job))
}

/// Without a command: a shell on the console for a person, and a shell that reads its commands from standard input for a
/// program, which thereby gets clean output and the exit status.
fn job(argv: &[String], at_terminal: bool) -> Job {
    match argv {
        [] if at_terminal => Job::Shell,
        [] => Job::Command(vec!["sh".into()]),
        argv => Job::Command(argv.to_vec()),
    }
}

fn machine(args: &RunArgs, kernel: Option<PathBuf>) -> Result<MachineSpec, Failure> {
    Ok(MachineSpec {
        kernel: kernel.map(FileSource::Path),
        memory: args.memory,
        cpus: args.cpus,
        cpu_model: args.cpu.clone(),
        initrd: args.initrd.clone().map(FileSource::Path),
        cmdline: args.append.clone().unwrap_or_default(),
        disks: args.disk.iter().map(|d| open_disk(d)).collect::<Result<_, _>>()?,
        debug_exit: args.debug_exit,
        iommu: args.iommu,
        edu: args.edu,
        no_reboot: args.no_reboot,
        ..MachineSpec::default()
    })
}

/// The engine that the user wishes.
pub(super) fn wish(engine: EngineArg) -> EngineChoice {
    match engine {
        EngineArg::Auto => EngineChoice::Auto,
        EngineArg::Soft => EngineChoice::Soft,
        EngineArg::Kvm => EngineChoice::Kvm,
    }
}

/// What the user asked of it.
pub(super) fn engine_options(args: &TuningArgs) -> EngineOptions {
    let range = args.debug.iter().rev().find_map(|d| match d {
        DebugArg::TranslateRange(range) => Some(range.clone()),
        DebugArg::Lockstep => None,
    });
    EngineOptions {
        tier: args.tier,
        lockstep: args.debug.contains(&DebugArg::Lockstep),
        translate_range: range,
        code_cache: args.code_cache,
        perf_map: args.perf_map,
    }
}

fn boot_image(
    spec: &mut MachineSpec,
    image: &Image,
    job: &Job,
    append: Option<&str>,
    verbose: u8,
) -> Result<(), Failure> {
    spec.initrd = Some(FileSource::Path(image.initramfs()));
    spec.cmdline = kernel_args(image.kernel_args(), job, append, verbose);
    spec.disks.insert(0, Disk::open_raw(&image.root_disk(), Access::ReadOnly)?);
    // A command does not survive a restart of its machine, so that must be the end.
    spec.no_reboot |= matches!(job, Job::Command(_));
    Ok(())
}

/// The image's own words, those of the purpose, then the user's, which thereby have the last say.
fn kernel_args(own: &str, job: &Job, append: Option<&str>, verbose: u8) -> String {
    let mut words: Vec<&str> = own.split_whitespace().filter(|w| verbose == 0 || *w != "quiet").collect();
    words.push("console=ttyS0");
    if verbose > 1 {
        words.push("earlyprintk=ttyS0");
    }
    if matches!(job, Job::Command(_)) {
        words.push("visor.console=off");
    }
    words.extend(append);
    words.join(" ")
}

fn open_disk(text: &str) -> Result<Disk, Failure> {
    let (path, access) = disk(text);
    Ok(Disk::open_raw(path, access)?)
}

/// `FILE` or `FILE,ro`.
fn disk(text: &str) -> (&Path, Access) {
    match text.strip_suffix(",ro") {
        Some(path) => (Path::new(path), Access::ReadOnly),
        None => (Path::new(text), Access::ReadWrite),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks() {
        assert_eq!(disk("a,b.img"), (Path::new("a,b.img"), Access::ReadWrite));
        assert_eq!(disk("/x/c.img,ro"), (Path::new("/x/c.img"), Access::ReadOnly));
    }

    #[test]
    fn kernel_words_follow_the_purpose() {
        let command = Job::Command(vec!["true".into()]);
        assert_eq!(kernel_args("quiet rw", &command, Some("a b"), 0), "quiet rw console=ttyS0 visor.console=off a b");
        assert_eq!(kernel_args("quiet rw", &Job::Shell, None, 1), "rw console=ttyS0");
        assert!(kernel_args("quiet", &Job::Shell, None, 2).contains("earlyprintk=ttyS0"));
    }

    #[test]
    fn the_last_range_counts() {
        let debug = [DebugArg::TranslateRange(1..2), DebugArg::Lockstep, DebugArg::TranslateRange(5..6)];
        let options = engine_options(&TuningArgs { debug: debug.to_vec(), ..TuningArgs::default() });
        let expected = EngineOptions { lockstep: true, translate_range: Some(5..6), ..EngineOptions::default() };
        assert_eq!(options, expected);
        assert_eq!(engine_options(&TuningArgs::default()), EngineOptions::default());
    }

    #[test]
    fn programs_get_a_shell_without_a_console() {
        assert_eq!(job(&[], true), Job::Shell);
        assert_eq!(job(&[], false), Job::Command(vec!["sh".into()]));
        assert_eq!(job(&["ls".into()], true), Job::Command(vec!["ls".into()]));
    }
}
