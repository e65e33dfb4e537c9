//! Disks that lie elsewhere, as a user uses them: pools, TLS, web servers. Needs qemu-utils and openssl.
#![allow(missing_docs, clippy::unwrap_used, dead_code)]

mod common;
#[path = "common/disks.rs"]
mod disks;
#[path = "common/web.rs"]
mod web;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use common::{stderr, stdout};
use disks::Home;
use web::web;

/// A folder as a member of a pool.
fn folder(home: &Home, name: &str) -> String {
    std::fs::create_dir_all(home.0.join(name)).unwrap();
    format!("dir:{}", home.0.join(name).display())
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 17) as u8).collect()
}

/// A program that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_pool_survives_the_loss_of_a_folder() {
    let home = Home::new("pool");
    let (a, b, c) = (folder(&home, "a"), folder(&home, "b"), folder(&home, "c"));
    assert!(home.fails(&["pool", "create", "p", "--member", &a, "--copies", "2"]).contains("groups of 2"));
    home.ok(&["pool", "create", "p", "--member", &a, "--member", &b, "--copies", "2"]);
    home.ok(&["disk", "create", "pool:p/v", "--size", "8M"]);
    assert!(home.fails(&["disk", "create", "pool:p/huge", "--size", "4000T"]).contains("promised"));
    // Written through a server, by somebody else's tool.
    let socket = home.0.join("s");
    let mut serve = home.command(&["disk", "serve", "pool:p/v", "--socket", socket.to_str().unwrap()]);
    let mut server = Running(serve.stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(home.fails(&["disk", "rm", "pool:p/v"]).contains("in use"));
    let io = ["-f", "raw", "-c", "write -P 9 1M 2M", "-c", "flush", line.trim()];
    let out = Command::new("qemu-io").args(io).output().unwrap();
    assert!(out.status.success() && !stdout(&out).contains("failed"), "{}{}", stdout(&out), stderr(&out));
    assert!(Command::new("kill").args(["-TERM", &server.0.id().to_string()]).status().unwrap().success());
    assert!(server.0.wait().unwrap().success());
    std::fs::remove_dir_all(home.0.join("b")).unwrap();
    assert!(home.ok(&["pool", "ls"]).contains("1 members missing, 1 volumes degraded"));
    let info: serde_json::Value = serde_json::from_str(&home.ok(&["pool", "info", "p", "--json"])).unwrap();
    assert_eq!(info["volumes"][0]["state"], "degraded");
    let out = home.run(&["disk", "convert", "pool:p/v", "./out.raw", "--format", "raw"]);
    assert!(out.status.success() && stderr(&out).contains("lost copies"), "{}", stderr(&out));
    let copy = std::fs::read(home.0.join("out.raw")).unwrap();
    assert!(copy.len() == 8 << 20 && copy[1 << 20..3 << 20].iter().all(|b| *b == 9));
    assert!(home.fails(&["pool", "rebuild", "p"]).contains("--replace"));
    let done = home.ok(&["pool", "rebuild", "p", "--replace", &format!("{b}={c}")]);
    assert!(done.contains("all copies"), "{done}");
    std::fs::remove_dir_all(home.0.join("a")).unwrap();
    home.ok(&["disk", "convert", "pool:p/v", "./again.raw", "--format", "raw"]);
    assert!(std::fs::read(home.0.join("again.raw")).unwrap() == copy);
    assert!(home.fails(&["pool", "rm", "p"]).contains("has volumes"));
    home.ok(&["disk", "rm", "pool:p/v"]);
    home.ok(&["pool", "rm", "p"]);
    assert_eq!(home.ok(&["pool", "ls", "--json"]).trim(), "[]");
}

/// Certificates of an authority of our own, by openssl.
fn certificates(home: &Home) {
    let script = "
set -e
openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 30 -subj /CN=authority -addext keyUsage=critical,keyCertSign 2>/dev/null
for who in server web1 web2; do
  names=DNS:$who; [ $who = server ] && names=DNS:localhost,IP:127.0.0.1
  openssl req -newkey rsa:2048 -nodes -keyout $who.key -out $who.csr -subj /CN=$who 2>/dev/null
  printf \"subjectAltName=$names\\nkeyUsage=digitalSignature\\n\" > ext
  openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out $who.pem -days 30 -extfile ext 2>/dev/null
  chmod 600 $who.key
done";
    assert!(Command::new("sh").args(["-c", script]).current_dir(&home.0).status().unwrap().success());
}

