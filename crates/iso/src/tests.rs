use std::fs;
use std::io::Cursor;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::*;

/// A directory with a bit of everything.
fn tree(dir: &Path) {
    fs::create_dir_all(dir.join("boot/grub")).unwrap();
    fs::create_dir_all(dir.join("a/b/c/d/e/f/g/h/i/j")).unwrap();
    fs::write(dir.join("boot/loader.bin"), vec![0x90; 5000]).unwrap();
    fs::write(dir.join("boot/efi.img"), vec![0x11; 70_000]).unwrap();
    fs::write(dir.join("hello.txt"), "hello\n").unwrap();
    fs::write(dir.join("empty"), "").unwrap();
    fs::write(
        dir.join("A long name with spaces, ümlauts and more than sixty-four characters in all, really.text"),
        "x",
    )
    .unwrap();
    fs::write(dir.join("a/b/c/d/e/f/g/h/i/j/deep.txt"), "deep").unwrap();
    fs::write(dir.join("big"), (0..3_000_000u32).map(|i| ((i * 31) >> 7) as u8).collect::<Vec<_>>()).unwrap();
    std::os::unix::fs::symlink("../hello.txt", dir.join("boot/link")).unwrap();
    std::os::unix::fs::symlink("/boot", dir.join("abs")).unwrap();
    fs::set_permissions(dir.join("hello.txt"), fs::Permissions::from_mode(0o640)).unwrap();
    for i in 0..200 {
        fs::write(dir.join(format!("boot/grub/module-{i}.mod")), format!("module {i}")).unwrap();
    }
}

struct Image {
    _dir: tempfile::TempDir,
    path: std::path::PathBuf,
    bytes: Vec<u8>,
}

fn image(options: &MakeOptions) -> Image {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("tree");
    fs::create_dir(&from).unwrap();
    tree(&from);
    let path = dir.path().join("x.iso");
    let made = make(&from, &path, options).unwrap();
    assert_eq!((made.files, made.directories), (209, 12));
    let bytes = fs::read(&path).unwrap();
    assert_eq!(made.bytes, bytes.len() as u64);
    Image { _dir: dir, path, bytes }
}

fn bootable() -> MakeOptions {
    MakeOptions {
        label: "TEST_1".into(),
        bios_boot: Some("boot/loader.bin".into()),
        efi_boot: Some("/boot/efi.img".into()),
        boot_info_table: false,
    }
}

fn open(bytes: &[u8]) -> Result<Iso<Cursor<&[u8]>>, IsoError> {
    Iso::open(Cursor::new(bytes))
}

fn cat<R: std::io::Read + std::io::Seek>(iso: &mut Iso<R>, path: &str) -> Result<Vec<u8>, IsoError> {
    let entry = iso.find(path, true)?;
    let mut out = Vec::new();
    iso.copy(&entry, &mut out)?;
    Ok(out)
}

#[test]
fn what_was_put_in_comes_out() {
    let image = image(&bootable());
    let mut iso = open(&image.bytes).unwrap();
    let v = iso.volume().clone();
    assert_eq!((v.label.as_str(), v.joliet, v.rock_ridge, iso.missing()), ("TEST_1", true, true, 0));
    assert_eq!(cat(&mut iso, "hello.txt").unwrap(), b"hello\n");
    assert_eq!(cat(&mut iso, "/boot/link").unwrap(), b"hello\n", "through a link");
    assert_eq!(cat(&mut iso, "abs/grub/module-17.mod").unwrap(), b"module 17");
    assert_eq!(cat(&mut iso, "a/b/c/d/e/f/g/h/i/j/deep.txt").unwrap(), b"deep");
    assert_eq!(cat(&mut iso, "empty").unwrap(), b"");
    assert_eq!(cat(&mut iso, "big").unwrap().len(), 3_000_000);
    let hello = iso.find("hello.txt", false).unwrap();
    assert_eq!(hello.mode, Some(0o100_640));
    assert_eq!(iso.find("boot/link", false).unwrap().kind, EntryKind::Link("../hello.txt".into()));
    assert_eq!(iso.find("nothing", true).unwrap_err().kind, IsoErrorKind::NotFound);
    assert_eq!(cat(&mut iso, "boot").unwrap_err().kind, IsoErrorKind::WrongKind);
    let mut names = Vec::new();
    let root = iso.root().clone();
    iso.walk(&root, &mut |path, _| {
        names.push(path.to_owned());
        Ok(())
    })
    .unwrap();
    assert_eq!(names.iter().filter(|n| n.ends_with(".mod")).count(), 200);
    assert!(names.iter().any(|n| n.contains("ümlauts") && n.ends_with("really.text")));
}

