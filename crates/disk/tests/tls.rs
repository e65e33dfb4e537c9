//! NBD over TLS: our client and server with each other and with QEMU's. Needs qemu-utils; `nbdcopy` of libnbd-bin is used if there.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use tempfile::TempDir;
use visor_block::SharedBuffer;
use visor_block::{BlockBackend, BlockOp, BlockRequest};
use visor_disk::testing::{block, read, run, write};
use visor_disk::{
    Access, Alloc, ImageOptions, NbdAddress, NbdDisk, NbdExport, NbdOptions, NbdServer, RawDisk, TlsClient, TlsFiles,
    TlsServer, open_disk,
};

/// An authority with a server's and clients' certificates, named as QEMU's tools want them.
struct Authority {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        std::fs::write(dir.path().join("ca-cert.pem"), cert.pem()).unwrap();
        let issuer = Issuer::new(params, key);
        let authority = Authority { dir, issuer };
        authority.issue("server", "server", &["localhost", "127.0.0.1"], ExtendedKeyUsagePurpose::ServerAuth);
        for name in ["web1", "web2"] {
            authority.issue(name, "client", &[name], ExtendedKeyUsagePurpose::ClientAuth);
        }
        authority
    }

    fn issue(&self, folder: &str, role: &str, names: &[&str], usage: ExtendedKeyUsagePurpose) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, names[0]);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![usage];
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let folder = self.dir.path().join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::copy(self.dir.path().join("ca-cert.pem"), folder.join("ca-cert.pem")).unwrap();
        std::fs::write(folder.join(format!("{role}-cert.pem")), cert.pem()).unwrap();
        let path = folder.join(format!("{role}-key.pem"));
        std::fs::write(&path, key.serialize_pem()).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    }

    fn files(&self, folder: &str, role: &str) -> TlsFiles {
        let at = |name: String| Some(self.dir.path().join(folder).join(name));
        TlsFiles {
            ca: at("ca-cert.pem".into()),
            cert: at(format!("{role}-cert.pem")),
            key: at(format!("{role}-key.pem")),
            server_name: None,
        }
    }

    fn server(&self) -> TlsServer {
        TlsServer::new(&self.files("server", "server")).unwrap()
    }

    fn client(&self, name: &str) -> NbdOptions {
        let tls = Some(TlsClient::new(&self.files(name, "client")).unwrap());
        NbdOptions { tls, patience: Duration::from_secs(30), ..NbdOptions::default() }
    }

    /// For QEMU's tools.
    fn creds(&self, folder: &str, endpoint: &str) -> String {
        let dir = self.dir.path().join(folder);
        format!("tls-creds-x509,id=t,dir={},endpoint={endpoint},verify-peer=on", dir.display())
    }
}

struct Serving {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    port: u16,
}

impl Serving {
    fn start(server: NbdServer) -> Self {
        let (stop, port) = (server.stopper(), server.port().unwrap());
        let thread = thread::spawn(move || server.serve().unwrap());
        Serving { stop, thread: Some(thread), port }
    }

