//! A file that appears complete or not at all.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use visor_block::BlockError;

use crate::error::host_error;

/// A file under construction, readable and writable by its owner only. It has no name until [`NewFile::finish`]; where the file
/// system knows no nameless files it has a temporary one, which goes away with this value.
#[derive(Debug)]
pub struct NewFile {
    file: File,
    path: PathBuf,
    temporary: Option<PathBuf>,
}

impl NewFile {
    /// Starts a file that will be `path`.
    ///
    /// # Errors
    /// The host's; also if `path` exists.
    pub fn create(path: &Path) -> Result<Self, BlockError> {
        let fail = |e| host_error("cannot create", path, e);
        if path.symlink_metadata().is_ok() {
            return Err(fail(io::ErrorKind::AlreadyExists.into()));
        }
        let folder = match path.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        let nameless = options.clone().custom_flags(OFlag::O_TMPFILE.bits()).open(folder);
        let (file, temporary) = match nameless {
            Ok(file) => (file, None),
            Err(_) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let temporary = folder.join(format!(".{name}.{}.part", std::process::id()));
                (options.create_new(true).open(&temporary).map_err(fail)?, Some(temporary))
            }
        };
        Ok(NewFile { file, path: path.to_owned(), temporary })
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Another handle of the file.
    ///
    /// # Errors
    /// The host's.
    pub fn handle(&self) -> Result<File, BlockError> {
        self.file.try_clone().map_err(|e| host_error("cannot create", &self.path, e))
    }

    /// Makes the contents durable, then gives the file its name.
    ///
    /// # Errors
    /// The host's; also if a file of that name has appeared meanwhile.
    pub fn finish(self) -> Result<(), BlockError> {
        self.file.sync_all().map_err(|e| host_error("cannot create", &self.path, e))?;
        self.publish()?.sync()
    }

    /// Gives the file its name and leaves it to the host when the contents reach the medium, as cp(1) does.
    ///
    /// # Errors
    /// The host's; also if a file of that name has appeared meanwhile.
    pub fn publish(mut self) -> Result<Published, BlockError> {
        let fail = |e| host_error("cannot create", &self.path, e);
        let from = match &self.temporary {
            Some(temporary) => temporary.clone(),
            None => PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd())),
        };
        nix::unistd::linkat(AT_FDCWD, &from, AT_FDCWD, &self.path, AtFlags::AT_SYMLINK_FOLLOW)
            .map_err(|e| fail(e.into()))?;
        if let Some(temporary) = self.temporary.take() {
            let _ = std::fs::remove_file(temporary);
        }
        Ok(Published { file: self.file.try_clone().map_err(fail)?, path: self.path.clone() })
    }
}

/// A file that has its name.
#[derive(Debug)]
pub struct Published {
    file: File,
    path: PathBuf,
}

impl Published {
    /// Makes contents and name survive a power cut.
    ///
    /// # Errors
    /// The host's.
    pub fn sync(&self) -> Result<(), BlockError> {
        self.file.sync_all().map_err(|e| host_error("cannot write", &self.path, e))?;
        if let Some(folder) = self.path.parent().and_then(|p| File::open(p).ok()) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = std::fs::remove_file(temporary);
        }
    }
}
