//! The 82540EM.

use std::sync::{Arc, Mutex};

use visor_device::testing::ManualTimer;
use visor_net::cable::cable;
use visor_net::{Frame, MacAddr, NetPort, Nic, Sent};
use visor_nic::e1000::{E1000, E1000Handle, E1000Timer, E1000Wires};
use visor_pci::PciAddress;

use super::virtio::frame;
use crate::pc::Pc;
use crate::{Input, Script};

pub(super) fn run(data: &[u8]) {
    let mut pc = Pc::with_pci();
    let (near, mut far) = cable(1500);
    let timer = Arc::new(ManualTimer::default());
    let wires = E1000Wires {
        memory: pc.memory.clone().into(),
        intx: pc.intx(3),
        clock: pc.clock.clone(),
        timer: timer.clone(),
        port: Box::new(near),
        wake: Arc::new(|| ()),
    };
    let device = E1000::new(MacAddr([0x52, 0x54, 0, 0, 0, 1]), wires).expect("its BARs are possible");
    let device = pc.function(PciAddress::device(3), device);
    pc.alarm(timer, Arc::new(Mutex::new(E1000Timer(Arc::downgrade(&device)))));
    let handle = E1000Handle::new(device);
    pc.drive(&mut Input::new(data), |_, op, input| {
        match op {
            0 | 1 => _ = far.send(Frame::plain(input.bytes())),
            2 => handle.set_link(input.u8() & 1 != 0),
            _ => _ = far.receive(&mut |_: Frame<'_>| Sent::Yes),
        }
        handle.pump();
    });
}

fn descriptor(at: u64, low: u32, high: u32) -> Vec<u8> {
    [&at.to_le_bytes()[..], &low.to_le_bytes(), &high.to_le_bytes()].concat()
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let store = |s: Script, all: &[(u32, u64)]| all.iter().fold(s, |s, (at, v)| s.store(0, *at, 4, *v));
    let up = store(Script::new(), &[(0, 0x40), (0xd0, 0xffff_ffff), (0xc4, 100)]);
    let receive = store(up.clone(), &[(0x2800, 0x1_0000), (0x2808, 128), (0x2810, 0), (0x2818, 7), (0x100, 0x801e)]);
    let buffers: Vec<u8> = (0..8).flat_map(|n| descriptor(0x2_0000 + n * 0x800, 0, 0)).collect();
    let received =
        receive.memory(0x1_0000, &buffers).extra(0).bytes(&frame()).extra(0).bytes(&frame()).load(0, 0xc0, 4);
    let send = |descriptors: &[Vec<u8>], packet: &[u8]| {
        let s = up.clone().memory(0x3_0000, &descriptors.concat()).memory(0x4_0000, packet);
        let ring = [(0x3800, 0x3_0000), (0x3808, 256), (0x400, 0x10a), (0x3818, descriptors.len() as u64)];
        store(s, &ring).extra(3).load(0, 0xc0, 4)
    };
    let (udp, tcp) = (frame(), crate::net::frames::tcp(&[7; 1400]));
    let legacy = descriptor(0x4_0000, udp.len() as u32 | 0x0d00_0000, 0);
    // Context of a TCP segmentation (8254x manual §3.3.6), then its data.
    let context = descriptor(0x0000_3436_0000_180e | (0x36 + 16) << 32, 1400 | 0x2700_0000, 536 << 16 | 54 << 8);
    let large = descriptor(0x4_0000, tcp.len() as u32 | 0x2f10_0000, 0x0300);
    let eeprom = store(up.clone(), &[(0x14, 0x0001), (0x10, 0x0100), (0x20, 0x0821_0000), (0x20, 0x0400_8000)]);
    let tables = store(
        up.clone(),
        &[(0x5400, 0x1234_5678), (0x5404, 0x8000_0000), (0x5200, 1), (0x5600, 0xff), (0, 0x0400_0000)],
    );
    vec![
        received.end(),
        send(&[legacy], &udp).end(),
        send(&[context, large], &tcp).wait(1 << 30).end(),
        eeprom.load(0, 0x14, 4).load(0, 0x20, 4).end(),
        tables.outp(1, 0, 4, 0x5400).outp(1, 4, 4, 9).extra(2).raw(&[0]).load(0, 8, 4).end(),
    ]
}
