//! ELF files of this machine, and damaged ones.

use super::*;

#[test]
fn this_test_needs_the_c_library() {
    let data = fs::read(std::env::current_exe().unwrap()).unwrap();
    let needs = needs(&data).unwrap();
    assert!(needs.libraries.iter().any(|l| l.starts_with("libc.so")), "{needs:?}");
    assert!(needs.loader.unwrap().contains("ld-linux"));
}

#[test]
fn the_guest_program_needs_nothing() {
    assert_eq!(needs(crate::GUEST_INIT).unwrap(), Needs::default());
    assert_eq!(needs(b"#!/bin/sh\n").unwrap(), Needs::default());
    assert_eq!(needs(b"").unwrap(), Needs::default());
}

#[test]
fn damaged_files_are_errors_not_panics() {
    let whole = fs::read(std::env::current_exe().unwrap()).unwrap();
    let head = &whole[..whole.len().min(20_000)];
    for cut in (0..head.len()).step_by(97) {
        let _ = needs(&head[..cut]);
        let mut bent = head.to_vec();
        bent[cut] ^= 0xff;
        let _ = needs(&bent);
        let _ = module_info(&bent, "depends");
    }
}

#[test]
fn a_closure_holds_the_needs_of_needs() {
    // The libraries of this test program on this machine, found through its own root.
    let exe = std::env::current_exe().unwrap();
    let found = closure(Path::new("/"), &[exe]).unwrap();
    assert!(found.iter().any(|p| p.ends_with("/libc.so.6")), "{found:?}");
    assert!(found.iter().any(|p| p.contains("ld-linux")), "{found:?}");
    let empty = tempfile::tempdir().unwrap();
    let error = closure(empty.path(), &[std::env::current_exe().unwrap()]).unwrap_err();
    assert_eq!(error.kind(), ImageErrorKind::Missing);
}
