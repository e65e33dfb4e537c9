//! A PC with the controllers of this crate, and drivers for them that work through ports and configuration space.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use visor_block::{BlockBackend, BlockError, BlockErrorKind, BlockGeometry, BlockOp, BlockRequest, SECTOR};
use visor_device::testing::IrqLog;
use visor_device::{Bus, IrqLine, Mmio, Pio};
use visor_memory::{Gpa, GuestMemory, RamRange};
use visor_pci::{Apertures, PciAddress, PciBus};
use vm_memory::{Bytes, GuestAddress};

use crate::ide::{self, IdeDrives, IdeWires};
use crate::step::status::{BSY, DRQ, ERR};
use crate::{AtaDisk, Cdrom, DiskIdentity, Link, PacketDrive, Tray, Unit};

pub(crate) const RAM: u64 = 4 << 20;
/// Where tests put tables of memory regions, and data.
pub(crate) const TABLE: u64 = 0x1_0000;
pub(crate) const DATA: u64 = 0x10_0000;

/// Reproducible randomness.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// When a [`MemoryDisk`] completes its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Within `submit`.
    AtOnce,
    /// On a thread of its own.
    Thread,
    /// When [`MemoryDisk::release`] is called.
    Held,
}

/// A disk in memory that can be told to fail or to wait.
pub(crate) struct MemoryDisk {
    pub(crate) bytes: Arc<Mutex<Vec<u8>>>,
    /// What is left when the power goes: the bytes as the last flush found them.
    pub(crate) durable: Arc<Mutex<Vec<u8>>>,
    read_only: bool,
    pace: Mutex<Pace>,
    held: Mutex<Vec<BlockRequest>>,
    pub(crate) broken: Mutex<Option<BlockErrorKind>>,
    pub(crate) log: Mutex<Vec<BlockOp>>,
}

impl MemoryDisk {
    pub(crate) fn new(bytes: Vec<u8>, pace: Pace) -> Arc<Self> {
        Self::make(bytes, pace, false)
    }

    pub(crate) fn read_only(bytes: Vec<u8>) -> Arc<Self> {
        Self::make(bytes, Pace::AtOnce, true)
    }

    fn make(bytes: Vec<u8>, pace: Pace, read_only: bool) -> Arc<Self> {
        Arc::new(MemoryDisk {
            durable: Arc::new(Mutex::new(bytes.clone())),
            bytes: Arc::new(Mutex::new(bytes)),
            read_only,
            pace: Mutex::new(pace),
            held: Mutex::default(),
            broken: Mutex::default(),
            log: Mutex::default(),
        })
    }

    /// `sectors` sectors, each of which has its number in every byte.
    pub(crate) fn numbered(sectors: u64, pace: Pace) -> Arc<Self> {
        Self::new((0..sectors).flat_map(|s| [s as u8; SECTOR as usize]).collect(), pace)
    }

    pub(crate) fn set_pace(&self, pace: Pace) {
        *self.pace.lock().unwrap() = pace;
    }

    /// Carries out what has been held; returns how many that were.
    pub(crate) fn release(&self) -> usize {
        let held = std::mem::take(&mut *self.held.lock().unwrap());
        let n = held.len();
        held.into_iter().for_each(|r| serve(&self.bytes, &self.durable, r));
        n
    }
}

fn serve(bytes: &Mutex<Vec<u8>>, durable: &Mutex<Vec<u8>>, mut request: BlockRequest) {
    let result = (|| {
        let mut bytes = bytes.lock().unwrap();
        let at = (request.sector.0 * SECTOR) as usize;
        let range = at..at + request.len as usize;
        let outside = || BlockError::new(BlockErrorKind::OutOfRange, "outside the disk");
        match request.op {
            BlockOp::Read => request.buffer.put(0, bytes.get(range).ok_or_else(outside)?),
            BlockOp::Write => request.buffer.get(0, bytes.get_mut(range).ok_or_else(outside)?),
            BlockOp::Flush => {
                durable.lock().unwrap().clone_from(&bytes);
                Ok(())
            }
            BlockOp::Discard | BlockOp::WriteZeroes { .. } => {
                bytes.get_mut(range).ok_or_else(outside)?.fill(0);
                Ok(())
            }
        }
    })();
    request.complete(result);
}

impl BlockBackend for MemoryDisk {
    fn geometry(&self) -> BlockGeometry {
        let sectors = self.bytes.lock().unwrap().len() as u64 / SECTOR;
        BlockGeometry { sectors, physical_block: 4096, read_only: self.read_only }
    }