#[test]
fn boot_entries() {
    let image = image(&bootable());
    let mut iso = open(&image.bytes).unwrap();
    let boot = iso.boot().unwrap().unwrap();
    let shown: Vec<_> = boot.entries.iter().map(|e| (e.platform, e.bootable, e.emulation, e.sectors)).collect();
    assert_eq!(shown, [(Platform::Bios, true, Emulation::None, 4), (Platform::Uefi, true, Emulation::None, 137)]);
    let first = |block: u32| image.bytes[block as usize * 2048];
    assert_eq!((first(boot.entries[0].block), first(boot.entries[1].block)), (0x90, 0x11));
    assert!(!iso.hybrid().unwrap().boots());
    let uefi = self::image(&MakeOptions { bios_boot: None, ..bootable() });
    let boot = open(&uefi.bytes).unwrap().boot().unwrap().unwrap();
    assert_eq!(boot.entries.iter().map(|e| e.platform).collect::<Vec<_>>(), [Platform::Uefi]);
    let none = self::image(&MakeOptions::default());
    assert_eq!(open(&none.bytes).unwrap().boot().unwrap(), None);
}

fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).env("LC_ALL", "C").output();
    let output =
        output.unwrap_or_else(|e| panic!("{program} is needed (packages xorriso, genisoimage, util-linux): {e}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn other_programs_agree() {
    let image = image(&bootable());
    let path = image.path.to_str().unwrap();
    let listing = tool("isoinfo", &["-R", "-f", "-i", path]);
    assert!(listing.contains("/boot/grub/module-199.mod\n") && listing.contains("ümlauts"), "{listing}");
    assert!(tool("isoinfo", &["-J", "-f", "-i", path]).contains("/hello.txt"));
    assert!(tool("isoinfo", &["-d", "-i", path]).contains("Volume id: TEST_1"));
    assert_eq!(tool("isoinfo", &["-R", "-x", "/hello.txt", "-i", path]), "hello\n");
    assert_eq!(tool("blkid", &["-p", "-o", "value", "-s", "LABEL", path]), "TEST_1\n");
    assert_eq!(tool("blkid", &["-p", "-o", "value", "-s", "TYPE", path]), "iso9660\n");
    let out = image.path.with_extension("out");
    tool("xorriso", &["-osirrox", "on", "-indev", path, "-extract", "/", out.to_str().unwrap()]);
    assert_eq!(fs::read(out.join("big")).unwrap(), fs::read(image.path.with_file_name("tree").join("big")).unwrap());
    assert_eq!(fs::read_link(out.join("boot/link")).unwrap(), Path::new("../hello.txt"));
    assert_eq!(fs::read(out.join("a/b/c/d/e/f/g/h/i/j/deep.txt")).unwrap(), b"deep");
    let report = tool("xorriso", &["-indev", path, "-report_el_torito", "plain"]);
    assert!(report.contains("BIOS") && report.contains("UEFI"), "{report}");
}

/// Images of the program that makes most of the world's are read as well: each kind of names, and a hybrid one.
#[test]
fn images_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("tree");
    fs::create_dir(&from).unwrap();
    tree(&from);
    let iso = dir.path().join("o.iso");
    for (flags, names, path) in [
        (&["-R", "-J", "-joliet-long"][..], Names::RockRidge, "a/b/c/d/e/f/g/h/i/j/deep.txt"),
        (&["--norock", "-J", "-joliet-long"][..], Names::Joliet, "boot/grub/module-3.mod"),
        (&["--norock", "-iso-level", "3"][..], Names::Plain, "boot/GRUB/module_3.mod"),
    ] {
        let mut args = vec!["-as", "mkisofs", "-quiet", "-V", "OTHER"];
        args.extend(flags);
        args.extend(["-b", "boot/loader.bin", "-no-emul-boot", "-boot-load-size", "4", "-isohybrid-mbr"]);
        let mbr = dir.path().join("mbr.bin");
        fs::write(&mbr, [0xeb; 432]).unwrap();
        args.extend([mbr.to_str().unwrap(), "-o", iso.to_str().unwrap(), from.to_str().unwrap()]);
        tool("xorriso", &args);
        let mut image = Iso::open(fs::File::open(&iso).unwrap()).unwrap();
        assert_eq!((image.names(), image.volume().label.as_str()), (names, "OTHER"));
        assert!(!cat(&mut image, path).unwrap().is_empty(), "{path}");
        assert_eq!(image.boot().unwrap().unwrap().entries[0].platform, Platform::Bios);
        let hybrid = image.hybrid().unwrap();
        assert!(hybrid.mbr && hybrid.code && hybrid.boots() && !hybrid.partitions.is_empty());
    }
}

