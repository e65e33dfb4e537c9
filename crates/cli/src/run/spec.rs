//! From the command line to a machine and what to do with it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use visor_disk::{
    Access, FaultPlan, FaultyDisk, Format, ImageOptions, Limits, NbdAddress, Throttle, TlsFiles, is_remote,
};
use visor_engine::EngineOptions;
use visor_image::Image;
use visor_machine::{Cd, CdBus, Disk, DiskBus, EngineChoice, FileSource, MachineSpec};

use super::args::{BusArg, DebugArg, EngineArg, RunArgs, TuningArgs};
use super::live::is_terminal;
use super::{disc, firmware};
use crate::disk::WebArgs;
use crate::image;
use crate::report::Failure;
use crate::values::parse_size;

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
        disc::check(&args.iso, &spec, quiet)?;
        return Ok((spec, Job::Serial));
    };
    let image = image::find_or_build(name, quiet)?;
    let job = job(&args.argv, is_terminal(std::io::stdin()) || args.detach);
    let mut spec = machine(args, Some(image.kernel()))?;
    boot_image(&mut spec, &image, &job, args, verbose)?;
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
    let bus = bus(args);
    let cd_bus = if bus == DiskBus::Scsi { CdBus::Scsi } else { CdBus::Ide };
    let open = |d: &String| open_disk(d).map(|d| d.on(bus));
    Ok(MachineSpec {
        kernel: kernel.map(FileSource::Path),
        memory: args.memory,
        cpus: args.cpus,
        cpu_model: args.cpu.clone(),
        initrd: args.initrd.clone().map(FileSource::Path),
        cmdline: args.append.clone().unwrap_or_default(),
        disks: args.disk.iter().map(open).collect::<Result<_, _>>()?,
        cds: drives(args, cd_bus)?,
        debug_exit: args.debug_exit,
        iommu: args.iommu,
        edu: args.edu,
        no_reboot: args.no_reboot,
        timeline: true,
        ..MachineSpec::default()
    })
}

/// The CD-ROM drives: those with discs, then the empty one.
fn drives(args: &RunArgs, bus: CdBus) -> Result<Vec<Cd>, Failure> {
    let mut drives = args.iso.iter().map(|i| Cd::open(i)).collect::<Result<Vec<_>, _>>()?;
    drives.extend((args.cd || args.empty).then(Cd::default));
    Ok(drives.into_iter().map(|drive| Cd { bus, ..drive }).collect())
}

/// Where disks go: they are `sda`, `sdb`, ... in their order. What a firmware finds may be any system, and every system knows IDE; a kernel
/// that is booted directly is one for virtual machines, and the SCSI adapter has room for more disks, also while it runs.
fn bus(args: &RunArgs) -> DiskBus {
    let through_firmware = args.image.is_none() && (args.kernel.is_none() || args.firmware.firmware.is_some());
    match args.bus {
        None if through_firmware => DiskBus::Ide,
        None | Some(BusArg::Scsi) => DiskBus::Scsi,
        Some(BusArg::Virtio) => DiskBus::Virtio,
        Some(BusArg::Ide) => DiskBus::Ide,
    }
}

/// The engine that the user wishes.
pub(super) fn wish(engine: EngineArg) -> EngineChoice {
    match engine {
        EngineArg::Auto => EngineChoice::Auto,
        EngineArg::Soft => EngineChoice::Soft,
        EngineArg::Kvm => EngineChoice::Kvm,
    }
}

/// What the user asked of it; `count` for the statistics.
pub(super) fn engine_options(args: &TuningArgs, count: bool) -> EngineOptions {
    let range = args.debug.iter().rev().find_map(|d| match d {
        DebugArg::TranslateRange(range) => Some(range.clone()),
        DebugArg::Lockstep | DebugArg::ExactFlags => None,
    });
    EngineOptions {
        tier: args.tier,
        lockstep: args.debug.contains(&DebugArg::Lockstep),
        translate_range: range,
        exact_flags: args.debug.contains(&DebugArg::ExactFlags),
        code_cache: args.code_cache,
        count,
        perf_map: args.perf_map,
    }
}

