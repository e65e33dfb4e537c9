//! A parallel NOR flash with Intel's command set (JEDEC CFI; Intel "Common Flash Interface and Command Sets" AP-646), in which
//! UEFI firmware keeps its variables.
//!
//! ```text
//! FF read array   70 read status   50 clear status   90 read identifier   98 CFI query
//! 40, 10 then data: program        20 then D0: erase block        E8 then count - 1, data, D0: program a buffer
//! ```
//!
//! While the array is read, the CPU sees it as ROM and only stores come here; in the other modes loads do too. Erased bits are 1,
//! programming clears bits. Unlike with the chip, operations are over at once, and the status register reads 0 after it was
//! cleared until the next operation: by this, firmware for virtual machines tells flash from RAM and ROM.

use std::sync::Arc;

use visor_device::{Device, MmioDevice};
use visor_memory::{GuestMemory, RamRange, Remap};

/// Bytes that are erased at a time.
pub const FLASH_BLOCK: u64 = 4096;
/// Most bytes that are programmed with one command.
const BUFFER: usize = 64;

const READY: u8 = 0x80;
const ERASE_ERROR: u8 = 0x20;
const PROGRAM_ERROR: u8 = 0x10;

/// Keeps what is in a flash.
pub trait FlashStore: Send {
    /// These bytes at `offset` have changed.
    fn changed(&mut self, offset: u64, data: &[u8]);
}

/// Forgets.
impl FlashStore for () {
    fn changed(&mut self, _offset: u64, _data: &[u8]) {}
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Mode {
    Array,
    Status,
    Identifier,
    Query,
    Program,
    Erase,
    BufferCount,
    BufferData { left: usize, data: Vec<(u64, u8)> },
    BufferConfirm { data: Vec<(u64, u8)> },
}

/// The device. Its contents lie in the machine's extra memory.
pub struct Flash {
    memory: Arc<GuestMemory>,
    range: RamRange,
    at: u64,
    mode: Mode,
    status: u8,
    store: Box<dyn FlashStore>,
}

impl Flash {
    /// A flash at the addresses of `range` (a multiple of [`FLASH_BLOCK`] long), whose contents are at `at` in the mapping of
    /// `memory`.
    pub fn new(memory: Arc<GuestMemory>, range: RamRange, at: u64, store: Box<dyn FlashStore>) -> Self {
        let flash = Flash { memory, range, at, mode: Mode::Array, status: READY, store };
        flash.show(true);
        flash
    }

    /// Lets CPUs see the array, or sends their loads here.
    fn show(&self, array: bool) {
        self.memory.remap(&[Remap { range: self.range, to: array.then_some((self.at, false)) }]);
    }

    fn enter(&mut self, mode: Mode) {
        let (was, is) = (self.mode == Mode::Array, mode == Mode::Array);
        self.mode = mode;
        if was != is {
            self.show(is);
        }
    }

    fn command(&mut self, value: u8) {
        let mode = match value {
            0x10 | 0x40 => Mode::Program,
            0x20 | 0x28 => Mode::Erase,
            0x50 => {
                self.status = 0;
                Mode::Array
            }
            0x70 => Mode::Status,
            0x90 => Mode::Identifier,
            0x98 => Mode::Query,
            0xe8 => {
                self.status = READY;
                Mode::BufferCount
            }
            _ => Mode::Array,
        };
        self.enter(mode);
    }

    fn erase(&mut self, offset: u64) {
        let block = offset & !(FLASH_BLOCK - 1);
        self.put(block, &[0xff; FLASH_BLOCK as usize]);
        self.status |= READY;
    }

    fn program(&mut self, offset: u64, data: &[u8]) {
        let mut new = [0; 8];
        let new = &mut new[..data.len().min(8)];
        self.memory.peek(self.at + offset, new);
        new.iter_mut().zip(data).for_each(|(old, bits)| *old &= bits);
        let new = new.to_vec();
        self.put(offset, &new);
        self.status |= READY;
    }

    fn put(&mut self, offset: u64, data: &[u8]) {
        let room = self.range.len.saturating_sub(offset) as usize;
        let data = &data[..data.len().min(room)];
        self.memory.load(self.at + offset, data);
        self.store.changed(offset, data);
    }

