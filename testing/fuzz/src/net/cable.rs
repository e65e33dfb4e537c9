//! The other process on a cable.

use std::io::Write;
use std::os::fd::OwnedFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use visor_host_net::CablePort;
use visor_net::{Accepts, Frame, NetPort, Sent};

use super::frames;
use crate::{Input, Script};

pub(super) fn run(data: &[u8]) {
    let kind = SockType::SeqPacket;
    let (ours, theirs): (OwnedFd, OwnedFd) =
        socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).expect("sockets can be had");
    let mut port = CablePort::new(ours, 1500).expect("it is a cable");
    let mut theirs = std::fs::File::from(theirs);
    let mut input = Input::new(data);
    let mut messages = 0;
    while !input.is_empty() && messages < 64 {
        let message = input.bytes();
        messages += 1;
        // An empty message would be the end of the cable.
        if !message.is_empty() && theirs.write_all(message).is_err() {
            break;
        }
        if messages % 8 == 0 {
            take(&mut port);
        }
    }
    take(&mut port);
    let accepts = port.peer_accepts();
    port.set_accepts(Accepts { checksum: !accepts.checksum, ..accepts });
    port.send(Frame::plain(&frames::udp(b"x")));
}

fn take(port: &mut CablePort) {
    port.receive(&mut |f: Frame<'_>| {
        let mut all = 0;
        visor_net::offload::adapt(f, Accepts::default(), &mut |f: Frame<'_>| {
            all += f.data.len();
            Sent::Yes
        })
    });
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let message = |head: [u8; 10], f: &[u8]| [&[0][..], &head, f].concat();
    let tso = [1, 1, 54, 0, 100, 0, 34, 0, 16, 0];
    let plain = message([0; 10], &frames::udp(b"x"));
    vec![
        Script::new().bytes(&plain).bytes(&[1, 7]).end(),
        Script::new().bytes(&message(tso, &frames::tcp(&[5; 900]))).end(),
        Script::new().bytes(&message([1, 0, 34, 0, 6, 0, 0, 0, 0, 0], &frames::udp(b"y"))).bytes(&plain).end(),
    ]
}
