//! Folders of the process for files under attack. Statics hold them, which nobody drops: so [`clean`] removes them at the end of the process,
//! and the next process those of processes that ended otherwise.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// What their names begin with; then come the process and letters that make the name unique.
const PREFIX: &str = "visor-fuzz-";

/// Those of this process.
static FOLDERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A new folder, in memory where the host has a place for that: files are written for each input.
pub(crate) fn folder() -> io::Result<PathBuf> {
    let shm = Path::new("/dev/shm");
    let parent = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
    remove_stale(&parent);
    let prefix = format!("{PREFIX}{}-", std::process::id());
    let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(parent)?.keep();
    FOLDERS.lock().unwrap_or_else(PoisonError::into_inner).push(folder.clone());
    Ok(folder)
}

/// Removes the folders of this process. To be called when no target runs any more.
pub fn clean() {
    for folder in FOLDERS.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        // What is left is removed by the next process.
        let _ = std::fs::remove_dir_all(folder);
    }
}

/// Removes what ended processes have left.
fn remove_stale(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        if owner(&entry.file_name().to_string_lossy()).is_some_and(|p| !Path::new("/proc").join(p.to_string()).exists())
        {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// The process that made a folder of this name.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split_once('-')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_the_dead_go_and_those_of_the_living_stay() {
        let parent = tempfile::tempdir().unwrap();
        // Above the kernel's largest process number (proc(5): pid_max is at most 2^22).
        let names =
            ["visor-fuzz-4194305-x".to_owned(), format!("visor-fuzz-{}-x", std::process::id()), "visor-fuzz-x".into()];
        names.iter().for_each(|n| std::fs::create_dir(parent.path().join(n)).unwrap());
        remove_stale(parent.path());
        assert_eq!(names.map(|n| parent.path().join(n).exists()), [false, true, true]);
    }

    #[test]
    fn a_folder_lasts_until_it_is_cleaned() {
        let made = folder().unwrap();
        std::fs::write(made.join("file"), b"x").unwrap();
        assert_eq!(owner(&made.file_name().unwrap().to_string_lossy()), Some(std::process::id()));
        clean();
        assert!(!made.exists());
    }
}
