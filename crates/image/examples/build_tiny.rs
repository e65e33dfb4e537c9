//! Builds the image `tiny` and says what it did: `cargo run -p visor-image --example build_tiny [CACHE]`.

use visor_image::{ImageBuilder, ImageStore, Phase, Progress};

struct Lines(std::time::Instant);

impl Progress for Lines {
    fn phase(&mut self, phase: Phase, total: u64) {
        eprintln!("{:7.2} s  {phase:?} ({total})", self.0.elapsed().as_secs_f64());
    }
    fn note(&mut self, text: &str) {
        eprintln!("           {text}");
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cache = std::env::args_os().nth(1).map_or_else(ImageStore::default_directory, Into::into);
    let builder = ImageBuilder::new(ImageStore::open(&cache));
    let image = builder.build(&mut Lines(std::time::Instant::now()))?;
    println!("{}", image.directory().display());
    Ok(())
}
