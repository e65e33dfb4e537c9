//! What firmware asks the machine.

use visor_firmware::fw_cfg::{FW_CFG_PORT, FW_CFG_PORTS, FwCfg, FwCfgConfig};

use crate::pc::Pc;
use crate::{Input, Script};

pub(super) fn run(data: &[u8]) {
    let mut pc = Pc::new();
    let config = FwCfgConfig { ram_bytes: 2 << 20, cpus: 2, uuid: [7; 16], boot_menu: true };
    let mut device = FwCfg::new(&config, Some(pc.memory.clone()));
    device.set_file("etc/something", vec![1; 3000]);
    device.set(0x11, vec![2; 100]);
    let device = pc.device(device);
    pc.at_ports(FW_CFG_PORT, FW_CFG_PORTS, device);
    pc.drive(&mut Input::new(data), |_, _, _| ());
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let dma = |control: u32, len: u32, to: u64| {
        let block = [&control.to_be_bytes()[..], &len.to_be_bytes(), &to.to_be_bytes()].concat();
        Script::new().memory(0x1000, &block).outp(0, 4, 4, 0).outp(0, 8, 4, 0x1000u32.swap_bytes())
    };
    vec![
        Script::new().outp(0, 0, 2, 0x19).inp(0, 1, 1).inp(0, 1, 4).inp(0, 4, 4).end(),
        dma(0x0019_000a, 64, 0x2000).end(),
        dma(0x0020_000a, 0xffff_ffff, 0x1f_f000).end(),
        dma(0x0011_0018, 8, 0x3000).outp(0, 8, 4, 0).end(),
    ]
}
