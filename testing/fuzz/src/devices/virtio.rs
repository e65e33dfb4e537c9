//! The virtio devices: transport registers, queues, requests.

use std::sync::{Arc, Mutex};

use visor_net::cable::{CableEnd, cable};
use visor_net::{Frame, MacAddr, NetPort, Nic, Sent};
use visor_pci::PciAddress;
use visor_storage::{Cdrom, DiskIdentity, ScsiUnit};
use visor_virtio::blk::{Blk, BlkConfig};
use visor_virtio::console::{Console, ConsoleConfig, PortConfig};
use visor_virtio::input::Tablet;
use visor_virtio::net::{Net, NetConfig};
use visor_virtio::rng::{Entropy, Rng};
use visor_virtio::scsi::Scsi;
use visor_virtio::{VirtioDevice, VirtioPci};

use crate::disk::MemoryDisk;
use crate::pc::Pc;
use crate::virtqueue::{Driver, MORE, Piece, chain, started};
use crate::{Input, Script};

/// Drives `device` as the input says; what is left of its operations goes to `more`.
fn drive(data: &[u8], device: impl VirtioDevice + 'static, mut more: impl FnMut(u8, &mut Input<'_>)) {
    let mut pc = Pc::with_pci();
    let intx = pc.intx(2);
    let function = VirtioPci::new(Box::new(device), pc.memory.clone(), pc.interrupts.clone(), intx);
    pc.function(PciAddress::device(2), function.expect("it has few queues"));
    let driver = Driver::default();
    pc.drive(&mut Input::new(data), |pc, op, input| {
        if op >= MORE {
            more(op - MORE, input);
        } else {
            driver.operate(pc, op, input);
        }
    });
}

pub(super) fn blk(data: &[u8]) {
    let config = BlkConfig { queues: 2, serial: "S-1".into() };
    let blk = Blk::new(MemoryDisk::new(256, false), &config);
    let handle = blk.handle();
    drive(data, blk, |_, _| handle.resized());
}