    fn submit(&self, request: BlockRequest) {
        self.log.lock().unwrap().push(request.op);
        if let Some(kind) = *self.broken.lock().unwrap() {
            return request.complete(Err(BlockError::new(kind, "broken for a test")));
        }
        let pace = *self.pace.lock().unwrap();
        match pace {
            Pace::AtOnce => serve(&self.bytes, &self.durable, request),
            Pace::Held => self.held.lock().unwrap().push(request),
            Pace::Thread => {
                let (bytes, durable) = (self.bytes.clone(), self.durable.clone());
                std::thread::spawn(move || serve(&bytes, &durable, request));
            }
        }
    }

    fn drain(&self) {}
}

pub(crate) fn disk_unit(backend: Arc<dyn BlockBackend>, link: Link) -> Unit {
    let identity = DiskIdentity { serial: "S-1".into(), model: "TEST DISK".into() };
    Unit::Disk(AtaDisk::new(backend, identity, link))
}

pub(crate) fn cd_unit(disc: Option<Arc<dyn BlockBackend>>, link: Link) -> (Unit, Tray) {
    let cdrom = Cdrom::new("TEST CD");
    let tray = cdrom.tray();
    if let Some(disc) = disc {
        tray.insert(disc, "disc").unwrap();
    }
    let identity = DiskIdentity { serial: "S-2".into(), model: "TEST CD".into() };
    (Unit::Packet(PacketDrive::new(cdrom, identity, link)), tray)
}

/// The PC with an IDE controller.
pub(crate) struct Rig {
    pub(crate) pio: Arc<Bus<Pio>>,
    pub(crate) pci: Arc<Mutex<PciBus>>,
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) irq: Arc<IrqLog>,
    _mmio: Arc<Bus<Mmio>>,
    /// First port of the bus master's registers.
    pub(crate) master: u16,
}

impl Rig {
    pub(crate) fn new(drives: IdeDrives) -> Self {
        let (pio, mmio) = (Arc::new(Bus::default()), Arc::new(Bus::default()));
        let irq = Arc::new(IrqLog::default());
        let memory = Arc::new(GuestMemory::new(&[RamRange { start: Gpa(0), len: RAM }]).unwrap());
        let apertures = Apertures { mem32: 0xc000_0000..0xfec0_0000, mem64: 0..0, io: 0xc000..0x1_0000 };
        let mut pci = PciBus::new(apertures, Arc::new(()), &pio, &mmio, irq.clone(), || ());
        let irqs = ide::IRQS.map(|n| IrqLine::new(irq.clone(), n));
        let function = ide::build(IdeWires { memory: memory.clone().into(), irqs }, drives, &pio).unwrap();
        pci.add(PciAddress { device: 1, function: 1 }, Arc::new(Mutex::new(function))).unwrap();
        pci.assign_resources().unwrap();
        let pci = Arc::new(Mutex::new(pci));
        pio.claim(0xcf8, 8, pci.clone()).unwrap();
        let mut rig = Rig { pio, pci, memory, irq, _mmio: mmio, master: 0 };
        rig.config_write(0x04, &5u16.to_le_bytes());
        rig.master = (rig.config_read(0x20) & 0xfffc) as u16;
        rig
    }

    pub(crate) fn config_read(&self, at: u8) -> u32 {
        self.pio.write(0xcf8, &(0x8000_0900 | u32::from(at & !3)).to_le_bytes());
        let mut d = [0; 4];
        self.pio.read(0xcfc, &mut d);
        u32::from_le_bytes(d)
    }

    pub(crate) fn config_write(&self, at: u8, data: &[u8]) {
        self.pio.write(0xcf8, &(0x8000_0900 | u32::from(at & !3)).to_le_bytes());
        self.pio.write(0xcfc + u16::from(at & 3), data);
    }

    pub(crate) fn inb(&self, port: u16) -> u8 {
        let mut d = [0];
        self.pio.read(port, &mut d);
        d[0]
    }

    pub(crate) fn outb(&self, port: u16, value: u8) {
        self.pio.write(port, &[value]);
    }

    /// Whether input `n` is high.
    pub(crate) fn line(&self, n: u32) -> bool {
        self.irq.0.lock().unwrap().iter().rev().find(|(g, _)| *g == n).is_some_and(|(_, level)| *level)
    }

