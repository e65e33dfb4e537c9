//! Makes programs of Debian packages usable without installing them: `cargo run -p visor-image --example programs DIRECTORY PACKAGE:PROGRAM...`.
//!
//! Each becomes a script in the directory, which runs it out of visor's cache with its own libraries.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use visor_image::{ImageStore, Phase, Progress, Unpacked};

struct Notes;

impl Progress for Notes {
    fn phase(&mut self, _phase: Phase, _total: u64) {}
    fn note(&mut self, text: &str) {
        eprintln!("{text}");
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("which directory?")?;
    let wanted: Vec<String> = arguments.collect();
    let pairs: Vec<(&str, &str)> = wanted
        .iter()
        .map(|w| w.split_once(':').ok_or(format!("{w} is not PACKAGE:PROGRAM")))
        .collect::<Result<_, _>>()?;
    let mut packages: Vec<&str> = pairs.iter().map(|p| p.0).collect();
    packages.sort_unstable();
    packages.dedup();
    let store = ImageStore::open(&ImageStore::default_directory());
    let unpacked = Unpacked::get(&store, &packages, &mut Notes)?;
    std::fs::create_dir_all(&directory)?;
    for (_, program) in pairs {
        let path = Path::new(&directory).join(program);
        std::fs::write(&path, unpacked.script(program)?)?;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755))?;
    }
    Ok(())
}
