//! The real image, from real packages. Needs apt's sources; packages come from the user's cache after the first run.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use visor_image::{GUEST_INIT, Image, ImageBuilder, ImageErrorKind, ImageStore, Phase, Progress, Silent};

#[derive(Default)]
struct Recorder {
    phases: Vec<Phase>,
    total: u64,
    at: u64,
}

impl Progress for Recorder {
    fn phase(&mut self, phase: Phase, total: u64) {
        assert!(self.phases.last().is_none_or(|last| *last <= phase), "{phase:?} after {:?}", self.phases);
        self.phases.push(phase);
        (self.total, self.at) = (total, 0);
    }
    fn at(&mut self, done: u64) {
        assert!(done >= self.at || self.total == 0);
        assert!(done <= self.total || self.total == 0, "{done} of {} in {:?}", self.total, self.phases.last());
        self.at = done;
    }
}

fn store() -> ImageStore {
    ImageStore::open(&ImageStore::default_directory())
}

#[test]
fn the_image_is_built_and_found_again() {
    let mut progress = Recorder::default();
    let image = ImageBuilder::new(store()).build(&mut progress).unwrap();
    assert_eq!(progress.phases.last(), Some(&Phase::Done));
    image.verify().unwrap();
    assert_eq!(store().tiny().unwrap(), image);

    let kernel = fs::read(image.kernel()).unwrap();
    assert_eq!(&kernel[0x202..0x206], b"HdrS", "a bzImage (Linux boot protocol)");
    let ramfs = fs::read(image.initramfs()).unwrap();
    assert!(ramfs.starts_with(b"070701"), "an uncompressed newc archive");
    assert!(ramfs.windows(GUEST_INIT.len()).any(|w| w == GUEST_INIT));
    let label = fs::read(image.root_disk()).unwrap()[1024 + 0x78..][..16].to_vec();
    assert!(label.starts_with(b"visor-root\0"));
    assert!(image.kernel_args().contains("root=LABEL=visor-root"));
    assert!(image.manifest().packages.iter().any(|p| p.name.starts_with("linux-image-")));

    // A second build has nothing to do.
    let mut progress = Recorder::default();
    assert_eq!(ImageBuilder::new(store()).build(&mut progress).unwrap(), image);
    assert!(!progress.phases.contains(&Phase::Assemble));
}

#[test]
fn two_builds_are_the_same_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let build =
        |name: &str| -> Image { ImageBuilder::new(store()).build_into(&dir.path().join(name), &mut Silent).unwrap() };
    let (a, b) = (build("a"), build("b"));
    assert_eq!(a.manifest(), b.manifest());
    for (x, y) in [(a.kernel(), b.kernel()), (a.initramfs(), b.initramfs()), (a.root_disk(), b.root_disk())] {
        assert!(fs::read(&x).unwrap() == fs::read(&y).unwrap(), "{} differs", x.display());
    }
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(left.len(), 2, "nothing half-made stays: {left:?}");
}

#[test]
fn a_host_without_apt_gets_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let builder = ImageBuilder::new(ImageStore::open(dir.path())).with_programs(Path::new("/no/such/directory"));
    let error = builder.build(&mut Silent).unwrap_err();
    assert_eq!(error.kind(), ImageErrorKind::NoApt);
    assert!(error.hint().contains("Debian"));
    assert!(ImageStore::open(dir.path()).tiny().is_none());
}

/// An apt that offers every package it is asked for, and delivers rubbish.
#[test]
fn a_mirror_with_damaged_packages_is_asked_twice() {
    let dir = tempfile::tempdir().unwrap();
    let offer = r#"shift 4; for n; do i=$((i+1)); printf 'Package: %s\nVersion: 1\nDepends: linux-image-x\nSize: 3\nSHA256: %064d\n\n' "$n" $i$(echo "$n" | wc -c); done"#;
    let deliver = r#"test "$3" = download || exit 0
        echo x >>"${0%/*}/downloads"
        shift 4; for n; do printf bad >"${n%%=*}_1_all.deb"; done"#;
    for (name, script) in [("apt-get", deliver), ("apt-cache", offer), ("dpkg-deb", "exit 1")] {
        let path = dir.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let store = ImageStore::open(&dir.path().join("cache"));
    let error = ImageBuilder::new(store.clone()).with_programs(dir.path()).build(&mut Silent).unwrap_err();
    assert_eq!(error.kind(), ImageErrorKind::Corrupt, "{error}");
    assert_eq!(fs::read_to_string(dir.path().join("downloads")).unwrap(), "x\nx\n");
    assert!(store.tiny().is_none());
    let debs = fs::read_dir(dir.path().join("cache/packages/debs")).unwrap();
    assert_eq!(debs.count(), 0, "nothing damaged stays");
}