fn boot_image(spec: &mut MachineSpec, image: &Image, job: &Job, args: &RunArgs, verbose: u8) -> Result<(), Failure> {
    spec.initrd = Some(FileSource::Path(image.initramfs()));
    spec.cmdline = kernel_args(image.kernel_args(), job, args.append.as_deref(), verbose);
    let bus = bus(args);
    spec.disks.insert(0, Disk::open_raw(&image.root_disk(), Access::ReadOnly)?.on(bus));
    // An ATA disk cannot tell that it may not be written.
    if bus == DiskBus::Ide {
        spec.cmdline.push_str(" ro");
    }
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

/// Opens a disk that is written as `--disk` has it.
pub(super) fn open_disk(text: &str) -> Result<Disk, Failure> {
    let wish = disk(text)?;
    let mut disk = if NbdAddress::is_one(wish.name) {
        let backend = crate::disk::connect(wish.name, wish.access == Access::ReadOnly, &wish.tls)?;
        Disk { backend, serial: "nbd".into(), file: None, bus: visor_machine::DiskBus::default() }
    } else if let Some((pool, volume)) = crate::pool::volume(wish.name) {
        let mut backend = crate::pool::open(pool, volume, wish.access == Access::ReadOnly)?;
        if wish.encrypted || wish.key_file.is_some() {
            backend = crate::disk::unlock(backend, Path::new(wish.name), wish.key_file)?;
        }
        Disk { backend, serial: volume.to_owned(), file: None, bus: visor_machine::DiskBus::default() }
    } else if is_remote(wish.name) {
        if wish.access != Access::ReadOnly {
            return Err(Failure::new(format!("{} can only be read", wish.name))
                .hint(format!("--disk {},ro attaches it like that", wish.name))
                .hint(format!(
                    "visor disk create NAME --backing {} makes a disk of it that can be written",
                    wish.name
                )));
        }
        let access = WebArgs { ca: wish.tls.ca.clone(), auth_file: wish.auth_file.map(Into::into), cache: wish.cache };
        let backend = crate::disk::web_disk(wish.name, wish.format, &access)?;
        Disk { backend, serial: "web".into(), file: None, bus: visor_machine::DiskBus::default() }
    } else {
        let path = crate::disk::find(wish.name)?;
        let format = wish.format.or_else(|| crate::disk::outer(&path));
        let options = ImageOptions {
            format,
            policy: crate::disk::policy(),
            remote: crate::disk::opener(),
            ..ImageOptions::new(wish.access)
        };
        let mut disk = Disk::open(&path, &options).map_err(crate::disk::machine_failure)?;
        if wish.encrypted || wish.key_file.is_some() || crate::disk::is_encrypted(&path) {
            disk.backend = crate::disk::unlock(disk.backend, &path, wish.key_file)?;
        }
        disk
    };
    if let Some(plan) = wish.faults {
        disk.backend = Arc::new(FaultyDisk::new(disk.backend, plan));
    }
    // Without limits too: they can be set while the machine runs.
    disk.backend = Arc::new(Throttle::new(disk.backend, wish.limits).map_err(crate::disk::failure)?);
    Ok(disk)
}

/// A disk as the command line has it: its name, and the rest with the comma.
pub(crate) fn split_disk(text: &str) -> Result<(&str, &str), Failure> {
    let name = disk(text)?.name;
    Ok(text.split_at(name.len()))
}

/// A disk as the command line has it.
#[derive(Debug, PartialEq, Eq)]
struct DiskWish<'a> {
    name: &'a str,
    access: Access,
    format: Option<Format>,
    limits: Limits,
    faults: Option<FaultPlan>,
    /// A volume of LUKS, which is opened with this key, that of the keyring, or a person's.
    encrypted: bool,
    key_file: Option<&'a Path>,
    /// Of a disk of the network.
    tls: TlsFiles,
    /// Of a file of a web server.
    auth_file: Option<&'a Path>,
    cache: Option<u64>,
}

