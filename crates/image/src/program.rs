//! Programs of unpacked packages, run on the host with the dynamic loader and the libraries that were unpacked beside them,
//! so that neither the host's version of the C library nor what else is installed matters.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{ImageError, ImageErrorKind};

/// Where libraries lie, and the loader below one of the first two.
const LIBRARIES: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
const PLACES: [&str; 4] = ["usr/bin", "bin", "usr/sbin", "sbin"];

/// A dynamically linked program and what it is run with.
pub(crate) struct Program {
    loader: PathBuf,
    libraries: String,
    file: PathBuf,
}

impl Program {
    /// The program `name` of the packages unpacked below `root`.
    ///
    /// # Errors
    /// `Missing` if they have no such program, or no dynamic loader.
    pub(crate) fn find(root: &Path, name: &str) -> Result<Self, ImageError> {
        let libraries = LIBRARIES.map(|l| root.join(l));
        let loaders = libraries.iter().map(|l| l.join("ld-linux-x86-64.so.2"));
        let files = PLACES.map(|p| root.join(p).join(name));
        Ok(Self {
            loader: first(loaders, "dynamic loader")?,
            libraries: libraries.map(|l| l.to_string_lossy().into_owned()).join(":"),
            file: first(files, name)?,
        })
    }

    /// Runs it; arguments are to be added.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.loader);
        command.arg("--library-path").arg(&self.libraries).arg(&self.file);
        command
    }

    /// A shell script that is the program to whoever starts it.
    pub(crate) fn script(&self) -> String {
        let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
        let path = |path: &Path| quoted(&path.to_string_lossy());
        format!(
            "#!/bin/sh\nexec {} --library-path {} {} \"$@\"\n",
            path(&self.loader),
            quoted(&self.libraries),
            path(&self.file)
        )
    }
}

fn first(paths: impl IntoIterator<Item = PathBuf>, what: &str) -> Result<PathBuf, ImageError> {
    let missing = || ImageError::new(ImageErrorKind::Missing, format!("the packages have no {what}"));
    paths.into_iter().find(|p| p.is_file()).ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_stands_for_the_program_whatever_the_folder_is_called() {
        let at = tempfile::tempdir().unwrap();
        let root = at.path().join("it's here");
        for (name, text) in
            [("usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "#!/bin/sh\nprintf '%s|' \"$@\"\n"), ("sbin/judge", "")]
        {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        }
        assert_eq!(Program::find(&root, "jury").err().unwrap().kind(), ImageErrorKind::Missing);
        let script = at.path().join("script");
        std::fs::write(&script, Program::find(&root, "judge").unwrap().script()).unwrap();
        let out = Command::new("sh").arg(&script).args(["a b", "c"]).output().unwrap();
        let here = root.display();
        assert_eq!(
            String::from_utf8_lossy(&out.stdout),
            format!(
                "--library-path|{here}/lib/x86_64-linux-gnu:{here}/usr/lib/x86_64-linux-gnu|{here}/sbin/judge|a b|c|"
            )
        );
    }
}
