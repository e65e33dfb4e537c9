//! `systemctl` against a manager in another thread, over a real socket.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::*;
use crate::service::control::Server;
use crate::service::manager::Manager;
use crate::sys::{PollSet, Reaped};

/// A system with two services, and a thread that is its PID 1.
struct System {
    root: PathBuf,
    end: Arc<AtomicBool>,
    init: Option<JoinHandle<()>>,
}

impl System {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("visor-ctl-{name}-{}", std::process::id()));
        let units = root.join("usr/lib/systemd/system");
        fs::create_dir_all(&units).unwrap();
        let web = "[Unit]\nDescription=Web server\n[Service]\nExecStart=sh -c 'echo serving; exec sleep 1000'\n\
                   [Install]\nWantedBy=multi-user.target\n";
        fs::write(units.join("web.service"), web).unwrap();
        fs::write(units.join("static.service"), "[Service]\nExecStart=sleep 1000\n").unwrap();
        let end = Arc::new(AtomicBool::new(false));
        let init = std::thread::spawn({
            let (root, end) = (root.clone(), end.clone());
            let mut server = Server::bind(&root.join("init.sock")).unwrap();
            move || serve(&root, &mut server, &end)
        });
        Self { root, end, init: Some(init) }
    }

    /// Runs a command line; returns the exit status, standard output and standard error.
    fn ctl(&self, line: &str) -> (u8, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let socket = self.root.join("init.sock");
        let mut ctl = Systemctl { root: &self.root, socket: &socket, logs: &self.root, out: &mut out, err: &mut err };
        let code = ctl.run(&arguments).unwrap();
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }
}

fn serve(root: &Path, server: &mut Server, end: &AtomicBool) {
    let mut manager = Manager::new(root, root);
    while !end.load(Ordering::Relaxed) {
        let mut set = PollSet::new();
        for fd in server.descriptors() {
            set.add(&fd, true, false);
        }
        set.wait(Some(Duration::from_millis(5))).unwrap();
        for pid in manager.pids() {
            if let Reaped::Child(pid, status) = sys::reap(Some(pid)) {
                manager.child_ended(pid, status);
            }
        }
        manager.tick(Instant::now());
        server.step(&mut manager);
    }
    for pid in manager.pids() {
        let _ = sys::kill_group(pid, libc::SIGKILL);
        while sys::reap(Some(pid)) == Reaped::Running {}
    }
}

impl Drop for System {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        let _ = self.init.take().unwrap().join();
        let _ = fs::remove_dir_all(&self.root);
    }
}

#[test]
fn a_service_from_first_look_to_last() {
    let system = System::new("life");
    let (code, out, _) = system.ctl("status web");
    assert_eq!(code, 3);
    assert!(out.starts_with("○ web.service - Web server\n     Loaded: loaded (/usr/lib/systemd/system/web.service; disabled)\n     Active: inactive (dead)\n"), "{out}");
    assert_eq!(system.ctl("is-active web"), (3, "inactive\n".into(), String::new()));

    let (code, _, err) = system.ctl("enable --now web");
    assert_eq!(code, 0);
    assert_eq!(
        err,
        "Created symlink /etc/systemd/system/multi-user.target.wants/web.service → /usr/lib/systemd/system/web.service.\n"
    );
    let link = system.root.join("etc/systemd/system/multi-user.target.wants/web.service");
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("/usr/lib/systemd/system/web.service"));
    assert_eq!(system.ctl("is-enabled web.service"), (0, "enabled\n".into(), String::new()));
    assert_eq!(system.ctl("enable web").2, "", "twice is no change");

    std::thread::sleep(Duration::from_millis(100));
    let (code, out, _) = system.ctl("status web");
    assert_eq!(code, 0);
    assert!(out.starts_with("● web.service") && out.contains("Active: active (running) since "), "{out}");
    assert!(out.contains("Main PID: ") && out.ends_with("\nserving\n"), "{out}");
    let (_, table, _) = system.ctl("list-units");
    assert!(table.contains("web.service    loaded active   running Web server"), "{table}");

    assert_eq!(system.ctl("restart web").0, 0);
    assert_eq!(
        system.ctl("disable --now web"),
        (0, String::new(), "Removed \"/etc/systemd/system/multi-user.target.wants/web.service\".\n".into())
    );
    assert!(fs::symlink_metadata(link).is_err());
    assert_eq!(system.ctl("is-active -q web"), (3, String::new(), String::new()));
}

#[test]
fn unknown_units_have_the_statuses_of_the_original() {
    let system = System::new("unknown");
    assert_eq!(system.ctl("status no"), (4, String::new(), "Unit no.service could not be found.\n".into()));
    assert_eq!(
        system.ctl("start no"),
        (5, String::new(), "Failed to start no.service: Unit no.service not found.\n".into())
    );
    assert_eq!(
        system.ctl("enable no"),
        (1, String::new(), "Failed to enable unit: Unit file no does not exist.\n".into())
    );
    let (code, _, err) = system.ctl("is-enabled no");
    assert_eq!((code, err.as_str()), (1, "Failed to get unit file state for no: No such file or directory\n"));
    assert_eq!(system.ctl("status ../../etc/passwd").0, 4);
    assert_eq!(system.ctl("frobnicate web").2, "Unknown command verb frobnicate.\n");
    assert_eq!(system.ctl("start").2, "Too few arguments.\n");
    assert_eq!(system.ctl("--frob").2, "systemctl: unrecognized option '--frob'\n");
}

#[test]
fn static_units_files_and_lists() {
    let system = System::new("static");
    assert_eq!(system.ctl("is-enabled static"), (0, "static\n".into(), String::new()));
    assert!(system.ctl("enable static").2.contains("no installation config"));
    let (code, out, _) = system.ctl("list-unit-files");
    assert_eq!(code, 0);
    assert!(out.contains("static.service static") && out.contains("web.service    disabled"), "{out}");
    assert!(system.ctl("cat web").1.starts_with("# /usr/lib/systemd/system/web.service\n[Unit]\n"));
    assert!(system.ctl("show web").1.contains("SubState=dead"));
    assert_eq!(system.ctl("daemon-reload").0, 0);
    assert!(system.ctl("--help").1.contains("enable UNIT"));
}

#[test]
fn without_pid_1_there_is_an_error_not_a_wait() {
    let mut system = System::new("alone");
    system.end.store(true, Ordering::Relaxed);
    system.init.take().unwrap().join().unwrap();
    fs::remove_file(system.root.join("init.sock")).unwrap();
    let (code, _, err) = system.ctl("start web");
    assert_eq!(code, 1);
    assert!(err.starts_with("Failed to connect to bus"), "{err}");
    system.init = Some(std::thread::spawn(|| {}));
}
