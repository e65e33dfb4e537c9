//! Debian packages through the host's own apt, as an ordinary user.
//!
//! apt's lists, caches and state lie in visor's cache, so neither root nor filled `/var/lib/apt/lists` are needed; the
//! sources, keys and proxies are the host's. apt checks the signatures of the package lists; the packages are compared
//! here with the hashes in those lists, and kept by hash.

mod control;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use crate::error::{ImageError, ImageErrorKind, IoContext};
use crate::progress::{Phase, Progress};
pub(crate) use control::{Package, parse_packages};

/// Package lists younger than this are used as they are.
const FRESH: Duration = Duration::from_secs(24 * 3600);

/// The host's apt with state of its own.
pub(crate) struct Apt {
    directory: PathBuf,
    config: PathBuf,
    programs: PathBuf,
}

impl Apt {
    /// Prepares apt's directories below `directory`. `programs` is empty, or (for tests) a directory that holds the
    /// only `apt-get`, `apt-cache` and `dpkg-deb` to use.
    pub(crate) fn new(directory: &Path, programs: &Path) -> Result<Self, ImageError> {
        // apt.conf(5) has no way to write a quote within a quoted value.
        if directory.to_string_lossy().contains(['"', '\n']) {
            let words = format!("apt cannot work in {}: the name has a quote", directory.display());
            return Err(ImageError::new(ImageErrorKind::Io, words));
        }
        for name in ["lists/partial", "cache/archives/partial", "state", "log", "debs"] {
            let path = directory.join(name);
            fs::create_dir_all(&path).doing("create", &path)?;
        }
        let status = directory.join("status");
        // No package counts as installed: what is chosen must not depend on the host.
        fs::write(&status, "").doing("write", &status)?;
        let config = directory.join("apt.conf");
        fs::write(&config, configuration(directory)).doing("write", &config)?;
        Ok(Self { directory: directory.to_owned(), config, programs: programs.to_owned() })
    }

    /// Fetches the package lists unless they are fresh; `now`: even then. Old lists are better than none.
    pub(crate) fn update(&self, now: bool, progress: &mut dyn Progress) -> Result<(), ImageError> {
        let stamp = self.directory.join("updated");
        let age =
            fs::metadata(&stamp).and_then(|m| m.modified()).ok().and_then(|t| SystemTime::now().duration_since(t).ok());
        if !now && age.is_some_and(|a| a < FRESH) {
            return Ok(());
        }
        progress.note("fetching the package lists");
        let output = self.run("apt-get", &["update", "-q", "--error-on=any"])?;
        if output.status.success() {
            return fs::write(&stamp, "").doing("write", &stamp);
        }
        let words = complaint(&output);
        if age.is_some() {
            progress.note(&format!("using the package lists of an earlier build: {words}"));
            return Ok(());
        }
        Err(ImageError::new(network_or_space(&words), format!("the package lists cannot be fetched: {words}")))
    }

    /// The candidates of these packages, as the lists describe them. Unknown names are left out.
    pub(crate) fn show(&self, names: &[String]) -> Result<Vec<Package>, ImageError> {
        let mut arguments = vec!["show", "--no-all-versions"];
        arguments.extend(names.iter().map(String::as_str));
        // apt-cache fails when any name is unknown, and still prints the others.
        let output = self.run("apt-cache", &arguments)?;
        Ok(parse_packages(&String::from_utf8_lossy(&output.stdout)))
    }

    /// Fetches those packages that are not in the cache.
    pub(crate) fn download(&self, packages: &[Package], progress: &mut dyn Progress) -> Result<(), ImageError> {
        let missing: Vec<&Package> = packages.iter().filter(|p| !self.deb(p).is_file()).collect();
        let total = missing.iter().map(|p| p.size).sum();
        progress.phase(Phase::Download, total);
        if missing.is_empty() {
            return Ok(());
        }
        let partial = tempfile::Builder::new()
            .prefix("partial-")
            .tempdir_in(&self.directory)
            .doing("create a directory in", &self.directory)?;
        let wanted: Vec<String> = missing.iter().map(|p| format!("{}={}", p.name, p.version)).collect();
        self.fetch(&wanted, partial.path(), total, progress)?;
        for package in missing {
            let file = find_deb(partial.path(), package)?;
            let target = self.deb(package);
            fs::rename(&file, &target).doing("move a package to", &target)?;
        }
        progress.at(total);
        Ok(())
    }

    /// Compares packages with their hashes; returns those that differ, deleted from the cache.
    pub(crate) fn verify(&self, packages: &[Package], progress: &mut dyn Progress) -> Result<Vec<Package>, ImageError> {
        progress.phase(Phase::Verify, packages.iter().map(|p| p.size).sum());
        let (mut done, mut bad) = (0, Vec::new());
        for package in packages {
            let path = self.deb(package);
            if hash_file(&path)? != package.sha256 {
                progress.note(&format!("{} is damaged", package.name));
                fs::remove_file(&path).doing("remove", &path)?;
                bad.push(package.clone());
            }
            done += package.size;
            progress.at(done);
        }
        Ok(bad)
    }

