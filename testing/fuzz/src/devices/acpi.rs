//! Power management, reset, PCI hot plug.

use std::sync::Arc;

use visor_chipset::{AcpiPm, EjectSink, PCI_PLUG_PORT, PCI_PLUG_PORTS, PM_PORT, PciPlug, PmBlock, ResetControl};

use super::i8042::Power;
use crate::pc::Pc;
use crate::{Input, Script};

struct Ejected;

impl EjectSink for Ejected {
    fn eject(&self, _slot: u8) {}
}

pub(super) fn run(data: &[u8]) {
    let mut pc = Pc::new();
    let (clock, sci) = (pc.clock.clone(), pc.line(9));
    let pm = pc.timed(|timer| AcpiPm::new(clock, timer, sci, Arc::new(Power)));
    pc.claim(&pm);
    let block = pc.device(PmBlock(pm.clone()));
    pc.at_ports(PM_PORT, 64, block);
    let reset = pc.device(ResetControl::new(Arc::new(Power)));
    pc.at_ports(0xcf9, 1, reset);
    let plug = pc.device(PciPlug::new(pm.clone(), Arc::new(Ejected), 0xffff_fff8));
    pc.at_ports(PCI_PLUG_PORT, PCI_PLUG_PORTS, plug.clone());
    pc.drive(&mut Input::new(data), |_, op, input| {
        let n = input.u8();
        match op {
            0 => plug.lock().expect("nobody panicked").added(n),
            1 => plug.lock().expect("nobody panicked").ask(n),
            2 => plug.lock().expect("nobody panicked").forget(n),
            3 => pm.lock().expect("nobody panicked").raise_gpe(n),
            4 => _ = pm.lock().expect("nobody panicked").power_button(),
            5 => pm.lock().expect("nobody panicked").rtc_alarm(),
            _ => pm.lock().expect("nobody panicked").wake(),
        }
    });
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let enable = Script::new().out(0, 0, 0xf1).outp(1, 2, 2, 0x0521).outp(1, 4, 2, 1);
    vec![
        enable.clone().extra(4).raw(&[0]).inp(1, 0, 2).outp(1, 0, 2, 0xffff).wait(1 << 33).inp(1, 8, 4).end(),
        enable.clone().outp(1, 4, 2, 0x2001).outp(1, 4, 2, 0x3c01).extra(6).raw(&[0]).end(),
        enable.extra(0).raw(&[5]).inp(3, 0, 4).extra(1).raw(&[5]).inp(3, 4, 4).outp(3, 8, 4, 0xffff_ffff).end(),
        Script::new().outs(2, &[(0, 2), (0, 6), (0, 0x0e)]).end(),
    ]
}
