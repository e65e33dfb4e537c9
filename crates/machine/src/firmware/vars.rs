//! The file behind the flash of UEFI's variables.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use visor_firmware::flash::FlashStore;

use super::VarsSpec;
use crate::error::{MachineError, MachineErrorKind};
use crate::loader::read;

/// What the flash holds when the machine is switched on. Makes the file if it is missing.
pub(crate) fn contents(spec: &VarsSpec) -> Result<Arc<[u8]>, MachineError> {
    let template = read(&spec.template, "template of UEFI variables")?;
    let Some(path) = &spec.file else { return Ok(template) };
    match std::fs::read(path) {
        Ok(bytes) if bytes.len() == template.len() => Ok(bytes.into()),
        Ok(bytes) => {
            let (is, should) = (bytes.len(), template.len());
            let what = format!("{} has {is} bytes, but UEFI variables have {should}", path.display());
            let mut e = MachineError::new(MachineErrorKind::File, what);
            e.hint = Some(
                "it is no file of UEFI variables, or of another firmware: name one that does not exist yet".into(),
            );
            Err(e)
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {
            create(path, &template).map_err(|e| failed("cannot make the file of UEFI variables", path, e))?;
            Ok(template)
        }
        Err(e) => Err(failed("cannot read the file of UEFI variables", path, e)),
    }
}

/// Writes a new file whole, or not at all.
fn create(path: &Path, contents: &[u8]) -> std::io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}", std::process::id()));
    let partial = Path::new(&partial);
    let made = File::create_new(partial).and_then(|mut f| {
        f.write_all(contents)?;
        f.sync_all()?;
        std::fs::hard_link(partial, path)
    });
    let _ = std::fs::remove_file(partial);
    made
}

fn failed(what: &str, path: &Path, e: std::io::Error) -> MachineError {
    MachineError::because(MachineErrorKind::File, format!("{what} {}", path.display()), e)
}

/// Writes what changes to the file.
pub(crate) struct VarsFile {
    file: File,
    name: String,
    failed: bool,
}

impl VarsFile {
    /// Opens the file at `path` for this machine alone.
    pub(crate) fn open(path: &Path) -> Result<Self, MachineError> {
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.map_err(|e| failed("cannot write the file of UEFI variables", path, e))?;
        match file.try_lock() {
            Ok(()) => Ok(VarsFile { file, name: path.display().to_string(), failed: false }),
            Err(std::fs::TryLockError::WouldBlock) => {
                let what = format!("the file of UEFI variables {} is in use by another machine", path.display());
                Err(MachineError::new(MachineErrorKind::File, what))
            }
            Err(std::fs::TryLockError::Error(e)) => Err(failed("cannot lock the file of UEFI variables", path, e)),
        }
    }
}

impl FlashStore for VarsFile {
    fn changed(&mut self, offset: u64, data: &[u8]) {
        if let Err(e) = self.file.write_all_at(data, offset)
            && !std::mem::replace(&mut self.failed, true)
        {
            tracing::error!("UEFI variables are not kept: cannot write {}: {e}", self.name);
        }
    }
}
