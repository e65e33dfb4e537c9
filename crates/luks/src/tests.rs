use std::io;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use visor_block::SharedBuffer;
use visor_block::{BlockBackend, BlockErrorKind, BlockOp};
use visor_disk::testing::{block, read, run, write};
use visor_disk::{Access, Alloc, ImageOptions, RawDisk, open_disk};

use crate::header::MAGIC;
use crate::*;

/// Quick to derive, and accepted by `cryptsetup`.
const QUICK: Kdf = Kdf::Pbkdf2 { iterations: 1000 };
const SIZE: usize = 17 << 20;

struct Memory(Mutex<Vec<u8>>);

impl Memory {
    fn new(bytes: Vec<u8>) -> Self {
        Memory(Mutex::new(bytes))
    }
    fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

impl Medium for Memory {
    fn size(&self) -> u64 {
        self.0.lock().unwrap().len() as u64
    }
    fn read_at(&self, data: &mut [u8], at: u64) -> io::Result<()> {
        let bytes = self.0.lock().unwrap();
        let from = bytes.get(at as usize..at as usize + data.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        data.copy_from_slice(from);
        Ok(())
    }
    fn write_at(&self, data: &[u8], at: u64) -> io::Result<()> {
        let mut bytes = self.0.lock().unwrap();
        bytes.get_mut(at as usize..at as usize + data.len()).ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(data);
        Ok(())
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

fn options() -> FormatOptions {
    FormatOptions { kdf: QUICK, ..FormatOptions::default() }
}

fn volume(secret: &[u8]) -> (Memory, Luks) {
    let medium = Memory::new(vec![0; SIZE]);
    let luks = Luks::format(&medium, secret, &options()).unwrap();
    (medium, luks)
}

/// A disk in a file.
fn backend(dir: &TempDir, name: &str, size: u64) -> Arc<dyn BlockBackend> {
    let path = dir.path().join(name);
    if !path.exists() {
        RawDisk::create(&path, size, Alloc::Dynamic).unwrap();
    }
    let options = ImageOptions { format: Some(visor_disk::Format::Raw), ..ImageOptions::new(Access::ReadWrite) };
    open_disk(&path, &options).unwrap()
}

fn opened(below: Arc<dyn BlockBackend>, secret: &[u8]) -> LuksDisk {
    let medium = BackendMedium(below.clone());
    let luks = Luks::read(&medium).unwrap();
    let key = luks.unlock(&medium, secret).unwrap();
    LuksDisk::new(below, &luks, &key, true).unwrap()
}

#[test]
fn keys_come_and_go() {
    let (medium, mut luks) = volume(b"first");
    assert_eq!((luks.version(), luks.cipher()), (Version::Two, ("aes-xts-plain64", 512)));
    let key = luks.unlock(&medium, b"first").unwrap();
    assert_eq!(luks.unlock(&medium, b"second").err().unwrap().kind, LuksErrorKind::WrongKey);
    assert_eq!(luks.add_key(&medium, &key, b"second", QUICK).unwrap(), 1);
    let mut again = Luks::read(&medium).unwrap();
    assert_eq!(again.uuid(), luks.uuid());
    assert_eq!(again.unlock(&medium, b"second").unwrap().slot, 1);
    assert_eq!(again.unlock(&medium, b"second").unwrap().key, key.key);
    again.remove_key(&medium, 0, false).unwrap();
    let mut again = Luks::read(&medium).unwrap();
    assert_eq!(again.unlock(&medium, b"first").err().unwrap().kind, LuksErrorKind::WrongKey);
    assert_eq!(again.remove_key(&medium, 0, false).unwrap_err().kind, LuksErrorKind::Slot);
    assert_eq!(again.remove_key(&medium, 1, false).unwrap_err().kind, LuksErrorKind::LastKey);
    assert_eq!(again.unlock(&medium, b"second").unwrap().slot, 1, "nothing was touched");
    again.remove_key(&medium, 1, true).unwrap();
    assert!(Luks::read(&medium).unwrap().slots().is_empty());
}

#[test]
fn there_is_room_for_32_keys() {
    let (medium, mut luks) = volume(b"0");
    let key = luks.unlock(&medium, b"0").unwrap();
    for i in 1..32 {
        assert_eq!(luks.add_key(&medium, &key, i.to_string().as_bytes(), QUICK).unwrap(), i);
    }
    let e = luks.add_key(&medium, &key, b"one too many", QUICK).unwrap_err();
    assert_eq!(e.kind, LuksErrorKind::Slot);
    let again = Luks::read(&medium).unwrap();
    assert_eq!(again.slots().len(), 32);
    assert_eq!(again.unlock(&medium, b"31").unwrap().slot, 31);
}

/// Each write is cut off at every few hundred bytes: the header opens with the old key, or with both.
#[test]
fn a_power_cut_while_a_key_is_added_loses_nothing() {
    struct Log(Memory, Mutex<Vec<(u64, Vec<u8>)>>);
    impl Medium for Log {
        fn size(&self) -> u64 {
            self.0.size()
        }
        fn read_at(&self, data: &mut [u8], at: u64) -> io::Result<()> {
            self.0.read_at(data, at)
        }
        fn write_at(&self, data: &[u8], at: u64) -> io::Result<()> {
            self.1.lock().unwrap().push((at, data.to_vec()));
            self.0.write_at(data, at)
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }
    let (medium, mut luks) = volume(b"old");
    let before = medium.bytes();
    let log = Log(medium, Mutex::default());
    let key = luks.unlock(&log, b"old").unwrap();
    luks.add_key(&log, &key, b"new", QUICK).unwrap();
    let writes = log.1.into_inner().unwrap();
    assert_eq!(writes.len(), 3, "the key, and two copies of the header");
    let mut state = before;
    let mut new = 0;
    for (i, (at, data)) in writes.iter().enumerate() {
        let step = if i == 0 { 100_000 } else { 512 };
        for cut in (0..data.len()).step_by(step) {
            let mut torn = state.clone();
            torn[*at as usize..*at as usize + cut].copy_from_slice(&data[..cut]);
            let torn = Memory::new(torn);
            let luks = Luks::read(&torn).unwrap();
            assert!(luks.unlock(&torn, b"old").is_ok(), "write {i} cut at {cut}");
            new += usize::from(luks.unlock(&torn, b"new").is_ok());
        }
        state[*at as usize..*at as usize + data.len()].copy_from_slice(data);
    }
    assert!(new > 10, "from the second copy on, both open");
}

#[test]
fn the_other_copy_of_a_damaged_header_serves() {
    let (medium, _) = volume(b"key");
    for (at, which) in [(0, "first"), (5000, "first"), (16384 + 100, "second"), (16384 + 4200, "second")] {
        let mut bytes = medium.bytes();
        bytes[at] ^= 0x10;
        let damaged = Memory::new(bytes);
        let mut luks = Luks::read(&damaged).unwrap();
        assert!(luks.warning().unwrap().contains(which), "{at}: {:?}", luks.warning());
        let key = luks.unlock(&damaged, b"key").unwrap();
        luks.add_key(&damaged, &key, b"mended", QUICK).unwrap();
        assert_eq!(Luks::read(&damaged).unwrap().warning(), None);
    }
    let mut bytes = medium.bytes();
    bytes[5000] ^= 1;
    bytes[16384 + 5000] ^= 1;
    assert_eq!(Luks::read(&Memory::new(bytes)).err().unwrap().kind, LuksErrorKind::Damaged);
    assert_eq!(Luks::read(&Memory::new(vec![0; SIZE])).err().unwrap().kind, LuksErrorKind::NotLuks);
    assert_eq!(Luks::read(&Memory::new(vec![7; 100])).err().unwrap().kind, LuksErrorKind::NotLuks);
}

#[test]
fn disks_conform_whatever_their_sectors() {
    for sector_size in [512, 1024, 4096] {
        let dir = TempDir::new().unwrap();
        let n = std::cell::Cell::new(0);
        block(|sectors| {
            n.set(n.get() + 1);
            // The suite's disks need not be whole sectors of the cipher; these are.
            let len = (sectors * 512).next_multiple_of(4096);
            let below = backend(&dir, &n.get().to_string(), (16 << 20) + len);
            let medium = BackendMedium(below.clone());
            Luks::format(&medium, b"x", &FormatOptions { sector_size, ..options() }).unwrap();
            let disk = opened(below, b"x");
            write(&disk, 0, &vec![0; len as usize]).unwrap();
            Cut(disk, sectors)
        });
    }
}

/// A disk of which only the first sectors are shown.
struct Cut(LuksDisk, u64);

impl BlockBackend for Cut {
    fn geometry(&self) -> visor_block::BlockGeometry {
        visor_block::BlockGeometry { sectors: self.1, ..self.0.geometry() }
    }
    fn submit(&self, request: visor_block::BlockRequest) {
        match request.check(&self.geometry()) {
            Ok(_) => self.0.submit(request),
            Err(e) => request.complete(Err(e)),
        }
    }
    fn drain(&self) {
        self.0.drain();
    }
}

#[test]
fn nothing_readable_reaches_the_file_and_long_requests_work() {
    let dir = TempDir::new().unwrap();
    let below = backend(&dir, "d", (16 << 20) + (5 << 20));
    Luks::format(&BackendMedium(below.clone()), b"x", &options()).unwrap();
    let disk = opened(below, b"x");
    let data = b"a secret ".repeat(1 << 19)[..(4 << 20) + 512].to_vec();
    write(&disk, 3, &data).unwrap();
    assert_eq!(read(&disk, 3, data.len() as u64 / 512).unwrap(), data);
    run(&disk, BlockOp::WriteZeroes { may_unmap: true }, 10, 3 << 20, Box::new(SharedBuffer::default())).unwrap();
    assert!(read(&disk, 10, (3 << 20) / 512).unwrap().iter().all(|b| *b == 0));
    drop(disk);
    let file = std::fs::read(dir.path().join("d")).unwrap();
    assert!(!file.windows(8).any(|w| w == b"a secret"));
    assert!(file[(16 << 20) + 5120..(16 << 20) + 6144].iter().any(|b| *b != 0), "zeroes are encrypted too");
}

#[test]
fn a_file_that_was_cut_gives_errors() {
    let dir = TempDir::new().unwrap();
    let below = backend(&dir, "d", (16 << 20) + (1 << 20));
    Luks::format(&BackendMedium(below.clone()), b"x", &options()).unwrap();
    let disk = opened(below, b"x");
    std::fs::OpenOptions::new().write(true).open(dir.path().join("d")).unwrap().set_len(16 << 20).unwrap();
    assert_eq!(read(&disk, 0, 1).unwrap_err().kind, BlockErrorKind::Io);
}

/// Headers that are damaged in every place, and documents that say anything: errors, no panic, no long work.
#[test]
fn hostile_headers() {
    let (medium, _) = volume(b"key");
    let good = medium.bytes()[..SIZE].to_vec();
    let end = 4096 + good[4096..].iter().position(|b| *b == 0).unwrap();
    let text = String::from_utf8(good[4096..end].to_vec()).unwrap();
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % below as u64) as usize
    };
    let evil = [
        "18446744073709551615",
        "-1",
        "0",
        "4294967295",
        "null",
        "{}",
        "[]",
        "\"\"",
        "\"dynamic\"",
        "1e99",
        "\"65536\"",
    ];
    let mut opened = 0;
    for round in 0..1500 {
        let mut json = text.clone().into_bytes();
        for _ in 0..=random(3) {
            let at = random(json.len());
            match round % 3 {
                0 => json[at] = b' ' + random(95) as u8,
                1 => {
                    // A value is replaced.
                    let Some(colon) = json[at..].iter().position(|b| *b == b':') else { continue };
                    let start = at + colon + 1;
                    let stop = json[start..].iter().position(|b| b",}]".contains(b)).map_or(json.len(), |n| start + n);
                    json.splice(start..stop, evil[random(evil.len())].bytes());
                }
                _ => _ = json.drain(at..(at + random(40)).min(json.len())),
            }
        }
        let bytes = sealed(&good, &json);
        let bytes = Memory::new(bytes);
        if let Ok(luks) = Luks::read(&bytes) {
            opened += 1;
            for slot in luks.slots.values() {
                assert!(slot.material_len() <= 64 * 16384 && slot.at + slot.area_len <= luks.data_offset());
            }
            assert!(luks.data_offset() < SIZE as u64);
        }
    }
    assert!(opened > 10, "some changes do no harm: {opened}");
    let deep = "[".repeat(12000);
    assert!(Luks::read(&Memory::new(sealed(&good, deep.as_bytes()))).is_err());
}

/// A volume with this document, its checksums right.
fn sealed(good: &[u8], json: &[u8]) -> Vec<u8> {
    use sha2::Digest;
    let mut bytes = good.to_vec();
    for at in [0, 16384] {
        let copy = &mut bytes[at..at + 16384];
        copy[4096..].fill(0);
        let n = json.len().min(12287);
        copy[4096..4096 + n].copy_from_slice(&json[..n]);
        copy[448..512].fill(0);
        let sum = sha2::Sha256::digest(&*copy);
        copy[448..480].copy_from_slice(&sum);
    }
    bytes
}

#[test]
fn hostile_old_headers() {
    let mut good = vec![0; SIZE];
    good[..6].copy_from_slice(MAGIC);
    good[7] = 1;
    good[8..11].copy_from_slice(b"aes");
    good[40..51].copy_from_slice(b"xts-plain64");
    good[72..78].copy_from_slice(b"sha256");
    good[104..108].copy_from_slice(&4096u32.to_be_bytes());
    good[108..112].copy_from_slice(&64u32.to_be_bytes());
    good[164..168].copy_from_slice(&1000u32.to_be_bytes());
    for slot in 0..8usize {
        let at = 208 + 48 * slot;
        let head: [u32; 2] = if slot == 0 { [0x00ac_71f3, 1000] } else { [0xdead, 0] };
        good[at..at + 4].copy_from_slice(&head[0].to_be_bytes());
        good[at + 4..at + 8].copy_from_slice(&head[1].to_be_bytes());
        good[at + 40..at + 44].copy_from_slice(&8u32.to_be_bytes());
        good[at + 44..at + 48].copy_from_slice(&4000u32.to_be_bytes());
    }
    let luks = Luks::read(&Memory::new(good.clone())).unwrap();
    assert_eq!((luks.version(), luks.slots().len()), (Version::One, 1));
    for at in (0..256).filter(|at| !(112..208).contains(at) && !(216..248).contains(at)) {
        for value in [0, 1, 0x7f, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = value;
            let medium = Memory::new(bytes);
            if let Ok(luks) = Luks::read(&medium) {
                // Iterations that would take long are not the question here.
                if luks.slots.values().all(|s| s.derivation.describe().len() < 30) {
                    let _ = luks.unlock(&medium, b"x");
                }
            }
        }
    }
}

fn tool(name: &str, args: &[&str], input: &[u8]) -> std::process::Output {
    use std::io::Write;
    let mut child = Command::new(name)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{name} (package cryptsetup-bin or qemu-utils): {e}"));
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn cryptsetup_opens_ours() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("v");
    let path = path.to_str().unwrap();
    let below = backend(&dir, "v", 17 << 20);
    let medium = BackendMedium(below);
    let kdf = Kdf::Argon2id { time: 4, memory: 1 << 10, lanes: 2 };
    let mut luks =
        Luks::format(&medium, b"key one", &FormatOptions { kdf, label: "a disk".into(), ..options() }).unwrap();
    let key = luks.unlock(&medium, b"key one").unwrap();
    luks.add_key(&medium, &key, b"key\ntwo\0", QUICK).unwrap();
    drop(medium);
    let dump = tool("cryptsetup", &["luksDump", path], b"");
    let text = String::from_utf8_lossy(&dump.stdout).into_owned();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    for part in ["aes-xts-plain64", "argon2id", "pbkdf2", "a disk", luks.uuid()] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let opens = |secret: &[u8]| {
        let args = ["luksOpen", "--test-passphrase", "--key-file", "-", path];
        tool("cryptsetup", &args, secret).status.success()
    };
    assert!(opens(b"key one") && opens(b"key\ntwo\0") && !opens(b"key two"));
    // What cryptsetup does to the header is understood here.
    let file = dir.path().join("three");
    std::fs::write(&file, "three").unwrap();
    let args = [
        "luksAddKey",
        "--pbkdf",
        "pbkdf2",
        "--pbkdf-force-iterations",
        "1000",
        "--key-file",
        "-",
        path,
        file.to_str().unwrap(),
    ];
    let out = tool("cryptsetup", &args, b"key one");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let medium = BackendMedium(backend(&dir, "v", 0));
    let mut luks = Luks::read(&medium).unwrap();
    assert_eq!(luks.unlock(&medium, b"three").unwrap().key, key.key);
    luks.remove_key(&medium, 0, false).unwrap();
    drop(medium);
    assert!(!opens(b"key one") && opens(b"three"));
}

#[test]
fn ours_opens_what_cryptsetup_makes() {
    let dir = TempDir::new().unwrap();
    let argon =
        ["--pbkdf", "argon2id", "--pbkdf-memory", "1024", "--pbkdf-parallel", "2", "--pbkdf-force-iterations", "4"];
    let pbkdf = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    let cases: [(&str, &[&str], &[&str], u32); 5] = [
        ("luks2", &["--sector-size", "512"], &argon, 512),
        ("luks2", &["--sector-size", "4096", "--key-size", "256", "--hash", "sha512"], &pbkdf, 4096),
        ("luks2", &["--luks2-metadata-size", "64k", "--offset", "65536"], &pbkdf, 0),
        ("luks1", &[], &["--pbkdf-force-iterations", "1000"], 512),
        ("luks1", &["--hash", "sha1", "--key-size", "256"], &["--pbkdf-force-iterations", "1000"], 512),
    ];
    for (i, (kind, how, kdf, sector)) in cases.into_iter().enumerate() {
        let path = dir.path().join(format!("c{i}"));
        std::fs::File::create(&path).unwrap().set_len(48 << 20).unwrap();
        let name = path.to_str().unwrap();
        let args = [&["luksFormat", "-q", "--type", kind], how, kdf, &["--key-file", "-", name]].concat();
        let out = tool("cryptsetup", &args, b"their key");
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        let below = backend(&dir, &format!("c{i}"), 0);
        let medium = BackendMedium(below.clone());
        let luks = Luks::read(&medium).unwrap();
        assert!(sector == 0 || luks.sector_size() == sector);
        assert_eq!(luks.unlock(&medium, b"other").err().unwrap().kind, LuksErrorKind::WrongKey);
        let disk = opened(below, b"their key");
        write(&disk, 1, &[9; 1024]).unwrap();
        assert_eq!(read(&disk, 1, 2).unwrap(), [9; 1024]);
    }
}

/// The data itself, with QEMU's own code as judge. It knows LUKS1.
#[test]
fn qemu_reads_and_writes_the_same_data() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("q");
    let (name, secret) = (path.to_str().unwrap(), "secret,id=s,data=their key");
    let args = ["create", "-q", "-f", "luks", "--object", secret, "-o", "key-secret=s,iter-time=10", name, "4M"];
    // It measures how fast it is, and gives up on a host that takes the CPU away from it ("Unable to get accurate CPU usage").
    let mut tries = (0..20).map(|_| tool("qemu-img", &args, b""));
    assert!(tries.any(|made| made.status.success()), "qemu-img {args:?}");
    let image = format!("driver=luks,key-secret=s,file.filename={name}");
    let io = |commands: &[&str]| {
        let mut args = vec!["--object", secret];
        commands.iter().for_each(|c| args.extend(["-c", c]));
        args.extend(["--image-opts", &image]);
        let out = tool("qemu-io", &args, b"");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success() && !text.contains("failed"), "{text}{}", String::from_utf8_lossy(&out.stderr));
    };
    io(&["write -P 1 0 512", "write -P 2 1M 1M", "write -P 3 4193792 512"]);
    let disk = opened(backend(&dir, "q", 0), b"their key");
    assert_eq!(disk.geometry().sectors, 8192);
    assert_eq!(read(&disk, 0, 1).unwrap(), [1; 512]);
    assert!(read(&disk, 2048, 2048).unwrap().iter().all(|b| *b == 2));
    assert_eq!(read(&disk, 8191, 1).unwrap(), [3; 512]);
    write(&disk, 100, &[4; 4096]).unwrap();
    write(&disk, 2048, &[5; 512]).unwrap();
    drop(disk);
    io(&["read -P 4 51200 4096", "read -P 5 1M 512", "read -P 2 1049088 512"]);
}
