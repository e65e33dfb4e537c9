//! Discs.

use std::io::{self, Cursor, Write};
use std::path::Path;

use visor_iso::{Iso, IsoError, IsoErrorKind, MakeOptions, make};

use super::patches;
use crate::Input;

/// Takes a little.
struct Little(usize);

impl Write for Little {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(data.len()).ok_or(io::ErrorKind::StorageFull)?;
        Ok(data.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let Ok(mut iso) = Iso::open(Cursor::new(patches::read(&mut input))) else { return };
    let _ = (iso.volume(), iso.names(), iso.size(), iso.missing());
    let _ = (iso.boot(), iso.hybrid());
    let root = iso.root().clone();
    let mut entries = Vec::new();
    let mut count = 0u32;
    let _ = iso.walk(&root, &mut |path, entry| {
        count += 1;
        assert!(path.len() < 1 << 16, "a path of {} bytes", path.len());
        if entries.len() < 16 {
            entries.push((path.to_owned(), entry.clone()));
        }
        // A disc of 4 MiB can show many entries more than once, but not without end: somebody stops.
        if count > 200_000 {
            Err(IsoError { kind: IsoErrorKind::Corrupt, what: "enough".into(), source: None })
        } else {
            Ok(())
        }
    });
    for (path, entry) in entries {
        let _ = (iso.find(&path, true), iso.list(&entry));
        let _ = iso.copy(&entry, &mut Little(1 << 20));
    }
}

fn disc(folder: &Path, options: &MakeOptions) -> Option<Vec<u8>> {
    let to = folder.with_extension("iso");
    make(folder, &to, options).ok()?;
    std::fs::read(to).ok().map(|f| patches::write(&f).end())
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let Ok(root) = tempfile::tempdir() else { return Vec::new() };
    let folder = root.path().join("disc");
    let fill = || -> io::Result<()> {
        std::fs::create_dir_all(folder.join("a long name/of a folder"))?;
        std::fs::write(folder.join("a long name/of a folder/A File With A Name.text"), b"content")?;
        std::fs::write(folder.join("boot.img"), [0x90; 3000])?;
        std::fs::write(folder.join("efi.img"), [1; 2048])?;
        std::os::unix::fs::symlink("boot.img", folder.join("link"))
    };
    if fill().is_err() {
        return Vec::new();
    }
    let plain = MakeOptions { label: "TEST".into(), ..MakeOptions::default() };
    let boots = MakeOptions {
        bios_boot: Some("boot.img".into()),
        efi_boot: Some("efi.img".into()),
        boot_info_table: true,
        ..MakeOptions { label: "BOOT".into(), ..MakeOptions::default() }
    };
    [plain, boots].iter().filter_map(|o| disc(&folder, o)).collect()
}
