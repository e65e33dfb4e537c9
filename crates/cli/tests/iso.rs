//! `visor iso` as a user runs it.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{run, stderr, stdout};

#[test]
fn an_image_is_made_looked_into_and_refused() {
    let dir = std::env::temp_dir().join(format!("visor-iso-{}", std::process::id()));
    let tree = dir.join("tree");
    std::fs::create_dir_all(tree.join("boot")).unwrap();
    std::fs::write(tree.join("Hello World.txt"), "hello\n").unwrap();
    std::fs::write(tree.join("boot/loader"), [0xeb; 4096]).unwrap();
    let (iso, tree) = (dir.join("x.iso"), tree.to_str().unwrap().to_owned());
    let iso = iso.to_str().unwrap();
    let make = ["iso", "make", &tree, "-o", iso, "--label", "MINE", "--bios-boot", "boot/loader"];
    let made = run(&make);
    assert!(made.status.success(), "{}", stderr(&made));
    assert!(stdout(&made).contains("2 files, 1 directories"), "{}", stdout(&made));
    let again = run(&make);
    assert_eq!(again.status.code(), Some(125));
    assert!(stderr(&again).contains("remove it first"), "{}", stderr(&again));

    let info = stdout(&run(&["iso", "info", iso]));
    assert!(info.contains("label      MINE\n") && info.contains("boots      BIOS, no emulation, 4 sectors"), "{info}");
    let json: serde_json::Value = serde_json::from_slice(&run(&["iso", "info", "--json", iso]).stdout).unwrap();
    assert_eq!(
        (&json["label"], &json["boot"][0]["platform"], &json["missing"]),
        (&"MINE".into(), &"BIOS".into(), &0.into())
    );
    assert_eq!(stdout(&run(&["iso", "ls", "-R", iso])), "Hello World.txt\nboot/\nboot.catalog\nboot/loader\n");
    assert_eq!(stdout(&run(&["iso", "cat", iso, "Hello World.txt"])), "hello\n");

    let missing = run(&["iso", "cat", iso, "nothing"]);
    assert_eq!((missing.status.code(), missing.stdout.len()), (Some(125), 0));
    assert!(stderr(&missing).contains("visor iso ls -R"), "{}", stderr(&missing));
    let no_image = run(&["iso", "info", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")]);
    assert!(stderr(&no_image).contains("too short for an ISO 9660 image"), "{}", stderr(&no_image));
    // What cannot be booted is told before anything starts.
    let fails = |args: &[&str]| {
        let output = run(&[&["run", "--timeout", "60", "--iso"], args].concat());
        assert_eq!((output.status.code(), output.stdout.len()), (Some(125), 0), "{args:?}");
        stderr(&output)
    };
    assert!(fails(&[iso, "--firmware", "uefi"]).contains("boots by BIOS only"));
    let plain = dir.join("plain.iso");
    let plain = plain.to_str().unwrap();
    assert!(run(&["-q", "iso", "make", &tree, "-o", plain]).status.success());
    assert!(fails(&[plain]).contains("it has no boot record"));
    assert!(fails(&[&format!("{tree}/boot/loader")]).contains("cannot be booted: it is too short"));
    assert!(fails(&["/nonexistent.iso"]).contains("cannot use the disc"));
    // A boot catalog that is not one.
    let bytes = std::fs::read(iso).unwrap();
    let catalog = u32::from_le_bytes(bytes[17 * 2048 + 0x47..][..4].try_into().unwrap()) as usize * 2048;
    let mut corrupt = bytes.clone();
    corrupt[catalog + 0x1c] ^= 0x55;
    std::fs::write(iso, &corrupt).unwrap();
    assert!(fails(&[iso]).contains("cannot be booted"), "{}", fails(&[iso]));
    // Without its end.
    std::fs::write(iso, &bytes[..bytes.len() - 3 * 2048]).unwrap();
    assert!(stdout(&run(&["iso", "info", iso])).contains("TRUNCATED"));
    assert!(fails(&[iso]).contains("is truncated: 6144 bytes are missing"));
    std::fs::remove_dir_all(dir).unwrap();
}
