//! Pools: the registry's file, the members' records, the headers of volumes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use visor_disk::Alloc;
use visor_pool::{NewVolume, Place, Pool, Registry};

use crate::{Input, Script};

/// A pool as it was made: files below a folder, by relative path.
struct Pristine {
    root: PathBuf,
    files: Vec<(PathBuf, Vec<u8>)>,
}

static PRISTINE: LazyLock<Option<Pristine>> = LazyLock::new(|| pristine().ok());

fn pristine() -> anyhow::Result<Pristine> {
    let root = crate::scratch::folder()?;
    let members = ["one", "two"].map(|n| root.join(n));
    let places: Vec<Place> =
        members.iter().map(|m| fs::create_dir(m).map(|()| Place::Dir(m.clone()))).collect::<Result<_, _>>()?;
    let mut pool = Pool::create(&Registry::new(root.join("registry")), "tank", &places, 2)?;
    pool.create_volume(&NewVolume { name: "disk".into(), size: 1 << 20, alloc: Alloc::Dynamic, overcommit: true })?;
    drop(pool);
    let mut files = Vec::new();
    collect(&root, &mut files)?;
    files.sort();
    Ok(Pristine { root, files })
}

fn collect(folder: &Path, files: &mut Vec<(PathBuf, Vec<u8>)>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            // Only the records are changed; the data behind them is what it is.
            let mut content = fs::read(&path)?;
            content.truncate(8192);
            files.push((path, content));
        }
    }
    Ok(())
}

/// Changes bytes of the files that make the pool, or replaces one, and uses it.
pub(super) fn run(data: &[u8]) {
    let Some(p) = &*PRISTINE else { return };
    let mut input = Input::new(data);
    let mut changed = Vec::new();
    for _ in 0..=input.below(4) {
        let n = input.below(p.files.len());
        let (path, content) = &p.files[n];
        let mut content = content.clone();
        if input.u8() & 1 == 0 {
            content = input.bytes().to_vec();
        } else {
            let at = usize::from(input.u16()) % (content.len() + 1);
            content[at..].iter_mut().zip(input.bytes()).for_each(|(to, from)| *to = *from);
        }
        write(path, &content);
        changed.push(n);
    }
    let registry = Registry::new(p.root.join("registry"));
    if let Ok(pool) = Pool::open(&registry, "tank") {
        let _ = pool.info();
        for name in pool.volumes() {
            if let Ok(volume) = pool.open_volume(&name, false, |_| ()) {
                let _ = (volume.health(), volume.layout().copies());
                let _ = volume.rebuild(&mut |_, _| true);
            }
        }
    }
    changed.iter().for_each(|n| write(&p.files[*n].0, &p.files[*n].1));
}

/// Overwrites the file's beginning, whose length stays if it is larger: parts of volumes are.
fn write(path: &Path, content: &[u8]) {
    use std::os::unix::fs::FileExt;
    let Ok(file) = fs::OpenOptions::new().write(true).open(path) else { return };
    let long = file.metadata().is_ok_and(|m| m.len() > 8192);
    let _ = file.write_all_at(content, 0);
    if !long {
        let _ = file.set_len(content.len() as u64);
    }
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let Some(p) = &*PRISTINE else { return Vec::new() };
    let whole = |n: usize| Script::new().raw(&[0, n as u8, 0]).bytes(&p.files[n].1).end();
    let part =
        |n: usize| Script::new().raw(&[0, n as u8, 1, 0, 0]).bytes(&p.files[n].1[..p.files[n].1.len().min(600)]).end();
    (0..p.files.len()).flat_map(|n| [whole(n), part(n)]).collect()
}