    fn address(&self, export: &str) -> NbdAddress {
        NbdAddress::Tcp { host: "localhost".into(), port: self.port, export: export.into(), tls: true }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn disk(dir: &Path, name: &str, size: u64) -> Arc<dyn BlockBackend> {
    let path = dir.join(name);
    if !path.exists() {
        RawDisk::create(&path, size, Alloc::Dynamic).unwrap();
    }
    open_disk(&path, &ImageOptions::new(Access::ReadWrite)).unwrap()
}

fn serve(authority: &Authority, exports: BTreeMap<String, NbdExport>) -> Serving {
    Serving::start(NbdServer::tcp("127.0.0.1:0", exports).unwrap().secured(authority.server()))
}

fn export(backend: Arc<dyn BlockBackend>, allow: Option<&[&str]>) -> NbdExport {
    let allow = allow.map(|a| a.iter().map(|n| (*n).to_owned()).collect());
    NbdExport { backend, read_only: false, allow }
}

/// A client with its server.
struct Both(NbdDisk, #[expect(dead_code, reason = "lives as long")] Serving);

impl BlockBackend for Both {
    fn geometry(&self) -> visor_block::BlockGeometry {
        self.0.geometry()
    }
    fn submit(&self, request: BlockRequest) {
        self.0.submit(request);
    }
    fn drain(&self) {
        self.0.drain();
    }
}

#[test]
fn our_client_and_server_conform_with_tls() {
    let authority = Authority::new();
    let dir = TempDir::new().unwrap();
    let n = std::cell::Cell::new(0);
    block(|sectors| {
        n.set(n.get() + 1);
        let backend = disk(dir.path(), &n.get().to_string(), sectors * 512);
        let serving = serve(&authority, [("disk".to_owned(), export(backend, None))].into());
        let client = NbdDisk::connect(&serving.address("disk"), authority.client("web1")).unwrap();
        Both(client, serving)
    });
}

/// Both directions at once with more than fits into any buffer.
#[test]
fn large_requests_both_ways_at_once() {
    let authority = Authority::new();
    let dir = TempDir::new().unwrap();
    let serving = serve(&authority, [("disk".to_owned(), export(disk(dir.path(), "d", 64 << 20), None))].into());
    let client = NbdDisk::connect(&serving.address("disk"), authority.client("web1")).unwrap();
    let (tx, rx) = std::sync::mpsc::channel();
    let mut reads = Vec::new();
    for i in 0..32u64 {
        let op = if i % 2 == 0 { BlockOp::Write } else { BlockOp::Read };
        let buffer = SharedBuffer::new(vec![i as u8; 2 << 20]);
        if op == BlockOp::Read {
            reads.push(buffer.clone());
        }
        let tx = tx.clone();
        let at = visor_block::Sector(i * 4096);
        client.submit(BlockRequest::new(op, at, 2 << 20, Box::new(buffer), move |r| _ = tx.send(r.is_ok())));
    }
    assert!((0..32).all(|_| rx.recv_timeout(Duration::from_secs(120)).unwrap()));
    assert!(reads.iter().all(|b| b.bytes().iter().all(|b| *b == 0)));
    for i in (0..32u64).step_by(2) {
        assert!(read(&client, i * 4096, 4096).unwrap().iter().all(|b| *b == i as u8));
    }
}

#[test]
fn a_volume_is_authorised_by_certificate() {
    let authority = Authority::new();
    let dir = TempDir::new().unwrap();
    let print = {
        use sha2::Digest;
        let pem = std::fs::read_to_string(authority.dir.path().join("web2/client-cert.pem")).unwrap();
        let base64: String = pem.lines().filter(|l| !l.starts_with('-')).collect();
        let out = Command::new("sh").args(["-c", &format!("echo {base64} | base64 -d")]).output().unwrap();
        let hex: Vec<String> = sha2::Sha256::digest(&out.stdout).iter().map(|b| format!("{b:02X}")).collect();
        format!("sha256:{}", hex.join(":"))
    };
    let exports = BTreeMap::from([
        ("one".to_owned(), export(disk(dir.path(), "1", 1 << 20), Some(&["web1"]))),
        ("two".to_owned(), export(disk(dir.path(), "2", 2 << 20), Some(&[&print]))),
        ("none".to_owned(), export(disk(dir.path(), "3", 3 << 20), Some(&[]))),
        ("all".to_owned(), export(disk(dir.path(), "4", 4 << 20), None)),
    ]);
    let serving = serve(&authority, exports);
    let sees = |who: &str, export: &str| match NbdDisk::connect(&serving.address(export), authority.client(who)) {
        Ok(disk) => disk.geometry().sectors / 2048,
        Err(e) => {
            let why = e.source.unwrap().to_string();
            assert!(why.contains("no such export"), "{why}");
            0
        }
    };
    assert_eq!((sees("web1", "one"), sees("web1", "two"), sees("web1", "none"), sees("web1", "all")), (1, 0, 0, 4));
    assert_eq!((sees("web2", "one"), sees("web2", "two"), sees("web2", "none"), sees("web2", "all")), (0, 2, 0, 4));
}

#[test]
fn strangers_are_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    let dir = TempDir::new().unwrap();
    let serving = serve(&authority, [("disk".to_owned(), export(disk(dir.path(), "d", 1 << 20), None))].into());
    let fails = |address: &NbdAddress, options: NbdOptions| {
        let e = NbdDisk::connect(address, options).err().unwrap();
        format!("{e}: {}", e.source.as_ref().unwrap())
    };
    let address = serving.address("disk");
    // A client of another authority, one without a certificate, and one that asks for another name.
    let mut theirs = other.files("web1", "client");
    theirs.ca = authority.files("web1", "client").ca;
    let with = |files: &TlsFiles| NbdOptions { tls: Some(TlsClient::new(files).unwrap()), ..NbdOptions::default() };
    assert!(fails(&address, with(&theirs)).contains("alert"));
    let naked = TlsFiles { cert: None, key: None, ..authority.files("web1", "client") };
    assert!(fails(&address, with(&naked)).contains("alert"));
    let named = TlsFiles { server_name: Some("elsewhere".into()), ..authority.files("web1", "client") };
    assert!(fails(&address, with(&named)).contains("not valid for name"));
    // A server of another authority.
    assert!(fails(&address, other.client("web1")).contains("invalid peer certificate"));
    // Without TLS.
    let plain = NbdAddress::Tcp { host: "localhost".into(), port: serving.port, export: "disk".into(), tls: false };
    assert!(fails(&plain, NbdOptions::default()).contains("nbds://"));
    // A server without TLS, where it is wanted.
    let backend = disk(dir.path(), "e", 1 << 20);
    let open =
        Serving::start(NbdServer::tcp("127.0.0.1:0", [("disk".to_owned(), export(backend, None))].into()).unwrap());
    assert!(fails(&open.address("disk"), authority.client("web1")).contains("no TLS"));
    // An export for somebody is nobody's without TLS.
    let backend = disk(dir.path(), "f", 1 << 20);
    let exports = [("disk".to_owned(), export(backend, Some(&["web1"])))].into();
    let open = Serving::start(NbdServer::tcp("127.0.0.1:0", exports).unwrap());
    let plain = NbdAddress::Tcp { host: "localhost".into(), port: open.port, export: "disk".into(), tls: false };
    assert!(fails(&plain, NbdOptions::default()).contains("no such export"));
}

#[test]
fn files_that_are_wrong_are_named() {
    let authority = Authority::new();
    let good = authority.files("server", "server");
    let dir = TempDir::new().unwrap();
    let junk = dir.path().join("junk.pem");
    std::fs::write(&junk, "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n").unwrap();
    let says = |files: TlsFiles| TlsServer::new(&files).err().unwrap().to_string();
    assert!(says(TlsFiles { cert: Some(junk.clone()), ..good.clone() }).contains("junk.pem"));
    assert!(says(TlsFiles { ca: Some("/nowhere/ca".into()), ..good.clone() }).contains("/nowhere/ca"));
    assert!(says(TlsFiles { key: None, ..good.clone() }).contains("go together"));
    assert!(says(TlsFiles::default()).contains("certificate"));
    let other = authority.files("web1", "client").key;
    assert!(says(TlsFiles { key: other, ..good.clone() }).contains("server-cert.pem"));
    std::fs::set_permissions(good.key.as_ref().unwrap(), PermissionsExt::from_mode(0o644)).unwrap();
    assert!(says(good).contains("everybody may read"));
}

/// Bytes that are no TLS, and options at the wrong time, do a server no harm.
#[test]
fn a_server_survives_nonsense() {
    let authority = Authority::new();
    let dir = TempDir::new().unwrap();
    let serving = serve(&authority, [("disk".to_owned(), export(disk(dir.path(), "d", 1 << 20), None))].into());
    let mut seed = 0x1234_5678_9abc_def1u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for round in 0..60 {
        let mut s = TcpStream::connect(("127.0.0.1", serving.port)).unwrap();
        s.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut hello = [0; 18];
        s.read_exact(&mut hello).unwrap();
        let mut message = 3u32.to_be_bytes().to_vec();
        message.extend(0x4948_4156_454f_5054u64.to_be_bytes());
        message.extend(5u32.to_be_bytes());
        message.extend(0u32.to_be_bytes());
        if round % 3 == 0 {
            // A handshake that is none: as a TLS record, so that it is looked at.
            message.extend([22, 3, 1, 0, 64]);
        }
        message.extend((0..100).flat_map(|_| random().to_le_bytes()));
        let _ = s.write_all(&message);
        let _ = s.shutdown(std::net::Shutdown::Write);
        let mut rest = Vec::new();
        let _ = s.read_to_end(&mut rest);
        assert!(!rest.windows(4).any(|w| w == b"disk"), "nothing is told outside TLS");
    }
    let client = NbdDisk::connect(&serving.address("disk"), authority.client("web1")).unwrap();
    write(&client, 0, &[1; 512]).unwrap();
}

/// The disk is served again after the server went away, with a request under way.
#[test]
fn a_lost_connection_is_made_again() {
    let authority = Authority::new();
    let dir = TempDir::new().unwrap();
    let backend = disk(dir.path(), "d", 1 << 20);
    let exports = || BTreeMap::from([("disk".to_owned(), export(backend.clone(), None))]);
    let first = serve(&authority, exports());
    let port = first.port;
    let client = NbdDisk::connect(&first.address("disk"), authority.client("web1")).unwrap();
    write(&client, 0, &[1; 512]).unwrap();
    drop(first);
    let again = thread::spawn({
        let (tls, exports) = (authority.server(), exports());
        move || {
            thread::sleep(Duration::from_millis(300));
            let server = loop {
                match NbdServer::tcp(&format!("127.0.0.1:{port}"), exports.clone()) {
                    Ok(s) => break s,
                    Err(_) => thread::sleep(Duration::from_millis(100)),
                }
            };
            Serving::start(server.secured(tls))
        }
    });
    write(&client, 1, &[2; 512]).unwrap();
    run(&client, BlockOp::Flush, 0, 0, Box::new(SharedBuffer::default())).unwrap();
    assert_eq!(read(&client, 0, 1).unwrap(), [1; 512]);
    drop(again.join().unwrap());
}

fn ok(out: Output) -> String {
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success() && !text.contains("failed"), "{text}{}", String::from_utf8_lossy(&out.stderr));
    text
}

#[test]
fn qemu_uses_our_server() {
    let authority = Authority::new();
    let dir = TempDir::new().unwrap();
    let serving =
        serve(&authority, [("disk".to_owned(), export(disk(dir.path(), "d", 8 << 20), Some(&["web1"])))].into());
    let image = format!("driver=nbd,host=localhost,port={},export=disk,tls-creds=t", serving.port);
    let qemu = |tool: &str, who: &str, args: &[&str]| {
        let creds = authority.creds(who, "client");
        let mut all = vec!["--object", &creds];
        all.extend(args);
        Command::new(tool).args(all).output().unwrap()
    };
    // qemu-img takes the command first.
    let creds = authority.creds("web1", "client");
    let info =
        ok(Command::new("qemu-img").args(["info", "--object", &creds, "--image-opts", &image]).output().unwrap());
    assert!(info.contains("8 MiB"), "{info}");
    let args = ["-c", "write -P 5 1M 4M", "-c", "flush", "-c", "read -P 5 1M 4M", "--image-opts", &image];
    ok(qemu("qemu-io", "web1", &args));
    assert!(!qemu("qemu-io", "web2", &["-c", "read 0 512", "--image-opts", &image]).status.success());
    let client = NbdDisk::connect(&serving.address("disk"), authority.client("web1")).unwrap();
    assert!(read(&client, 2048, 8192).unwrap().iter().all(|b| *b == 5));
    if Command::new("nbdcopy").arg("--version").output().is_ok() {
        let certs = authority.dir.path().join("web1");
        let uri = format!("nbds://localhost:{}/disk?tls-certificates={}", serving.port, certs.display());
        let copy = dir.path().join("copy");
        ok(Command::new("nbdcopy").args([&uri, copy.to_str().unwrap()]).output().unwrap());
        assert!(std::fs::read(copy).unwrap()[1 << 20..5 << 20].iter().all(|b| *b == 5));
    }
}

/// Ends with the test.
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn our_client_uses_qemus_server() {
    let authority = Authority::new();
    let dir = TempDir::new().unwrap();
    let path: PathBuf = dir.path().join("d");
    std::fs::write(&path, vec![6; 1 << 20]).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let creds = authority.creds("server", "server");
    let args = ["--object", &creds, "--tls-creds", "t", "-f", "raw", "-x", "disk", "-t", "-b", "127.0.0.1", "-p"];
    let child = Command::new("qemu-nbd").args(args).arg(port.to_string()).arg(&path).spawn().unwrap();
    let _qemu = Qemu(child);
    let address = NbdAddress::Tcp { host: "localhost".into(), port, export: "disk".into(), tls: true };
    let connect = |who: &str| NbdDisk::connect(&address, authority.client(who));
    let client = (0..100).find_map(|_| {
        thread::sleep(Duration::from_millis(100));
        connect("web1").ok()
    });
    let client = client.unwrap();
    assert_eq!(read(&client, 7, 1).unwrap(), [6; 512]);
    write(&client, 7, &[9; 512]).unwrap();
    run(&client, BlockOp::Flush, 0, 0, Box::new(SharedBuffer::default())).unwrap();
    drop(client);
    assert_eq!(std::fs::read(&path).unwrap()[3584..4096], [9; 512]);
    // Without a certificate.
    let naked = TlsFiles { cert: None, key: None, ..authority.files("web1", "client") };
    let tls = Some(TlsClient::new(&naked).unwrap());
    assert!(NbdDisk::connect(&address, NbdOptions { tls, ..NbdOptions::default() }).is_err());
}
