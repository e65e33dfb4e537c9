//! A folder for hostile images, and beside it what they must not reach.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::LazyLock;

use visor_qcow2::Source;

/// What is outside.
const SECRET: [u8; 16] = *b"NOBODY MAY READ!";

/// The folder.
pub(super) struct Sandbox {
    folder: PathBuf,
}

/// The process's.
pub(super) static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| {
    let root = crate::scratch::folder().expect("a folder can be made");
    let folder = root.join("box");
    std::fs::create_dir(&folder).expect("a folder can be made");
    let secret = SECRET.repeat(4096);
    std::fs::write(root.join("secret"), &secret).expect("a file can be written");
    std::fs::write(folder.join("base"), vec![0x11; 1 << 16]).expect("a file can be written");
    std::os::unix::fs::symlink("../secret", folder.join("link")).expect("a link can be made");
    Sandbox { folder }
});

impl Sandbox {
    /// A path in the folder.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes the image under attack.
    pub(super) fn image(&self, content: &[u8]) -> PathBuf {
        let path = self.path("image");
        let file = File::create(&path).expect("a file can be made");
        file.set_len(content.len() as u64).expect("it can grow");
        // Most of it is zero.
        for (n, piece) in content.chunks(4096).enumerate().filter(|(_, p)| p.iter().any(|b| *b != 0)) {
            file.write_all_at(piece, n as u64 * 4096).expect("it can be written");
        }
        path
    }
}

/// Reads `source` here and there, as `places` say; it shows nothing of what is outside.
pub(super) fn look(source: &dyn Source, places: &[u64]) {
    let size = source.size();
    let mut data = vec![0; 8192];
    for at in [0, size / 2, size.saturating_sub(4096)].iter().chain(places) {
        let at = at % size.max(1);
        let part = data.len().min((size - at) as usize);
        let _ = source.read(at, &mut data[..part]);
        assert!(!data.windows(16).any(|w| w == SECRET), "the image shows what lies outside of its folder");
        if part > 0
            && let Ok((_, len)) = source.is_zero(at, part as u64)
        {
            assert!(len > 0 && len <= part as u64, "zero for {len} of {part}");
        }
    }
}
