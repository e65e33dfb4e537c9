//! Images that are whole, damaged and absent.

use super::*;

fn manifest(content: &[u8]) -> Manifest {
    use sha2::Digest;
    let sha256 = crate::apt::hex(&sha2::Sha256::digest(content));
    Manifest {
        format: 1,
        name: "tiny".into(),
        digest: "d1".into(),
        maker: crate::builder::maker_digest(),
        kernel_release: "1.2.3".into(),
        kernel_args: "quiet".into(),
        files: [(file::KERNEL.to_owned(), ManifestFile { size: content.len() as u64, sha256 })].into(),
        packages: vec![],
    }
}

fn store_with(content: &[u8]) -> (tempfile::TempDir, ImageStore, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path());
    let image = store.images("tiny").join("d1");
    fs::create_dir_all(&image).unwrap();
    fs::write(image.join(MANIFEST), serde_json::to_string(&manifest(content)).unwrap()).unwrap();
    fs::write(image.join(file::KERNEL), content).unwrap();
    std::os::unix::fs::symlink("d1", store.images("tiny").join("current")).unwrap();
    (dir, store, image)
}

#[test]
fn a_whole_image_is_found() {
    let (_dir, store, directory) = store_with(b"kernel");
    let image = store.tiny().unwrap();
    assert_eq!(image.directory(), fs::canonicalize(&directory).unwrap());
    assert_eq!(image.kernel_args(), "quiet");
    image.verify().unwrap();
}

#[test]
fn an_image_of_another_visor_is_not_taken_for_ours() {
    let (_dir, store, directory) = store_with(b"kernel");
    let theirs = Manifest { maker: "other".into(), ..manifest(b"kernel") };
    fs::write(directory.join(MANIFEST), serde_json::to_string(&theirs).unwrap()).unwrap();
    assert_eq!(store.tiny(), None);
    assert!(store.any_tiny().is_some());
    // Ours is found beside it, though theirs was built last.
    let ours = store.images("tiny").join("d0");
    fs::create_dir(&ours).unwrap();
    fs::write(ours.join(MANIFEST), serde_json::to_string(&manifest(b"kernel")).unwrap()).unwrap();
    fs::write(ours.join(file::KERNEL), b"kernel").unwrap();
    assert_eq!(store.tiny().unwrap().directory(), ours);
}

#[test]
fn a_damaged_image_is_not_taken_for_one() {
    let (_dir, store, directory) = store_with(b"kernel");
    fs::write(directory.join(file::KERNEL), b"kernex").unwrap();
    let error = store.tiny().unwrap().verify().unwrap_err();
    assert_eq!(error.kind(), ImageErrorKind::Corrupt);
    fs::write(directory.join(file::KERNEL), b"kern").unwrap();
    assert_eq!(store.tiny(), None);
    assert_eq!(Image::open(&directory).unwrap_err().kind(), ImageErrorKind::Format);
    fs::write(directory.join(MANIFEST), "{").unwrap();
    assert_eq!(Image::open(&directory).unwrap_err().kind(), ImageErrorKind::Format);
    assert_eq!(ImageStore::open(Path::new("/no/such")).tiny(), None);
}

#[test]
fn two_builds_take_turns() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path());
    let first = store.lock(|| panic!("nobody else is there")).unwrap();
    let other = store.clone();
    let (tell, told) = std::sync::mpsc::channel();
    let second = std::thread::spawn(move || {
        let lock = other.lock(|| tell.send("waits").unwrap()).unwrap();
        tell.send("has it").unwrap();
        drop(lock);
    });
    assert_eq!(told.recv().unwrap(), "waits");
    assert!(told.try_recv().is_err());
    drop(first);
    assert_eq!(told.recv().unwrap(), "has it");
    second.join().unwrap();
}
