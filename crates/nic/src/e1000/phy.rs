//! The built-in PHY, a Marvell 88E1011 at address 1 of the management interface (SDM §8.4, §13.4.3, IEEE 802.3 clause 22).

const ADDRESS: u32 = 1;
const READY: u32 = 1 << 28;
const ERROR: u32 = 1 << 30;

const CONTROL: usize = 0;
const STATUS: usize = 1;
const PARTNER: usize = 5;
const GIGABIT_STATUS: usize = 10;
const SPECIFIC_STATUS: usize = 17;

const CONTROL_RESET: u16 = 1 << 15;
const CONTROL_RESTART: u16 = 1 << 9;

/// The registers.
#[derive(Debug)]
pub(super) struct Phy {
    regs: [u16; 32],
}

impl Phy {
    pub(super) fn new() -> Self {
        let mut regs = [0; 32];
        regs[CONTROL] = 0x1140; // negotiates, full duplex, 1000 Mbit/s
        regs[2] = 0x0141;
        regs[3] = 0x0c20;
        regs[4] = 0x0de1; // offers 10 and 100 Mbit/s and pause frames
        regs[9] = 0x0e00; // offers 1000 Mbit/s
        regs[16] = 0x0360;
        regs[20] = 0x0d60;
        Phy { regs }
    }

    /// Carries out a command written to MDIC; gives what the register reads then.
    pub(super) fn command(&mut self, value: u32, link: bool) -> u32 {
        let reg = (value >> 16 & 31) as usize;
        let kept = value & 0x23ff_ffff;
        if value >> 21 & 31 != ADDRESS {
            return kept | READY | ERROR;
        }
        match value >> 26 & 3 {
            1 => {
                self.write(reg, value as u16);
                kept | 1 << 26 | READY
            }
            2 => kept & 0xffff_0000 | u32::from(self.read(reg, link)) | 2 << 26 | READY,
            _ => kept | READY | ERROR,
        }
    }

    fn read(&self, reg: usize, link: bool) -> u16 {
        match reg {
            // All modes, negotiation able and complete, link.
            STATUS if link => 0x796d,
            STATUS => 0x7949,
            PARTNER if link => 0x45e1,
            GIGABIT_STATUS if link => 0x3c00,
            // 1000 Mbit/s, full duplex, resolved, link.
            SPECIFIC_STATUS if link => 0xac04,
            PARTNER | GIGABIT_STATUS | SPECIFIC_STATUS => 0,
            _ => self.regs[reg],
        }
    }

    fn write(&mut self, reg: usize, value: u16) {
        match reg {
            // Resets and negotiations are over at once.
            CONTROL if value & CONTROL_RESET != 0 => *self = Phy::new(),
            CONTROL => self.regs[CONTROL] = value & !CONTROL_RESTART,
            STATUS | 2 | 3 | PARTNER | GIGABIT_STATUS | SPECIFIC_STATUS => {}
            _ => self.regs[reg] = value,
        }
    }
}
