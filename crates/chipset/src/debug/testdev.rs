//! The test device that kernels written to test a PC expect (QEMU calls it pc-testdev): ports that drive interrupt inputs, a port
//! and a window of memory that keep what is written.

use visor_device::{Device, IrqLine, MmioDevice, PioDevice};

/// First port of the interrupt inputs: port 2000h + n sets input n high for a value other than 0, low for 0.
pub const TEST_IRQ_PORT: u16 = 0x2000;
/// First port of the registers; 12 of them: four that keep a doubleword, four that do nothing, four that keep a doubleword by bytes.
pub const TEST_PORT: u16 = 0xe0;
/// Number of ports from [`TEST_PORT`]; port E9h belongs to the debug console.
pub const TEST_PORTS: u16 = 9;
/// Guest-physical address of the memory window.
pub const TEST_MEMORY: u64 = 0xff00_0000;
/// Bytes of the memory window.
pub const TEST_MEMORY_LEN: u64 = 0x1_0000;

/// The interrupt inputs.
pub struct TestIrqs(Vec<IrqLine>);

impl TestIrqs {
    /// Ports that drive `lines`, in order.
    pub fn new(lines: Vec<IrqLine>) -> Self {
        TestIrqs(lines)
    }
}

impl Device for TestIrqs {
    fn name(&self) -> &str {
        "test-irqs"
    }

    fn reset(&mut self) {
        self.0.iter().for_each(|line| line.set(false));
    }

    fn as_pio(&mut self) -> Option<&mut dyn PioDevice> {
        Some(self)
    }
}

impl PioDevice for TestIrqs {
    fn read(&mut self, _offset: u16, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        if let Some(line) = self.0.get(usize::from(offset)) {
            line.set(data.iter().any(|b| *b != 0));
        }
    }
}

/// The registers that keep what is written.
#[derive(Default)]
pub struct TestPorts([u8; TEST_PORTS as usize]);

impl Device for TestPorts {
    fn name(&self) -> &str {
        "test-ports"
    }

    fn reset(&mut self) {
        *self = Self::default();
    }

    fn as_pio(&mut self) -> Option<&mut dyn PioDevice> {
        Some(self)
    }
}

impl PioDevice for TestPorts {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        for (d, b) in data.iter_mut().zip(&self.0[usize::from(offset)..]) {
            *d = *b;
        }
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        for (b, d) in self.0[usize::from(offset)..].iter_mut().zip(data) {
            *b = *d;
        }
    }
}

/// Memory that is reached as a device's registers are.
pub struct TestMemory(Box<[u8]>);

impl Default for TestMemory {
    fn default() -> Self {
        TestMemory(vec![0; TEST_MEMORY_LEN as usize].into_boxed_slice())
    }
}

impl Device for TestMemory {
    fn name(&self) -> &str {
        "test-memory"
    }

    fn reset(&mut self) {
        self.0.fill(0);
    }

    fn as_mmio(&mut self) -> Option<&mut dyn MmioDevice> {
        Some(self)
    }
}

impl MmioDevice for TestMemory {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (d, b) in data.iter_mut().zip(&self.0[offset as usize..]) {
            *d = *b;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        for (b, d) in self.0[offset as usize..].iter_mut().zip(data) {
            *b = *d;
        }
    }
}