/// `FILE` with `,ro`, `,format=NAME`, `,iops=N`, `,bps=SIZE`, `,key-file=FILE`, `,tls-ca=FILE`,
/// `,tls-cert=FILE`, `,tls-key=FILE`, `,tls-name=NAME`, `,fault=PLAN` behind it.
fn disk(text: &str) -> Result<DiskWish<'_>, Failure> {
    let mut wish = DiskWish {
        name: text,
        access: Access::ReadWrite,
        format: None,
        limits: Limits::default(),
        faults: None,
        encrypted: false,
        key_file: None,
        tls: TlsFiles::default(),
        auth_file: None,
        cache: None,
    };
    while let Some((rest, word)) = wish.name.rsplit_once(',') {
        let bad = |what: String| Failure::new(what).hint("write for example data,ro,iops=500,bps=20M");
        match word.split_once('=') {
            None if word == "ro" => wish.access = Access::ReadOnly,
            Some(("key-file", f)) if !f.is_empty() => wish.key_file = Some(Path::new(f)),
            Some(("auth-file", f)) => wish.auth_file = Some(Path::new(f)),
            Some(("cache", n)) => wish.cache = Some(parse_size(n).map_err(|e| bad(format!("size of the cache: {e}")))?),
            Some(("tls-ca", f)) => wish.tls.ca = Some(f.into()),
            Some(("tls-cert", f)) => wish.tls.cert = Some(f.into()),
            Some(("tls-key", f)) => wish.tls.key = Some(f.into()),
            Some(("tls-name", n)) => wish.tls.server_name = Some(n.to_owned()),
            Some(("format", "luks")) => (wish.encrypted, wish.format) = (true, Some(Format::Raw)),
            Some(("format", f)) => {
                let names: Vec<_> = Format::ALL.iter().map(|f| f.name()).collect();
                let unknown = || bad(format!("no disk format `{f}`; there are {}", names.join(", ")));
                wish.format = Some(Format::parse(f).ok_or_else(unknown)?);
            }
            Some(("iops", n)) => {
                wish.limits.iops = n.parse().map_err(|_| bad(format!("`{n}` is no number of requests per second")))?;
            }
            Some(("bps", n)) => wish.limits.bps = parse_size(n).map_err(|e| bad(format!("bytes per second: {e}")))?,
            Some(("fault", plan)) => wish.faults = Some(FaultPlan::parse(plan).map_err(bad)?),
            // A comma of the name.
            _ => break,
        }
        wish.name = rest;
    }
    Ok(wish)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks() {
        let plain = |name, access, format| DiskWish {
            name,
            access,
            format,
            limits: Limits::default(),
            faults: None,
            encrypted: false,
            key_file: None,
            tls: TlsFiles::default(),
            auth_file: None,
            cache: None,
        };
        assert_eq!(disk("a,b.img").unwrap(), plain("a,b.img", Access::ReadWrite, None));
        assert_eq!(disk("/x/c.img,ro").unwrap(), plain("/x/c.img", Access::ReadOnly, None));
        assert_eq!(disk("c,format=qcow2,ro").unwrap(), plain("c", Access::ReadOnly, Some(Format::Qcow2)));
        let limits = Limits { iops: 500, bps: 20 << 20 };
        assert_eq!(disk("c,iops=500,bps=20M").unwrap(), DiskWish { limits, ..plain("c", Access::ReadWrite, None) });
        assert_eq!(split_disk("a,b.img,ro,iops=5").unwrap(), ("a,b.img", ",ro,iops=5"));
        let key = disk("c.img,format=luks,key-file=/k").unwrap();
        assert_eq!((key.name, key.encrypted, key.format), ("c.img", true, Some(Format::Raw)));
        assert_eq!(key.key_file, Some(Path::new("/k")));
        assert!(disk("c,iops=many").is_err());
        assert!(disk("c,format=floppy").is_err());
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
        let options = engine_options(&TuningArgs { debug: debug.to_vec(), ..TuningArgs::default() }, false);
        let expected = EngineOptions { lockstep: true, translate_range: Some(5..6), ..EngineOptions::default() };
        assert_eq!(options, expected);
        assert_eq!(engine_options(&TuningArgs::default(), false), EngineOptions::default());
    }

    #[test]
    fn programs_get_a_shell_without_a_console() {
        assert_eq!(job(&[], true), Job::Shell);
        assert_eq!(job(&[], false), Job::Command(vec!["sh".into()]));
        assert_eq!(job(&["ls".into()], true), Job::Command(vec!["ls".into()]));
    }
}