#[test]
fn disks_are_served_through_tls_each_to_its_client() {
    let home = Home::new("tls");
    certificates(&home);
    for (name, fill) in [("one", 1), ("two", 2), ("three", 3)] {
        home.file(&format!("{name}.raw"), &vec![fill; 1 << 20]);
    }
    let mut serve = home.command(&["disk", "serve", "./one.raw", "./two.raw", "--listen", "127.0.0.1:0"]);
    serve.args(["--tls-cert", "server.pem", "--tls-key", "server.key", "--tls-ca", "ca.pem"]);
    serve.args(["--allow", "one=web1", "--allow", "two=web1", "--allow", "two=web2"]);
    let mut server = Running(serve.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(server.0.stdout.take().unwrap()).lines();
    let (one, two) = (lines.next().unwrap().unwrap(), lines.next().unwrap().unwrap());
    assert!(one.starts_with("nbds://127.0.0.1:") && one.ends_with("/one") && two.ends_with("/two"), "{one} {two}");
    let pool = |name: &str, export: &str, who: &str| {
        let files = format!("tls-ca=ca.pem,tls-cert={who}.pem,tls-key={who}.key");
        home.run(&["pool", "create", name, "--member", &format!("{export},{files}")])
    };
    let out = pool("p1", &two, "web2");
    assert!(out.status.success(), "{}", stderr(&out));
    let out = pool("p2", &one, "web2");
    assert!(!out.status.success() && stderr(&out).contains("no such export"), "{}", stderr(&out));
    let out = pool("p3", &one.replace("nbds", "nbd"), "web1");
    assert!(!out.status.success() && stderr(&out).contains("TLS"), "{}", stderr(&out));
    let text = home.fails(&[
        "disk",
        "serve",
        "./three.raw",
        "--listen",
        "127.0.0.1:0",
        "--tls-cert",
        "ca.pem",
        "--tls-key",
        "web1.key",
    ]);
    assert!(text.contains("ca.pem"), "{text}");
}

fn is_same(home: &Home, disk: &str, expected: &[u8]) -> bool {
    let _ = std::fs::remove_file(home.0.join("same.raw"));
    home.ok(&["disk", "convert", disk, "./same.raw", "--format", "raw"]);
    std::fs::read(home.0.join("same.raw")).unwrap() == expected
}

#[test]
fn a_disk_over_a_file_of_a_web_server() {
    let home = Home::new("web");
    let data = pattern(3 << 20);
    // As qcow2, made by somebody else.
    let raw = home.file("base.raw", &data);
    let base = home.0.join("base.qcow2");
    let convert = ["convert", "-f", "raw", "-O", "qcow2", raw.to_str().unwrap(), base.to_str().unwrap()];
    assert!(Command::new("qemu-img").args(convert).status().unwrap().success());
    let content = Arc::new(Mutex::new(std::fs::read(&base).unwrap()));
    let url = format!("http://127.0.0.1:{}/base.qcow2", web(content.clone(), true));
    home.ok(&["disk", "create", "over", "--backing", &url]);
    assert!(is_same(&home, "over", &data));
    assert!(is_same(&home, &url, &data));
    let info: serde_json::Value = serde_json::from_str(&home.ok(&["disk", "info", "over", "--json"])).unwrap();
    assert_eq!(info["capacity"], 3 << 20);
    assert!(Path::new(&home.0.join("cache/visor/web")).read_dir().unwrap().count() == 1, "there is a cache");
    // Changed on its server.
    content.lock().unwrap().push(0);
    let text = home.fails(&["disk", "convert", "over", "./x.raw"]);
    assert!(text.contains("changed"), "{text}");
    content.lock().unwrap().pop();
    assert!(is_same(&home, "over", &data));
    // Named by an image of somebody else, and never by the user.
    let mut evil = std::fs::read(home.0.join("data/visor/disks/over.qcow2")).unwrap();
    let at = evil.windows(url.len()).position(|w| w == url.as_bytes()).unwrap();
    evil[at + url.len() - 7..at + url.len()].copy_from_slice(b".qcow99");
    home.file("evil.qcow2", &evil);
    let text = home.fails(&["disk", "convert", "./evil.qcow2", "./x.raw"]);
    assert!(text.contains("not allowed"), "{text}");
    // A server without ranges.
    let whole = format!("http://127.0.0.1:{}/base.raw", web(Arc::new(Mutex::new(data)), false));
    let text = home.fails(&["disk", "create", "no", "--backing", &whole]);
    assert!(text.contains("whole files only") && text.contains("fetch the file"), "{text}");
    // Writable it is not.
    let text = home.fails(&["run", "--disk", &url]);
    assert!(text.contains(",ro") && text.contains("--backing"), "{text}");
}