#[test]
fn what_is_no_image_is_told() {
    let kind = |bytes: &[u8]| open(bytes).map(|_| ()).unwrap_err().kind;
    assert_eq!(kind(b""), IsoErrorKind::NotIso);
    assert_eq!(kind(&[0; 100_000]), IsoErrorKind::NotIso);
    let image = image(&bootable());
    assert_eq!(kind(&image.bytes[..16 * 2048 + 100]), IsoErrorKind::NotIso);
    assert_eq!(kind(&image.bytes[..17 * 2048]), IsoErrorKind::Truncated);
    // Half of it: the descriptors are there, and say what is missing.
    let half = &image.bytes[..image.bytes.len() / 2];
    match open(half) {
        Ok(mut iso) => {
            assert!(iso.missing() > 0);
            assert_eq!(cat(&mut iso, "big").unwrap_err().kind, IsoErrorKind::Truncated);
        }
        Err(e) => assert_eq!(e.kind, IsoErrorKind::Truncated),
    }
    // A boot catalogue with a wrong sum.
    let mut bytes = image.bytes.clone();
    let catalog = u32::from_le_bytes(bytes[17 * 2048 + 0x47..17 * 2048 + 0x4b].try_into().unwrap()) as usize * 2048;
    bytes[catalog + 4] ^= 1;
    assert_eq!(open(&bytes).unwrap().boot().unwrap_err().kind, IsoErrorKind::Corrupt);
}

#[test]
fn what_cannot_be_made_is_told_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("tree"), dir.path().join("x.iso"));
    fs::create_dir(&from).unwrap();
    fs::write(from.join("empty"), "").unwrap();
    let fails = |options: MakeOptions| {
        let e = make(&from, &to, &options).unwrap_err();
        assert!(!to.exists());
        e.kind
    };
    for label in ["", "a label of more than thirty-two characters", "ü"] {
        assert_eq!(fails(MakeOptions { label: label.into(), ..Default::default() }), IsoErrorKind::Unsuitable);
    }
    for path in ["missing", "../x", "empty", "."] {
        assert_eq!(fails(MakeOptions { bios_boot: Some(path.into()), ..Default::default() }), IsoErrorKind::Unsuitable);
    }
    fs::write(&to, "mine").unwrap();
    assert_eq!(make(&from, &to, &MakeOptions::default()).unwrap_err().kind, IsoErrorKind::Io);
    assert_eq!(fs::read(&to).unwrap(), b"mine", "an existing file is never touched");
}

/// Damaged images: no panic, no endless work.
#[test]
fn random_damage() {
    let image = image(&bootable());
    // Everything but the contents of files, which start behind the directories, is worth damaging.
    let mut x = 0x1234_5678_9abc_def1u64;
    let mut random = move |below: u64| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x % below
    };
    let mut outcomes = [0; 2];
    let dirs: Vec<usize> = (16..image.bytes.len() / 2048)
        .filter(|b| {
            let block = &image.bytes[b * 2048..(b + 1) * 2048];
            block[0] == 34 || *b < 40 || block.windows(4).any(|w| w == b"RRIP" || w == b"NM\x1c\x01")
        })
        .collect();
    for _ in 0..600 {
        let mut bytes = image.bytes.clone();
        for _ in 0..1 + random(30) {
            let block = dirs[random(dirs.len() as u64) as usize];
            bytes[block * 2048 + random(400) as usize] = random(256) as u8;
        }
        if random(5) == 0 {
            bytes.truncate(random(bytes.len() as u64) as usize);
        }
        let result = open(&bytes).and_then(|mut iso| {
            let _ = (iso.boot(), iso.hybrid());
            let root = iso.root().clone();
            let mut files = Vec::new();
            iso.walk(&root, &mut |_, e| {
                if e.kind == EntryKind::File {
                    files.push(e.clone());
                }
                Ok(())
            })?;
            files.iter().try_for_each(|f| iso.copy(f, &mut std::io::sink()))
        });
        outcomes[usize::from(result.is_ok())] += 1;
    }
    assert!(outcomes[0] > 100, "damage is noticed: {outcomes:?}");
}
