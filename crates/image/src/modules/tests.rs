//! Signatures, and tables of modules that are made up for the test.

use super::*;

#[test]
fn signatures_are_cut_off_and_nothing_else() {
    let mut signed = b"\x7fELF module".to_vec();
    signed.extend([9; 20]);
    signed.extend([0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 20]);
    signed.extend(b"~Module signature appended~\n");
    assert_eq!(without_signature(&signed), b"\x7fELF module");
    assert_eq!(without_signature(b"\x7fELF module"), b"\x7fELF module");
    // A length beyond the file, and a file of nothing but the marker.
    let mut lying = signed.clone();
    let at = lying.len() - 28 - 4;
    lying[at..at + 4].copy_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(without_signature(&lying), lying);
    assert_eq!(without_signature(b"~Module signature appended~\n"), b"~Module signature appended~\n");
}

/// An ELF file with nothing but a `.modinfo` section.
fn module(info: &[&str]) -> Vec<u8> {
    let info: Vec<u8> = info.iter().flat_map(|i| i.bytes().chain([0])).collect();
    let names = b"\0.modinfo\0.shstrtab\0";
    let (info_at, names_at) = (64, 64 + info.len());
    let sections_at = (names_at + names.len()).next_multiple_of(8);
    let mut file = vec![0u8; 64];
    file[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
    file[16..20].copy_from_slice(&[1, 0, 62, 0]);
    file[20] = 1;
    file[40..48].copy_from_slice(&(sections_at as u64).to_le_bytes());
    file[52..54].copy_from_slice(&64u16.to_le_bytes());
    file[58..64].copy_from_slice(&[64, 0, 3, 0, 2, 0]);
    file.extend(&info);
    file.extend(names);
    file.resize(sections_at + 64, 0);
    for (name, kind, at, size) in [(1u32, 1u32, info_at, info.len()), (10, 3, names_at, names.len())] {
        let mut section = Vec::new();
        section.extend(name.to_le_bytes());
        section.extend(kind.to_le_bytes());
        section.extend([0; 16]);
        section.extend((at as u64).to_le_bytes());
        section.extend((size as u64).to_le_bytes());
        section.extend([0; 24]);
        file.extend(section);
    }
    file
}

fn kernel(modules: &[(&str, &[&str])]) -> (tempfile::TempDir, KernelModules) {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("lib/modules/1.2.3-test/kernel/drivers");
    fs::create_dir_all(&base).unwrap();
    for (name, info) in modules {
        fs::write(base.join(format!("{name}.ko")), module(info)).unwrap();
    }
    let found = KernelModules::find(dir.path()).unwrap();
    (dir, found)
}

#[test]
fn a_table_holds_what_modules_need_in_order() {
    let (_dir, kernel) = kernel(&[
        ("virtio", &["license=GPL", "depends="]),
        ("virtio_ring", &["depends=virtio"]),
        ("virtio-blk", &["depends=virtio,virtio_ring,builtin", "alias=virtio:d00000002v*"]),
        ("other", &["depends=virtio"]),
    ]);
    assert_eq!(kernel.release, "1.2.3-test");
    let table = kernel.table(&["virtio_blk".into()], false).unwrap();
    let names: Vec<&str> = table.modules.keys().map(String::as_str).collect();
    assert_eq!(names, ["virtio", "virtio_blk", "virtio_ring"]);
    assert_eq!(table.load_order("virtio_blk").unwrap(), ["virtio", "virtio_ring", "virtio_blk"]);
    assert_eq!(table.matching("virtio:d00000002v00001AF4"), ["virtio_blk"]);
}

#[test]
fn missing_and_circular_modules_are_errors() {
    let (_dir, kernel) = kernel(&[("a", &["depends=b"]), ("b", &["depends=a"]), ("c", &["depends="])]);
    let error = kernel.table(&["nothing".into()], false).unwrap_err();
    assert_eq!(error.kind(), ImageErrorKind::Missing);
    assert!(kernel.table(&["nothing".into()], true).unwrap().modules.is_empty());
    assert_eq!(kernel.table(&["a".into()], false).unwrap_err().kind(), ImageErrorKind::Format);
    assert_eq!(kernel.table(&["c".into()], false).unwrap().modules.len(), 1);
}