    /// Unpacks a package into `target`.
    pub(crate) fn unpack(&self, package: &Package, target: &Path) -> Result<(), ImageError> {
        let (deb, target) = (self.deb(package), target.to_string_lossy().into_owned());
        let output = self.run("dpkg-deb", &["--extract", &deb.to_string_lossy(), &target])?;
        if output.status.success() {
            return Ok(());
        }
        let words = complaint(&output);
        let kind = if words.contains("No space left") { ImageErrorKind::NoSpace } else { ImageErrorKind::Format };
        Err(ImageError::new(kind, format!("package {} cannot be unpacked: {words}", package.name)))
    }

    /// Where the cache keeps a package.
    fn deb(&self, package: &Package) -> PathBuf {
        self.directory.join("debs").join(format!("{}.deb", package.sha256))
    }

    fn fetch(&self, wanted: &[String], into: &Path, total: u64, progress: &mut dyn Progress) -> Result<(), ImageError> {
        let mut command = self.command("apt-get");
        command.args(["download", "-q"]).args(wanted).current_dir(into);
        let log = into.join("log");
        let errors = File::create(&log).doing("create", &log)?;
        command.stdout(Stdio::null()).stderr(errors);
        let mut child = command.spawn().map_err(|e| no_program("apt-get", e))?;
        // apt tells its progress only to terminals; the files it writes tell as much.
        let status = loop {
            match child.try_wait().doing("wait for", Path::new("apt-get"))? {
                Some(status) => break status,
                None => std::thread::sleep(Duration::from_millis(50)),
            }
            progress.at(directory_size(into).min(total));
        };
        if status.success() {
            return Ok(());
        }
        let words = last_lines(&fs::read_to_string(&log).unwrap_or_default());
        Err(ImageError::new(network_or_space(&words), format!("packages cannot be fetched: {words}")))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        if program != "dpkg-deb" {
            command.arg("-c").arg(&self.config);
        }
        command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<Output, ImageError> {
        self.command(program).args(arguments).output().map_err(|e| no_program(program, e))
    }
}

/// apt's settings on top of the host's (apt.conf(5)).
fn configuration(directory: &Path) -> String {
    let base = directory.display();
    format!(
        "Dir::State \"{base}/state\";\n\
         Dir::State::Lists \"{base}/lists\";\n\
         Dir::State::status \"{base}/status\";\n\
         Dir::Cache \"{base}/cache\";\n\
         Dir::Log \"{base}/log\";\n\
         APT::Sandbox::User \"root\";\n\
         APT::Architecture \"amd64\";\n\
         APT::Architectures {{ \"amd64\"; }};\n\
         #clear APT::Update::Pre-Invoke;\n\
         #clear APT::Update::Post-Invoke;\n\
         #clear APT::Update::Post-Invoke-Success;\n\
         #clear DPkg::Post-Invoke;\n\
         #clear Acquire::Languages;\n\
         Acquire::Languages \"none\";\n\
         Acquire::Retries \"2\";\n\
         Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
         Acquire::IndexTargets::deb::DEP-11-icons-small::DefaultEnabled \"false\";\n\
         Acquire::IndexTargets::deb::DEP-11-icons::DefaultEnabled \"false\";\n\
         Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled \"false\";\n"
    )
}

fn no_program(program: &str, error: std::io::Error) -> ImageError {
    if error.kind() == std::io::ErrorKind::NotFound {
        return ImageError::new(ImageErrorKind::NoApt, format!("this host has no {program}"));
    }
    ImageError::io("run", Path::new(program), error)
}

fn network_or_space(words: &str) -> ImageErrorKind {
    if words.contains("No space left") { ImageErrorKind::NoSpace } else { ImageErrorKind::Network }
}

fn complaint(output: &Output) -> String {
    last_lines(&String::from_utf8_lossy(&output.stderr))
}

/// The last few lines a program complained with, as one.
fn last_lines(text: &str) -> String {
    let errors: Vec<&str> = text.lines().filter(|l| l.starts_with("E:") || l.contains("error")).collect();
    let lines = if errors.is_empty() { text.lines().collect() } else { errors };
    let tail = lines.len().saturating_sub(3);
    let short = |l: &&str| l.chars().take(300).collect::<String>();
    lines.iter().skip(tail).map(short).collect::<Vec<_>>().join("; ")
}

/// The file `apt-get download` made for the package: `name_version_arch.deb` with `:` written as `%3a`.
fn find_deb(directory: &Path, package: &Package) -> Result<PathBuf, ImageError> {
    let prefix = format!("{}_", package.name);
    let entries = fs::read_dir(directory).doing("list", directory)?;
    let mut names = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    let found = names.find(|n| n.starts_with(&prefix) && n.ends_with(".deb"));
    found
        .map(|n| directory.join(n))
        .ok_or_else(|| ImageError::new(ImageErrorKind::Network, format!("package {} did not arrive", package.name)))
}

fn directory_size(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|e| e.metadata().ok().map(|m| (e.path(), m)))
        .map(|(path, m)| if m.is_dir() { directory_size(&path) } else { m.len() })
        .sum()
}

/// SHA-256 of a file in hexadecimal.
pub(crate) fn hash_file(path: &Path) -> Result<String, ImageError> {
    let mut file = File::open(path).doing("open", path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = file.read(&mut buffer).doing("read", path)?;
        if n == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(buffer.get(..n).unwrap_or_default());
    }
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut out = Vec::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to memory cannot fail.
        let _ = write!(out, "{byte:02x}");
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests;
