//! Register offsets and bits (SDM §13.3 ff.).

pub(super) const CTRL: u32 = 0x0000;
pub(super) const STATUS: u32 = 0x0008;
pub(super) const EECD: u32 = 0x0010;
pub(super) const EERD: u32 = 0x0014;
pub(super) const MDIC: u32 = 0x0020;
pub(super) const VET: u32 = 0x0038;
pub(super) const ICR: u32 = 0x00c0;
pub(super) const ITR: u32 = 0x00c4;
pub(super) const ICS: u32 = 0x00c8;
pub(super) const IMS: u32 = 0x00d0;
pub(super) const IMC: u32 = 0x00d8;
pub(super) const RCTL: u32 = 0x0100;
pub(super) const TCTL: u32 = 0x0400;
pub(super) const PBA: u32 = 0x1000;
pub(super) const RDBAL: u32 = 0x2800;
pub(super) const RDLEN: u32 = 0x2808;
pub(super) const RDH: u32 = 0x2810;
pub(super) const RDT: u32 = 0x2818;
pub(super) const TDBAL: u32 = 0x3800;
pub(super) const TDLEN: u32 = 0x3808;
pub(super) const TDH: u32 = 0x3810;
pub(super) const TDT: u32 = 0x3818;
/// Statistics: cleared when read (§13.7).
pub(super) const STATISTICS: std::ops::Range<u32> = 0x4000..0x4128;
pub(super) const MPC: u32 = 0x4010;
pub(super) const GPRC: u32 = 0x4074;
pub(super) const GPTC: u32 = 0x4080;
pub(super) const GORCL: u32 = 0x4088;
pub(super) const GOTCL: u32 = 0x4090;
pub(super) const TORL: u32 = 0x40c0;
pub(super) const TOTL: u32 = 0x40c8;
pub(super) const TPR: u32 = 0x40d0;
pub(super) const TPT: u32 = 0x40d4;
pub(super) const RXCSUM: u32 = 0x5000;
pub(super) const MTA: u32 = 0x5200;
pub(super) const RA: u32 = 0x5400;
pub(super) const VFTA: u32 = 0x5600;
/// End of the registers that are kept.
pub(super) const END: u32 = 0x6000;

pub(super) const CTRL_SLU: u32 = 1 << 6;
pub(super) const CTRL_RST: u32 = 1 << 26;
pub(super) const CTRL_VME: u32 = 1 << 30;
pub(super) const CTRL_PHY_RST: u32 = 1 << 31;

/// Full duplex, 1000 Mbit/s as set and as found, bus width and speed as fixed for a PCI card.
pub(super) const STATUS_FIXED: u32 = 0x8008_0781;
pub(super) const STATUS_LINK: u32 = 1 << 1;

pub(super) const INT_TXDW: u32 = 1 << 0;
pub(super) const INT_TXQE: u32 = 1 << 1;
pub(super) const INT_LSC: u32 = 1 << 2;
pub(super) const INT_RXDMT0: u32 = 1 << 4;
pub(super) const INT_RXT0: u32 = 1 << 7;
pub(super) const INT_MDAC: u32 = 1 << 9;
pub(super) const INT_ASSERTED: u32 = 1 << 31;

pub(super) const RCTL_EN: u32 = 1 << 1;
pub(super) const RCTL_UPE: u32 = 1 << 3;
pub(super) const RCTL_MPE: u32 = 1 << 4;
pub(super) const RCTL_LPE: u32 = 1 << 5;
pub(super) const RCTL_BAM: u32 = 1 << 15;
pub(super) const RCTL_VFE: u32 = 1 << 18;
pub(super) const RCTL_BSEX: u32 = 1 << 25;
pub(super) const RCTL_SECRC: u32 = 1 << 26;

pub(super) const TCTL_EN: u32 = 1 << 1;
pub(super) const TCTL_PSP: u32 = 1 << 3;
