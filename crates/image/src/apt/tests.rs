//! What happens when apt, the network or a mirror fails: with programs that pretend.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::progress::Silent;

/// A directory with an apt of our own making.
struct Fake {
    dir: tempfile::TempDir,
}

impl Fake {
    fn new(apt_get: &str, apt_cache: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, script) in [("apt-get", apt_get), ("apt-cache", apt_cache), ("dpkg-deb", "exit 0")] {
            let path = dir.path().join(name);
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { dir }
    }

    fn apt(&self) -> Apt {
        Apt::new(&self.dir.path().join("cache"), self.dir.path()).unwrap()
    }
}

fn package(content: &[u8]) -> Package {
    Package {
        name: "thing".into(),
        version: "1:2".into(),
        size: content.len() as u64,
        sha256: hex(&Sha256::digest(content)),
        section: "libs".into(),
        depends: vec![],
    }
}

#[test]
fn the_network_and_the_disk_are_told_apart() {
    for (words, kind) in [
        ("E: Failed to fetch http://x  Could not connect", ImageErrorKind::Network),
        ("E: Write error - write (28: No space left on device)", ImageErrorKind::NoSpace),
    ] {
        let fake = Fake::new(&format!("echo '{words}' >&2; exit 100"), "");
        let error = fake.apt().update(false, &mut Silent).unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains("E: "), "{error}");
        let error = fake.apt().download(&[package(b"x")], &mut Silent).unwrap_err();
        assert_eq!(error.kind(), kind);
    }
}

#[test]
fn lists_are_fetched_once_a_day_and_old_ones_will_do() {
    let fake = Fake::new("echo x >>\"${0%/*}/calls\"; test ! -e \"${0%/*}/broken\"", "");
    let apt = fake.apt();
    let calls = || fs::read_to_string(fake.dir.path().join("calls")).unwrap().lines().count();
    apt.update(false, &mut Silent).unwrap();
    apt.update(false, &mut Silent).unwrap();
    assert_eq!(calls(), 1);
    fs::write(fake.dir.path().join("broken"), "").unwrap();
    apt.update(true, &mut Silent).unwrap();
    assert_eq!(calls(), 2);
}

#[test]
fn packages_are_kept_by_hash_and_fetched_once() {
    let fake = Fake::new("printf whole >thing_1%3a2_amd64.deb; echo x >>\"${0%/*}/calls\"", "");
    let apt = fake.apt();
    let wanted = [package(b"whole")];
    apt.download(&wanted, &mut Silent).unwrap();
    apt.download(&wanted, &mut Silent).unwrap();
    assert_eq!(fs::read_to_string(fake.dir.path().join("calls")).unwrap(), "x\n");
    assert!(apt.verify(&wanted, &mut Silent).unwrap().is_empty());
    assert_eq!(fs::read(apt.deb(&wanted[0])).unwrap(), b"whole");
    let debris: Vec<_> =
        fs::read_dir(fake.dir.path().join("cache")).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(!debris.iter().any(|n| n.to_string_lossy().starts_with("partial-")), "{debris:?}");
}

#[test]
fn damaged_packages_are_deleted_and_named() {
    let fake = Fake::new("printf damaged >thing_1%3a2_amd64.deb", "");
    let apt = fake.apt();
    let wanted = [package(b"whole")];
    apt.download(&wanted, &mut Silent).unwrap();
    assert_eq!(apt.verify(&wanted, &mut Silent).unwrap(), wanted);
    assert!(!apt.deb(&wanted[0]).exists());
}

#[test]
fn missing_programs_and_packages_are_errors() {
    let fake = Fake::new("exit 0", "");
    let error = fake.apt().download(&[package(b"x")], &mut Silent).unwrap_err();
    assert_eq!(error.kind(), ImageErrorKind::Network, "apt is content, but brought nothing");
    let apt = Apt::new(&fake.dir.path().join("cache"), Path::new("/no/such")).unwrap();
    assert_eq!(apt.update(true, &mut Silent).unwrap_err().kind(), ImageErrorKind::NoApt);
}

#[test]
fn paths_with_quotes_do_not_become_settings() {
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("a\"; APT::Evil \"x");
    assert_eq!(Apt::new(&bad, Path::new("")).err().map(|e| e.kind()), Some(ImageErrorKind::Io));
}
