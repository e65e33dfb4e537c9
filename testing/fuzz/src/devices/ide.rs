//! The IDE controller, a disk and a CD-ROM drive.

use visor_pci::PciAddress;
use visor_storage::ide::{self, IdeWires};
use visor_storage::{AtaDisk, Cdrom, DiskIdentity, Link, PacketDrive, Unit};

use crate::disk::MemoryDisk;
use crate::pc::Pc;
use crate::{Input, Script};

pub(super) fn run(data: &[u8]) {
    let mut pc = Pc::with_pci();
    let identity = |serial: &str| DiskIdentity { serial: serial.into(), model: "TEST".into() };
    let disk = |n| Unit::Disk(AtaDisk::new(MemoryDisk::new(256, false), identity(n), Link::Parallel));
    let cdrom = Cdrom::new("CD");
    let tray = cdrom.tray();
    tray.insert(MemoryDisk::new(64, true), "disc").expect("the tray is empty");
    let cd = Unit::Packet(PacketDrive::new(cdrom, identity("3"), Link::Parallel));
    let wires = IdeWires { memory: pc.memory.clone().into(), irqs: ide::IRQS.map(|n| pc.line(n)) };
    let function = ide::build(wires, [[Some(disk("1")), Some(disk("2"))], [Some(cd), None]], &pc.pio);
    [(0x1f0, 8), (0x170, 8), (0x3f6, 1), (0x376, 1)].iter().for_each(|(base, len)| pc.ports(*base, *len));
    pc.function(PciAddress { device: 1, function: 1 }, function.expect("the ports are free"));
    pc.drive(&mut Input::new(data), |pc, op, input| match op {
        0 => _ = tray.eject(input.u8() & 1 != 0),
        1 => _ = tray.insert(MemoryDisk::new(u64::from(input.u8()), true), "other"),
        // A block of data, as REP INSW and OUTSW move it.
        2 | 3 => {
            let port = if input.u8() & 1 == 0 { 0x1f0 } else { 0x170 };
            for _ in 0..256 {
                pc.pio.read(port, &mut [0; 2]);
            }
        }
        4 => {
            let port = if input.u8() & 1 == 0 { 0x1f0 } else { 0x170 };
            input.bytes().chunks(2).for_each(|w| _ = pc.pio.write(port, w));
        }
        // A packet.
        _ => {
            let mut packet = [0; 12];
            packet.iter_mut().zip(input.bytes()).for_each(|(to, from)| *to = *from);
            pc.pio.write(0x177, &[0xa0]);
            packet.chunks(2).for_each(|w| _ = pc.pio.write(0x170, w));
        }
    });
}

/// A command with its registers.
fn command(s: Script, registers: &[(u16, u8)], command: u8) -> Script {
    s.outs(1, registers).out(1, 7, command)
}

/// A packet with a limit of bytes of a block.
fn packet(s: Script, packet: &[u8], dma: u8) -> Script {
    s.outs(2, &[(6, 0), (1, dma), (4, 0), (5, 8)]).extra(5).bytes(packet).extra(2).raw(&[1]).inp(2, 7, 1)
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let lba = [(6, 0xe0), (2, 2), (3, 9), (4, 0), (5, 0)];
    let (region, last) = ([0, 0, 4, 0, 0, 4, 0, 0], [0, 4, 4, 0, 0, 0x4, 0, 0x80]);
    let table = Script::new().memory(0x1000, &[region, last].concat());
    // The bus master's registers are the fifth window of ports.
    let master = |s: Script, write: u8| s.outp(5, 4, 4, 0x1000).out(5, 2, 6).out(5, 0, write).out(5, 0, write | 1);
    let reads = [0xec, 0x20, 0xc4, 0xb0, 0xf8, 0x27, 0x24, 0x29].into_iter();
    let all = reads.fold(Script::new(), |s, c| command(s, &lba, c).extra(2).raw(&[0]).inp(1, 7, 1));
    let writes = [0x30, 0x34, 0xc5, 0x39].into_iter();
    let written =
        writes.fold(Script::new(), |s, c| command(s, &lba, c).extra(4).raw(&[0]).bytes(&[7; 512]).inp(1, 7, 1));
    let settings = [(0xc6, 4), (0xef, 3), (0x91, 63), (0x40, 1), (0xe7, 0), (0xe0, 0), (0x90, 0), (0x10, 0)];
    let set = settings.into_iter().fold(Script::new(), |s, (c, n)| command(s, &[(2, n), (1, n)], c).inp(1, 1, 1));
    let cd: [&[u8]; 8] = [
        &[0x12, 0, 0, 0, 36],
        &[0x28, 0, 0, 0, 0, 0, 0, 0, 2],
        &[0x43, 2, 0, 0, 0, 0, 0, 8, 0],
        &[0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 64],
        &[0x46, 0, 0, 0, 0, 0, 0, 0, 64],
        &[0xbe, 0, 0, 0, 0, 0, 0, 0, 1, 0xf8],
        &[3, 0, 0, 0, 18],
        &[0x1b, 0, 0, 0, 2],
    ];
    let packets = cd.into_iter().fold(Script::new(), |s, p| packet(s, p, 0));
    vec![
        all.end(),
        written.end(),
        set.end(),
        master(command(table.clone(), &lba, 0xc8), 8).out(5, 0, 0).inp(5, 2, 1).end(),
        master(command(table.clone(), &lba, 0x35), 0).inp(1, 7, 1).end(),
        packets.extra(1).raw(&[3]).end(),
        packet(table, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1], 1).outp(5, 12, 4, 0x1000).outs(5, &[(8, 8), (8, 9)]).end(),
        Script::new().outs(3, &[(0, 4), (0, 0)]).outs(1, &[(6, 0xb0), (7, 0x08)]).inp(3, 0, 1).end(),
    ]
}
