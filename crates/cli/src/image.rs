//! `visor image`: building and listing guest images.

use clap::Subcommand;
use serde_json::json;
use visor_image::{Image, ImageBuilder, ImageError, ImageStore, Phase, Progress};

use crate::progress::{Phases, Unit};
use crate::report::Failure;

#[derive(Subcommand, Debug)]
pub(crate) enum ImageCommand {
    /// Build an image from Debian packages (fetched by name, verified, cached).
    #[command(
        after_help = "Examples:\n  visor image build tiny\n  visor image build tiny --refresh\n  visor -q image build tiny"
    )]
    Build {
        /// Which image: `tiny`.
        name: String,
        /// Look for newer packages even if a built image is there.
        #[arg(long)]
        refresh: bool,
    },
    /// List the images on this machine.
    #[command(visible_alias = "list", after_help = "Examples:\n  visor image ls\n  visor image ls --json")]
    Ls {
        /// Print the list as JSON.
        #[arg(long)]
        json: bool,
    },
}

/// The one image there is so far.
const TINY: &str = "tiny";

/// Runs an image command.
pub(crate) fn main(command: &ImageCommand, quiet: bool) -> Result<u8, Failure> {
    match command {
        ImageCommand::Build { name, refresh } => {
            known(name)?;
            let image = if *refresh { build(quiet)? } else { find_or_build(name, quiet)? };
            println!("{}", image.directory().display());
            Ok(0)
        }
        ImageCommand::Ls { json } => list(*json),
    }
}

/// The image `name`, built first if it is not there.
pub(crate) fn find_or_build(name: &str, quiet: bool) -> Result<Image, Failure> {
    known(name)?;
    if let Some(image) = store().tiny() {
        return Ok(image);
    }
    // Without a network, an image that another visor made is better than none.
    build(quiet).or_else(|failure| match store().any_tiny() {
        Some(old) => {
            let why = format!("{:#}", failure.error);
            eprintln!("visor: {why}; taking the image that another version of visor made");
            Ok(old)
        }
        None => Err(failure),
    })
}

fn store() -> ImageStore {
    ImageStore::open(&ImageStore::default_directory())
}

/// Whether there is an image of this name, or can be.
pub(crate) fn is_known(name: &str) -> bool {
    name == TINY
}

fn known(name: &str) -> Result<(), Failure> {
    if is_known(name) {
        return Ok(());
    }
    let failure = Failure::new(format!("no image `{name}`")).hint("the image there is: visor run tiny");
    let path = std::path::Path::new(name);
    Err(if path.exists() { failure.hint(format!("to boot a kernel file: visor run --kernel {name}")) } else { failure })
}

fn build(quiet: bool) -> Result<Image, Failure> {
    let mut watcher = Watcher::new(quiet);
    ImageBuilder::new(store()).build(&mut watcher).map_err(failed)
}

fn failed(error: ImageError) -> Failure {
    let hint = error.hint();
    Failure::from(anyhow::Error::from(error).context("the image `tiny` could not be built")).hint(hint)
}

/// Shows the phases of a build or a download.
pub(crate) struct Watcher(Phases);

impl Watcher {
    pub(crate) fn new(quiet: bool) -> Self {
        Watcher(Phases::new(quiet))
    }
}

impl Progress for Watcher {
    fn phase(&mut self, phase: Phase, total: u64) {
        let (name, unit) = match phase {
            Phase::Resolve => ("choosing packages", Unit::Pieces),
            Phase::Download => ("downloading", Unit::Bytes),
            Phase::Verify => ("verifying", Unit::Bytes),
            Phase::Unpack => ("unpacking", Unit::Pieces),
            Phase::Modules => ("choosing modules", Unit::Pieces),
            Phase::Assemble => ("writing the image", Unit::Pieces),
            Phase::Done => return self.0.finish(),
        };
        self.0.start(name, (total > 0).then_some(total), unit);
    }

    fn at(&mut self, done: u64) {
        self.0.at(done);
    }

    fn note(&mut self, text: &str) {
        self.0.note(text);
    }
}

fn list(as_json: bool) -> Result<u8, Failure> {
    let images: Vec<Image> = store().tiny().into_iter().collect();
    if as_json {
        let list: Vec<_> = images
            .iter()
            .map(|i| {
                json!({
                    "name": i.manifest().name,
                    "digest": i.manifest().digest,
                    "kernel": i.kernel(),
                    "initrd": i.initramfs(),
                    "disk": i.root_disk(),
                    "args": i.kernel_args(),
                    "kernel_release": i.manifest().kernel_release,
                    "bytes": size(i),
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&list)?);
        return Ok(0);
    }
    println!("{:<8} {:<14} {:>9}  KERNEL", "NAME", "DIGEST", "SIZE");
    for image in &images {
        let m = image.manifest();
        let digest: String = m.digest.chars().take(12).collect();
        println!("{:<8} {digest:<14} {:>5} MiB  {}", m.name, size(image) >> 20, m.kernel_release);
    }
    if images.is_empty() {
        eprintln!("none yet; `visor image build tiny` makes one, and so does `visor run tiny`");
    }
    Ok(0)
}

/// Bytes of all files of an image.
fn size(image: &Image) -> u64 {
    image.manifest().files.values().map(|f| f.size).sum()
}
