//! The bus itself: what software can do to functions that do nothing.

use std::sync::Arc;

use visor_pci::{
    BarKind, ChipsetSink, ConfigSpace, Identity, Interrupts, IntxPin, Msi, MsixLayout, PciAddress, PciDevice,
    ShadowArea,
};

use crate::pc::{self, Pc};
use crate::{Input, Script};

/// A function with every kind of BAR, MSI and MSI-X.
struct Function {
    config: ConfigSpace,
    msi: Msi,
    interrupts: Interrupts,
}

impl Function {
    fn new(pc: &Pc) -> Self {
        let mut config =
            ConfigSpace::new(Identity { vendor: 0x1af4, device: 0x10, class: 0xff_0000, ..Identity::default() });
        for (bar, kind, size) in [(0, BarKind::Mem32, 4096), (1, BarKind::Io, 64), (2, BarKind::Mem64, 1 << 20)] {
            config.add_bar(bar, kind, size).expect("there is room");
        }
        config.set_rom(vec![0x55; 4096].into()).expect("it is a size for a ROM");
        config.set_interrupt_pin(IntxPin::A);
        let msi = Msi::new(&mut config, pc.interrupts.clone()).expect("there is room");
        let layout = MsixLayout { vectors: 70, bar: 0, table: 0, pending: 0x800 };
        let interrupts = Interrupts::new(&mut config, layout, pc.interrupts.clone(), Some(pc.intx(4)));
        Function { config, msi, interrupts: interrupts.expect("there is room") }
    }
}

impl PciDevice for Function {
    fn name(&self) -> &str {
        "function"
    }
    fn config(&self) -> &ConfigSpace {
        &self.config
    }
    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }
    fn follow_config(&mut self) {
        self.interrupts.update(&self.config);
    }
    fn bar_read(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
        if bar == 0 {
            self.interrupts.msix_read(offset, data);
        }
    }
    fn bar_write(&mut self, bar: u8, offset: u64, data: &[u8]) {
        if bar == 0 {
            self.interrupts.msix_write(offset, data);
        }
    }
}

/// What the board makes of the chipset's registers: each area once, in order.
struct Board;

impl ChipsetSink for Board {
    fn shadow_ram(&self, areas: &[ShadowArea]) {
        assert!(areas.len() == 13 && areas.windows(2).all(|w| w[0].start + w[0].len == w[1].start));
    }
}

pub(super) fn run(data: &[u8]) {
    let mut pc = Pc::new().add_pci(Arc::new(Board));
    let function = Function::new(&pc);
    let function = pc.function(PciAddress::device(4), function);
    pc.drive(&mut Input::new(data), |pc, op, input| {
        let n = input.u8();
        match op {
            0 => function.lock().expect("nobody panicked").interrupts.signal(n.into()),
            1 => function.lock().expect("nobody panicked").interrupts.set_intx(n & 1 != 0),
            2 => {
                let f = function.lock().expect("nobody panicked");
                f.msi.signal(&f.config);
            }
            _ => {
                // Unplugged and plugged again, as a user does.
                let mut bus = pc.pci.as_ref().expect("there is a bus").lock().expect("nobody panicked");
                bus.remove(4);
                bus.add(PciAddress::device(4), function.clone()).expect("the slot is free");
                let _ = (bus.routing(), bus.free_device());
            }
        }
    });
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let bars = (0..7).fold(Script::new(), |s, b| {
        s.config(0, 0x10 + 4 * b, 4, 0xffff_ffff).raw(&[pc::CONFIG_READ, 0, 0x10 + 4 * b, 2])
    });
    // The functions of the chipset are addressed by device number where there is no such function of ours.
    let chipset = Script::new().config(0x80, 0x59, 1, 0x30).outp(0, 0, 4, 0x8000_0058).outp(0, 5, 2, 0x3333);
    let routes =
        chipset.outp(0, 0, 4, 0x8000_0860).outp(0, 4, 4, 0x0b0a_0980).outp(0, 0, 4, 0x8000_0b40).outp(0, 4, 4, 0xb001);
    vec![
        bars.config(0, 0x14, 4, 0xc100)
            .config(0, 0x10, 4, 0xd000_0000)
            .config(0, 0x18, 4, 0xffff_fff0)
            .store(0, 0, 4, 1)
            .extra(3)
            .end(),
        routes.outp(0, 0, 4, 0x8000_0b80).out(0, 4, 1).out(0, 1, 6).extra(1).raw(&[1]).end(),
        Script::new()
            .config(0, 0x42, 2, 0xc000)
            .store(0, 12, 4, 0)
            .extra(0)
            .raw(&[0])
            .extra(2)
            .extra(0)
            .raw(&[69])
            .end(),
    ]
}
