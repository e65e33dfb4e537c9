//! A directory of the host whose files guests may fetch when they boot from their network.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use visor_nat::{BootFile, BootFiles};

/// The files below a directory. Names lead nowhere else, by `..` or by symbolic links.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// The files below `path`.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, or what the host says.
    pub fn open(path: &Path) -> io::Result<Self> {
        let path = path.canonicalize()?;
        std::fs::read_dir(&path)?;
        Ok(Directory(path))
    }
}

impl BootFiles for Directory {
    fn open(&self, name: &str) -> io::Result<Box<dyn BootFile>> {
        let name = name.replace('\\', "/");
        let path = self.0.join(name.trim_start_matches('/')).canonicalize()?;
        if !path.starts_with(&self.0) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "not below the directory"));
        }
        // Opening a pipe or a device may wait or act.
        if !path.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "not a file"));
        }
        let file = File::open(&path)?;
        let size = file.metadata()?.len();
        Ok(Box::new(Opened { file, size }))
    }
}

struct Opened {
    file: File,
    size: u64,
}

impl BootFile for Opened {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(data, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_the_directory() {
        let top = std::env::temp_dir().join(format!("visor-boot-files-{}", std::process::id()));
        let dir = top.join("files");
        std::fs::create_dir_all(dir.join("sub")).unwrap();
        std::fs::write(dir.join("sub/a"), "hello").unwrap();
        std::fs::write(top.join("secret"), "x").unwrap();
        std::os::unix::fs::symlink("../secret", dir.join("out")).unwrap();
        let files = Directory::open(&dir).unwrap();
        let kind = |name: &str| files.open(name).err().map(|e| e.kind());
        for name in ["sub/a", "/sub/a", "\\sub\\a", "sub/../sub/a"] {
            let file = files.open(name).unwrap();
            let mut bytes = [0; 3];
            file.read_at(2, &mut bytes).unwrap();
            assert_eq!((file.size(), &bytes), (5, b"llo"), "{name}");
            assert!(file.read_at(3, &mut bytes).is_err());
        }
        for name in ["../secret", "/../secret", "out", "sub", ""] {
            assert_eq!(kind(name), Some(io::ErrorKind::PermissionDenied), "{name}");
        }
        assert_eq!(kind("/etc/passwd"), Some(io::ErrorKind::NotFound), "below the directory");
        assert!(Directory::open(&top.join("secret")).is_err());
        std::fs::remove_dir_all(top).unwrap();
    }
}