    /// Waits until the drive of the channel at `base` is no longer busy; gives the status without acknowledging.
    pub(crate) fn settle(&self, base: u16) -> u8 {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let status = self.inb(base + 0x206);
            if status & BSY == 0 {
                return status;
            }
            assert!(Instant::now() < end, "the drive stays busy");
            std::thread::yield_now();
        }
    }

    /// Writes the registers of a 48-bit command, drive and all.
    pub(crate) fn command48(&self, base: u16, slave: bool, command: u8, lba: u64, count: u16) {
        self.outb(base + 6, 0x40 | u8::from(slave) << 4);
        self.outb(base + 2, (count >> 8) as u8);
        for (i, shift) in [24, 32, 40].into_iter().enumerate() {
            self.outb(base + 3 + i as u16, (lba >> shift) as u8);
        }
        self.outb(base + 2, count as u8);
        for (i, shift) in [0, 8, 16].into_iter().enumerate() {
            self.outb(base + 3 + i as u16, (lba >> shift) as u8);
        }
        self.outb(base + 7, command);
    }

    /// Reads all data that the drive offers; gives it with the number of blocks it came in.
    pub(crate) fn pio_in(&self, base: u16) -> (Vec<u8>, usize) {
        let (mut data, mut blocks) = (Vec::new(), 0);
        loop {
            let status = self.settle(base);
            assert_eq!(status & ERR, 0, "error {:#x}", self.inb(base + 1));
            if status & DRQ == 0 {
                return (data, blocks);
            }
            // Each block interrupts.
            blocks += usize::from(self.line(if base == 0x1f0 { 14 } else { 15 }));
            self.inb(base + 7);
            for _ in 0..256 {
                let mut word = [0; 2];
                self.pio.read(base, &mut word);
                data.extend(word);
            }
        }
    }

    /// Writes `data` as the drive asks for it.
    pub(crate) fn pio_out(&self, base: u16, data: &[u8]) {
        let mut words = data.chunks_exact(2);
        loop {
            let status = self.settle(base);
            assert_eq!(status & ERR, 0, "error {:#x}", self.inb(base + 1));
            if status & DRQ == 0 {
                assert_eq!(words.len(), 0, "all is taken");
                return;
            }
            for _ in 0..256 {
                self.pio.write(base, words.next().expect("no more is wanted than there is"));
            }
        }
    }

    /// Writes a table of memory regions.
    pub(crate) fn table(&self, regions: &[(u32, u16)]) {
        for (i, (at, len)) in regions.iter().enumerate() {
            let last = if i + 1 == regions.len() { 1u64 << 63 } else { 0 };
            let entry = u64::from(*at) | u64::from(*len) << 32 | last;
            self.memory.view().write_slice(&entry.to_le_bytes(), GuestAddress(TABLE + 8 * i as u64)).unwrap();
        }
    }

    /// Starts the bus master of channel 0 or 1.
    pub(crate) fn start_dma(&self, channel: u16, to_memory: bool) {
        let m = self.master + 8 * channel;
        self.pio.write(m + 4, &(TABLE as u32).to_le_bytes());
        self.outb(m + 2, 0x06);
        self.outb(m, if to_memory { 8 } else { 0 });
        self.outb(m, if to_memory { 9 } else { 1 });
    }

    pub(crate) fn ram(&self, at: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.memory.view().read_slice(&mut data, GuestAddress(at)).unwrap();
        data
    }

    pub(crate) fn set_ram(&self, at: u64, data: &[u8]) {
        self.memory.view().write_slice(data, GuestAddress(at)).unwrap();
    }

    /// Sends a packet by PIO with the given limit of bytes of a block; gives data, blocks and the error register.
    pub(crate) fn packet(&self, base: u16, packet: &[u8], limit: u16) -> (Vec<u8>, usize, u8) {
        self.outb(base + 6, 0);
        self.outb(base + 1, 0);
        self.outb(base + 4, limit as u8);
        self.outb(base + 5, (limit >> 8) as u8);
        self.outb(base + 7, 0xa0);
        self.send_packet(base, packet);
        let (mut data, mut blocks) = (Vec::new(), 0);
        loop {
            let status = self.settle(base);
            if status & DRQ == 0 {
                assert_eq!(self.inb(base + 2) & 3, 3, "the reason is status");
                return (data, blocks, if status & ERR != 0 { self.inb(base + 1) } else { 0 });
            }
            assert_eq!(self.inb(base + 2) & 3, 2, "the reason is data for the host");
            blocks += 1;
            let n = usize::from(self.inb(base + 4)) | usize::from(self.inb(base + 5)) << 8;
            assert!(n <= usize::from(limit), "{n} bytes at a time");
            let start = data.len();
            while data.len() < start + n {
                let mut word = [0; 2];
                self.pio.read(base, &mut word);
                data.extend(word);
            }
            data.truncate(start + n);
        }
    }

    pub(crate) fn send_packet(&self, base: u16, packet: &[u8]) {
        assert_eq!(self.settle(base) & (DRQ | ERR), DRQ);
        assert_eq!(self.inb(base + 2) & 3, 1, "the reason is a packet");
        let mut bytes = packet.to_vec();
        bytes.resize(12, 0);
        for word in bytes.chunks_exact(2) {
            self.pio.write(base, word);
        }
    }

    /// The sense data of the last error: key, code, qualifier.
    pub(crate) fn sense(&self, base: u16) -> (u8, u8, u8) {
        let (d, _, error) = self.packet(base, &[3, 0, 0, 0, 18], 0xfffe);
        assert_eq!((error, d.len(), d[0]), (0, 18, 0x70));
        (d[2], d[12], d[13])
    }
}