/// A block request: kind, sector, data.
fn block(s: Script, kind: u32, sector: u64, pieces: &[Piece<'_>]) -> Script {
    let head = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
    chain(s, 0, &[&[Piece::Out(&head)], pieces, &[Piece::In(1)]].concat())
}

pub(super) fn blk_seeds() -> Vec<Vec<u8>> {
    let range = [&7u64.to_le_bytes()[..], &8u32.to_le_bytes(), &[0; 4]].concat();
    vec![
        block(block(started(), 0, 0, &[Piece::In(1024)]), 1, 9, &[Piece::Out(&[5; 512])]).end(),
        block(block(started(), 4, 0, &[]), 8, 0, &[Piece::In(20)]).extra(MORE).end(),
        block(block(started(), 11, 0, &[Piece::Out(&range)]), 13, 0, &[Piece::Out(&range)]).end(),
        block(started(), 0, u64::MAX / 512, &[Piece::In(512), Piece::In(512)]).end(),
    ]
}

pub(super) fn scsi(data: &[u8]) {
    let (scsi, handle) = Scsi::new(2);
    let disk =
        || ScsiUnit::disk(MemoryDisk::new(256, false), DiskIdentity { serial: "S-2".into(), model: "DISK".into() });
    let cdrom = Cdrom::new("CD");
    let tray = cdrom.tray();
    tray.insert(MemoryDisk::new(64, true), "disc").expect("the tray is empty");
    handle.insert(0, disk()).expect("it is free");
    handle.insert(1, ScsiUnit::cdrom(cdrom)).expect("it is free");
    drive(data, scsi, |op, input| match op {
        0 => _ = handle.remove(input.u8()),
        1 => _ = handle.insert(input.u8(), disk()),
        2 => _ = tray.eject(input.u8() & 1 != 0),
        _ => _ = tray.insert(MemoryDisk::new(u64::from(input.u8()), true), "other"),
    });
}

/// A SCSI command with data for the unit or room for what it says.
fn command(s: Script, target: u8, cdb: &[u8], data: &[Piece<'_>]) -> Script {
    let mut head = vec![1, target, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    head.extend_from_slice(cdb);
    head.resize(19 + 32, 0);
    let (out, room): (Vec<_>, Vec<_>) = data.iter().partition(|p| matches!(p, Piece::Out(_)));
    chain(s, 2, &[vec![Piece::Out(&head)], out, vec![Piece::In(108)], room].concat())
}

/// Commands that want data of the disk (target 0) and of the drive (1).
fn reads() -> Vec<Vec<u8>> {
    let read = |cdbs: &[&[u8]], target| {
        cdbs.iter().fold(started(), |s, cdb| command(s, target, cdb, &[Piece::In(4096)])).end()
    };
    vec![
        read(
            &[
                &[0; 6],
                &[0x12, 0, 0, 0, 96, 0],
                &[0x12, 1, 0x83, 0, 96, 0],
                &[0x12, 1, 0xb0, 0, 64, 0],
                &[0xa0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0],
            ],
            0,
        ),
        read(
            &[
                &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0],
                &[0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0],
                &[0x1a, 0, 0x3f, 0, 255, 0],
                &[0x5a, 0, 8, 0, 0, 0, 0, 0, 255, 0],
            ],
            0,
        ),
        read(
            &[
                &[0x43, 2, 0, 0, 0, 0, 0, 0, 255, 0],
                &[0x46, 0, 0, 0, 0, 0, 0, 1, 0, 0],
                &[0x4a, 1, 0, 0, 16, 0, 0, 0, 8, 0],
                &[0xbe, 0, 0, 0, 0, 0, 0, 0, 1, 0xf8, 0, 0],
                &[0x51, 0, 0, 0, 0, 0, 0, 0, 34, 0],
                &[0xad, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0],
            ],
            1,
        ),
        read(
            &[
                &[0x1b, 0, 0, 0, 2, 0],
                &[0x1e, 0, 0, 0, 1, 0],
                &[0x28, 0, 0, 0, 0, 1, 0, 0, 1, 0],
                &[0x03, 0, 0, 0, 18, 0],
                &[0xbd, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0],
            ],
            1,
        ),
    ]
}

pub(super) fn scsi_seeds() -> Vec<Vec<u8>> {
    let write10 = [0x2a, 0, 0, 0, 0, 3, 0, 0, 2, 0];
    let write16 = [0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0];
    let unmap = [0, 22, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 8, 0, 0, 0, 0];
    let writes = command(started(), 0, &write10, &[Piece::Out(&[1; 1024])]);
    let writes = command(writes, 0, &write16, &[Piece::Out(&[2; 512])]);
    let writes = command(writes, 0, &[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], &[Piece::Out(&unmap)]);
    let writes = command(writes, 0, &[0x41, 0, 0, 0, 0, 1, 0, 0, 9, 0], &[Piece::Out(&[3; 512])]);
    let select = [0, 0, 0, 0, 8, 10, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut seeds = reads();
    seeds.extend([
        command(writes, 0, &[0x15, 0x10, 0, 0, 16, 0], &[Piece::Out(&select)]).end(),
        chain(started(), 0, &[Piece::Out(&[0; 24]), Piece::In(5)])
            .extra(MORE)
            .raw(&[0])
            .extra(MORE + 1)
            .raw(&[5])
            .extra(MORE + 2)
            .raw(&[0])
            .end(),
    ]);
    seeds
}

/// The far end of a cable.
fn far_end(far: &Mutex<CableEnd>, op: u8, input: &mut Input<'_>, nic: &dyn Nic) {
    let mut far = far.lock().expect("nobody panicked");
    match op {
        0 => _ = far.send(Frame::plain(input.bytes())),
        1 => nic.set_link(input.u8() & 1 != 0),
        _ => _ = far.receive(&mut |_: Frame<'_>| Sent::Yes),
    }
    drop(far);
    nic.pump();
}

pub(super) fn net(data: &[u8]) {
    let (near, far) = cable(1500);
    let config = NetConfig { mac: MacAddr([0x52, 0x54, 0, 0, 0, 1]), pairs: 2 };
    let (net, handle) = Net::new(Box::new(near), &config, Arc::new(|| ()));
    let far = Mutex::new(far);
    drive(data, net, |op, input| far_end(&far, op, input, &handle));
}

/// A frame that everybody takes.
pub(super) fn frame() -> Vec<u8> {
    [&[0xff; 6][..], &[0x52, 0x54, 0, 0, 0, 1], &crate::net::frames::udp(b"hello")[12..]].concat()
}

pub(super) fn net_seeds() -> Vec<Vec<u8>> {
    let packet = |head: [u8; 12]| [&head[..], &frame()].concat();
    let receive = chain(chain(started(), 0, &[Piece::In(1526)]), 2, &[Piece::In(12), Piece::In(2000)]);
    let control = |class: u8, command: u8, data: &[u8]| {
        chain(started(), 4, &[Piece::Out(&[class, command]), Piece::Out(data), Piece::In(1)])
    };
    let tso = [1, 1, 54, 0, 100, 0, 34, 0, 16, 0, 0, 0];
    vec![
        chain(started(), 1, &[Piece::Out(&packet([0; 12]))]).extra(MORE + 2).end(),
        chain(started(), 1, &[Piece::Out(&[&tso[..], &crate::net::frames::tcp(&[7; 900])].concat())])
            .extra(MORE + 2)
            .end(),
        receive.extra(MORE).bytes(&frame()).extra(MORE).bytes(&frame()).end(),
        control(0, 0, &[1]).end(),
        control(1, 0, &[2, 0, 0, 0, 1, 2, 3, 4, 5, 6, 2, 2, 3, 4, 5, 6, 0, 0, 0, 0]).end(),
        control(2, 0, &[5, 0]).end(),
        control(4, 0, &[2, 0]).extra(MORE + 1).raw(&[0]).end(),
    ]
}

pub(super) fn console(data: &[u8]) {
    let ports = [("console", true), ("agent", false)].map(|(name, console)| PortConfig { name: name.into(), console });
    let config = ConsoleConfig { ports: ports.to_vec(), size: (80, 25) };
    let (console, handle) = Console::new(&config).expect("two are not too many");
    drive(data, console, |op, input| {
        let port = handle.port_at(input.below(2)).expect("there are two");
        match op {
            0 => _ = port.write(input.bytes()),
            1 => _ = port.read(&mut vec![0; usize::from(input.u16())]),
            2 => port.set_open(input.u8() & 1 != 0),
            _ => handle.resize(input.u16(), input.u16()),
        }
    });
}

pub(super) fn console_seeds() -> Vec<Vec<u8>> {
    let control = |s: Script, id: u32, event: u16, value: u16| {
        let message = [&id.to_le_bytes()[..], &event.to_le_bytes(), &value.to_le_bytes()].concat();
        chain(s, 3, &[Piece::Out(&message)])
    };
    let rooms = (0..4).fold(started(), |s, _| chain(s, 2, &[Piece::In(64)]));
    let ready = control(control(control(rooms, 0, 0, 1), 1, 3, 1), 1, 6, 1);
    let opened = ready.extra(MORE + 2).raw(&[1, 1]);
    vec![
        chain(opened.clone(), 5, &[Piece::Out(b"from the guest")]).extra(MORE + 1).raw(&[1, 64, 0]).end(),
        chain(opened, 4, &[Piece::In(16)]).extra(MORE).raw(&[1]).bytes(b"longer than sixteen bytes").end(),
        chain(started(), 1, &[Piece::Out(b"x")]).extra(MORE + 3).raw(&[0, 100, 0, 50, 0]).end(),
    ]
}

/// The same bytes on each run.
struct Constant;

impl Entropy for Constant {
    fn fill(&mut self, data: &mut [u8]) -> bool {
        data.fill(0x5a);
        true
    }
}

pub(super) fn rng(data: &[u8]) {
    drive(data, Rng::new(Constant), |_, _| ());
}

pub(super) fn rng_seeds() -> Vec<Vec<u8>> {
    vec![chain(chain(started(), 0, &[Piece::In(64)]), 0, &[Piece::In(1), Piece::In(60000)]).end()]
}

pub(super) fn tablet(data: &[u8]) {
    let (tablet, handle) = Tablet::new();
    drive(data, tablet, |_, input| {
        handle.input(&super::i8042::event(input));
        let _ = handle.is_active();
    });
}

pub(super) fn tablet_seeds() -> Vec<Vec<u8>> {
    let rooms = (0..8).fold(started(), |s, _| chain(s, 0, &[Piece::In(8)]));
    let asks = [1, 3, 0x11, 0x12].into_iter().fold(Script::new(), |s, n| s.store(1, 0x2000, 1, n).load(1, 0x2008, 8));
    vec![
        rooms.extra(MORE).raw(&[1, 3, 5, 0, 6, 0, 4, 0, 1]).end(),
        asks.end(),
        chain(started(), 1, &[Piece::Out(&[0; 8])]).end(),
    ]
}
