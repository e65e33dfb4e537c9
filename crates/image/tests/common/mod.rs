//! A test bench: QEMU's software CPU with the devices visor's machine has, driven through the guest agent.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use visor_guest::host::{ExecId, HostEvent, HostSession};
use visor_guest::protocol::{ExecSpec, ExitStatus, Stream};
use visor_image::Image;

/// A running guest.
pub(crate) struct Bench {
    qemu: Child,
    socket: UnixStream,
    pub(crate) session: HostSession,
    limit: Instant,
}

/// What a command printed and returned.
pub(crate) struct Outcome {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) status: ExitStatus,
}

impl Bench {
    /// Boots the image with `root` (a writable copy) as root disk, if given, and further disks on a SCSI bus. The serial
    /// console goes into `dir/console`.
    pub(crate) fn boot(image: &Image, dir: &Path, root: Option<&Path>, disks: &[&Path], arguments: &str) -> Self {
        let port = dir.join("agent.sock");
        let _ = std::fs::remove_file(&port);
        let console = dir.join("console");
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-accel", "tcg", "-m", "256", "-nodefaults", "-display", "none", "-no-reboot"]);
        qemu.arg("-kernel").arg(image.kernel()).arg("-initrd").arg(image.initramfs());
        let root_words = if root.is_some() { "" } else { " root=" };
        qemu.arg("-append").arg(format!("console=ttyS0 {}{root_words} {arguments}", image.kernel_args()));
        qemu.arg("-serial").arg(format!("file:{}", console.display()));
        qemu.args(["-device", "virtio-serial-pci", "-device", "virtio-rng-pci", "-device", "virtio-scsi-pci"]);
        qemu.arg("-chardev").arg(format!("socket,id=agent,server=on,wait=off,path={}", port.display()));
        qemu.args(["-device", "virtserialport,chardev=agent,name=org.visor.agent.0"]);
        if let Some(root) = root {
            qemu.arg("-drive").arg(format!("file={},format=raw,if=virtio", root.display()));
        }
        for (n, disk) in disks.iter().enumerate() {
            qemu.arg("-drive").arg(format!("file={},format=raw,if=none,id=d{n}", disk.display()));
            qemu.arg("-device").arg(format!("scsi-hd,drive=d{n}"));
        }
        let qemu = qemu.stdin(Stdio::null()).spawn().unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        let socket = loop {
            match UnixStream::connect(&port) {
                Ok(socket) => break socket,
                Err(e) => assert!(Instant::now() < end, "QEMU does not listen: {e}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let limit = Instant::now() + Duration::from_secs(120);
        let mut bench = Self { qemu, socket, session: HostSession::new(0x1234), limit };
        assert!(matches!(bench.event(), HostEvent::Ready(_)));
        bench
    }

    fn pump(&mut self) -> bool {
        while !self.session.output().is_empty() {
            match self.socket.write(self.session.output()) {
                Ok(n) => self.session.consume_output(n),
                Err(_) => return false,
            }
        }
        let mut buffer = [0; 65536];
        match self.socket.read(&mut buffer) {
            Ok(0) => false,
            Ok(n) => {
                self.session.feed(&buffer[..n]).unwrap();
                true
            }
            Err(e) => matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }

    pub(crate) fn event(&mut self) -> HostEvent {
        loop {
            if let Some(event) = self.session.poll_event() {
                return event;
            }
            assert!(Instant::now() < self.limit, "the guest does not answer");
            assert!(self.pump(), "the guest is gone");
        }
    }

    /// Runs a command line in the guest's shell.
    pub(crate) fn sh(&mut self, line: &str) -> Outcome {
        let id = self.session.exec(&ExecSpec::new(["sh", "-c", line])).unwrap();
        self.finish(id, b"")
    }

    /// Runs a command line that must succeed, and returns what it printed.
    pub(crate) fn ok(&mut self, line: &str) -> String {
        let outcome = self.sh(line);
        assert_eq!(outcome.status, ExitStatus::Code(0), "{line}\n{}{}", outcome.out, outcome.err);
        outcome.out
    }

    pub(crate) fn finish(&mut self, id: ExecId, mut input: &[u8]) -> Outcome {
        self.limit = Instant::now() + Duration::from_secs(90);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        loop {
            let n = self.session.write_stdin(id, input);
            input = &input[n..];
            if input.is_empty() {
                self.session.close_stdin(id);
            }
            match self.event() {
                HostEvent::Output { id, stream, bytes } => {
                    self.session.consumed(id, stream, bytes.len());
                    if stream == Stream::Stdout { &mut out } else { &mut err }.extend(bytes);
                }
                HostEvent::Exited { status, .. } => {
                    let text = |b: Vec<u8>| String::from_utf8_lossy(&b).into_owned();
                    return Outcome { out: text(out), err: text(err), status };
                }
                HostEvent::StdinRoom(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Asks the guest to power off, and waits until it has.
    pub(crate) fn power_off(mut self) {
        self.session.shutdown(visor_guest::protocol::ShutdownKind::PowerOff);
        self.wait_for_end();
    }

    /// Waits until the machine has switched itself off.
    pub(crate) fn wait_for_end(&mut self) {
        let end = Instant::now() + Duration::from_secs(30);
        while self.qemu.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "the guest does not stop");
            self.pump();
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}