    /// One byte of what is read in the current mode.
    fn byte(&self, offset: u64) -> u8 {
        match &self.mode {
            // Another CPU's load that was under way when the mode changed.
            Mode::Array => {
                let mut b = [0];
                self.memory.peek(self.at + offset, &mut b);
                b[0]
            }
            // Intel; 28F008.
            Mode::Identifier => [0x89, 0xa6].get(offset as usize & 0xff).copied().unwrap_or(0),
            Mode::Query => self.query(offset & 0xff),
            _ => self.status,
        }
    }

    /// The CFI table of an 8-bit device (JESD68.01).
    fn query(&self, offset: u64) -> u8 {
        let blocks = (self.range.len / FLASH_BLOCK).saturating_sub(1) as u16;
        let unit = (FLASH_BLOCK / 256) as u16;
        let size = self.range.len.next_power_of_two().trailing_zeros() as u8;
        let [b0, b1] = blocks.to_le_bytes();
        let [u0, u1] = unit.to_le_bytes();
        match offset {
            0x10 => b'Q',
            0x11 => b'R',
            0x12 => b'Y',
            0x13 => 0x01, // Intel's command set
            0x1b => 0x45, // supply voltage from 4.5 to 5.5 V
            0x1c => 0x55,
            0x1f..=0x21 => 0x07, // typical times, 2^n units
            0x23..=0x25 => 0x04,
            0x27 => size,
            0x2a => BUFFER.trailing_zeros() as u8,
            0x2c => 1, // one region of blocks
            0x2d => b0,
            0x2e => b1,
            0x2f => u0,
            0x30 => u1,
            _ => 0,
        }
    }
}

impl Device for Flash {
    fn name(&self) -> &str {
        "flash"
    }

    fn reset(&mut self) {
        self.status = READY;
        self.enter(Mode::Array);
    }

    fn as_mmio(&mut self) -> Option<&mut dyn MmioDevice> {
        Some(self)
    }
}

impl MmioDevice for Flash {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (at, d) in (offset..).zip(data) {
            *d = self.byte(at);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let Some(&value) = data.first() else { return };
        match std::mem::replace(&mut self.mode, Mode::Status) {
            // Only the array is shown to CPUs without this device: undo the replacement before the mode changes.
            Mode::Array => {
                self.mode = Mode::Array;
                self.command(value);
            }
            Mode::Status | Mode::Identifier | Mode::Query => self.command(value),
            Mode::Program => self.program(offset, data),
            Mode::Erase if value == 0xd0 => self.erase(offset),
            Mode::Erase if value == 0xff => self.enter(Mode::Array),
            Mode::Erase => self.status |= READY | ERASE_ERROR | PROGRAM_ERROR,
            Mode::BufferCount if usize::from(value) < BUFFER => {
                self.mode = Mode::BufferData { left: usize::from(value) + 1, data: Vec::new() };
            }
            Mode::BufferCount => self.status |= READY | PROGRAM_ERROR,
            Mode::BufferData { left, data: mut buffer } => {
                buffer.extend((offset..).zip(data.iter().copied()));
                self.mode = match left.saturating_sub(data.len()) {
                    0 => Mode::BufferConfirm { data: buffer },
                    left => Mode::BufferData { left, data: buffer },
                };
            }
            Mode::BufferConfirm { data } if value == 0xd0 => {
                data.iter().for_each(|(at, byte)| self.program(*at, &[*byte]));
            }
            Mode::BufferConfirm { .. } => self.status |= READY | PROGRAM_ERROR,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use visor_memory::{Extra, Gpa, PAGE};

    use super::*;

    type Changes = Arc<Mutex<Vec<(u64, usize)>>>;

    struct Log(Changes);

    impl FlashStore for Log {
        fn changed(&mut self, offset: u64, data: &[u8]) {
            self.0.lock().unwrap().push((offset, data.len()));
        }
    }

    const BASE: u64 = 0xffff_c000;

    fn flash() -> (Flash, Arc<GuestMemory>, Changes) {
        let extra = Extra { len: 4 * PAGE, shadow: None, devices: 0 };
        let memory = GuestMemory::with_extra(&[RamRange { start: Gpa(0), len: PAGE }], &extra).unwrap();
        let (memory, changes) = (Arc::new(memory), Changes::default());
        memory.load(PAGE, b"contents");
        let range = RamRange { start: Gpa(BASE), len: 4 * PAGE };
        (Flash::new(memory.clone(), range, PAGE, Box::new(Log(changes.clone()))), memory, changes)
    }

    fn read(f: &mut Flash, at: u64) -> u8 {
        let mut b = [0];
        f.read(at, &mut b);
        b[0]
    }

    #[test]
    fn the_array_is_rom_until_a_command_comes() {
        let (mut f, memory, _) = flash();
        assert!(!memory.page(Gpa(BASE)).unwrap().writable);
        f.write(0, &[0x70]);
        assert!(memory.page(Gpa(BASE)).is_none(), "loads come to the device");
        assert_eq!(read(&mut f, 0x123), READY);
        f.write(0, &[0x50]);
        assert!(memory.page(Gpa(BASE)).is_some());
        f.write(0, &[0x70]);
        assert_eq!(read(&mut f, 0), 0, "cleared");
        f.write(0, &[0x98]);
        assert_eq!([0x10, 0x11, 0x12, 0x2d].map(|at| read(&mut f, at)), [b'Q', b'R', b'Y', 3]);
        f.write(0, &[0x90]);
        assert_eq!(read(&mut f, 0), 0x89);
        f.write(0, &[0xff]);
        assert_eq!(read(&mut f, 0), b'c');
        f.write(0, &[0x70]);
        f.reset();
        assert!(memory.page(Gpa(BASE)).is_some());
    }

    #[test]
    fn blocks_are_erased_and_bits_cleared() {
        let (mut f, memory, changes) = flash();
        let get = |at| {
            let mut b = [0];
            memory.peek(PAGE + at, &mut b);
            b[0]
        };
        f.write(0x10, &[0x40]);
        f.write(2, &[0x0f]);
        assert_eq!(get(2), b'n' & 0x0f);
        assert_eq!(read(&mut f, 2), READY, "status follows a program");
        f.write(3, &[0x20]);
        f.write(3, &[0x55]);
        assert_eq!(read(&mut f, 2), READY | ERASE_ERROR | PROGRAM_ERROR);
        f.write(3, &[0x20]);
        f.write(3, &[0xd0]);
        assert_eq!((get(0), get(4095), get(4096)), (0xff, 0xff, 0));
        f.write(0, &[0xe8]);
        f.write(0, &[2]);
        for (at, byte) in [(8, 1), (9, 2), (10, 3)] {
            f.write(at, &[byte]);
        }
        assert_eq!(get(8), 0xff, "not yet");
        f.write(8, &[0xd0]);
        assert_eq!([get(8), get(9), get(10), get(11)], [1, 2, 3, 0xff]);
        assert_eq!(*changes.lock().unwrap(), [(2, 1), (0, 4096), (8, 1), (9, 1), (10, 1)]);
        f.write(0x3fff, &[0x40]);
        f.write(0x3fff, &[0, 0]);
        assert_eq!(get(0x3fff), 0, "what is beyond the end is left out");
    }

    #[test]
    fn random_accesses_do_no_harm() {
        let (mut f, memory, _) = flash();
        let mut x = 88_172_645_463_325_252u64;
        for _ in 0..50_000 {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            let (offset, len) = (x >> 20 & 0x3fff, [1, 2, 4, 8][x as usize & 3]);
            let offset = offset & !(len as u64 - 1);
            let commands = [0x10, 0x20, 0x40, 0x50, 0x70, 0x90, 0x98, 0xd0, 0xe8, 0xff];
            let value = commands.get(x as usize >> 5 & 15).copied().unwrap_or(x >> 40);
            match x >> 62 {
                0..3 => f.write(offset, &value.to_le_bytes()[..len]),
                _ => f.read(offset, &mut [0; 8][..len]),
            }
        }
        f.reset();
        assert!(memory.page(Gpa(BASE)).is_some());
    }
}
