//! The bus: its functions, and the address ranges that their BARs claim.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use visor_device::{Bus, Device, IrqSink, Mmio, MmioDevice, Pio, PioDevice};

use crate::bar::{BarKind, BarRange, ROM_BAR};
use crate::chipset::{ChipsetSink, IsaBridge, PowerManagement};
use crate::host_bridge::HostBridge;
use crate::intx::{self, IntxLine, IntxPin, IntxRoute, IntxRouter};
use crate::{PciAddress, PciDevice, PciError};

/// The address ranges that the host bridge passes to the bus. BARs that point elsewhere are not decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Apertures {
    /// Memory below 4 GiB.
    pub mem32: Range<u64>,
    /// Memory above RAM; may be empty.
    pub mem64: Range<u64>,
    /// Ports that may be given to BARs.
    pub io: Range<u64>,
}

/// The PCI bus and its configuration ports. Claim ports CF8h to CFFh (8 ports) for it.
pub struct PciBus {
    pub(crate) address: u32,
    pub(crate) slots: Vec<Slot>,
    pub(crate) apertures: Apertures,
    pub(crate) reset_control: u8,
    pub(crate) on_reset: Box<dyn Fn() + Send>,
    pio: Weak<Bus<Pio>>,
    mmio: Weak<Bus<Mmio>>,
    router: Arc<IntxRouter>,
}

pub(crate) type Function = Arc<Mutex<dyn PciDevice>>;

pub(crate) struct Slot {
    pub(crate) at: PciAddress,
    pub(crate) function: Function,
    /// The last is the expansion ROM.
    bars: [BarSlot; ROM_BAR as usize + 1],
}

/// A BAR as the bus sees it: where it should be, and where it is claimed.
#[derive(Default)]
struct BarSlot {
    wanted: Option<BarRange>,
    claimed: Option<BarRange>,
    window: Option<Arc<Mutex<Window>>>,
}

/// What is claimed on a bus for a BAR: passes accesses on to the function.
struct Window {
    name: String,
    bar: u8,
    function: Function,
}

impl PciBus {
    /// A bus with the chipset's own functions: the host bridge at 00:00.0, the ISA bridge at 00:01.0 and the power management
    /// function at 00:01.3; `sink` follows what software changes there.
    ///
    /// BARs are claimed on `pio` and `mmio`; INTx pins drive `irq`. `on_reset` is called, with the bus locked, when the guest
    /// resets the machine through port CF9h; it must only leave a note.
    pub fn new(
        apertures: Apertures,
        sink: Arc<dyn ChipsetSink>,
        pio: &Arc<Bus<Pio>>,
        mmio: &Arc<Bus<Mmio>>,
        irq: Arc<dyn IrqSink>,
        on_reset: impl Fn() + Send + 'static,
    ) -> Self {
        let router = IntxRouter::new(irq);
        let isa = IsaBridge::new(router.clone());
        let mut bus = PciBus {
            address: 0,
            slots: Vec::new(),
            apertures,
            reset_control: 0,
            on_reset: Box::new(on_reset),
            pio: Arc::downgrade(pio),
            mmio: Arc::downgrade(mmio),
            router,
        };
        bus.insert(PciAddress::device(0), Arc::new(Mutex::new(HostBridge::new(sink.clone()))));
        bus.insert(PciAddress::device(1), Arc::new(Mutex::new(isa)));
        bus.insert(PciAddress { device: 1, function: 3 }, Arc::new(Mutex::new(PowerManagement::new(sink))));
        bus
    }

    /// The lowest device number without functions.
    ///
    /// # Errors
    /// [`PciError::Full`] if there is none.
    pub fn free_device(&self) -> Result<PciAddress, PciError> {
        let taken = |d: u8| self.slots.iter().any(|s| s.at.device == d);
        (0..32).find(|d| !taken(*d)).map(PciAddress::device).ok_or(PciError::Full)
    }

    /// The interrupt line of `pin` of the device at `at`, for the function's constructor.
    pub fn intx(&self, at: PciAddress, pin: IntxPin) -> IntxLine {
        self.router.line(at.device, pin)
    }

    /// Puts `function` on the bus.
    ///
    /// # Errors
    /// [`PciError::Address`] if `at` is taken or does not exist.
    pub fn add(&mut self, at: PciAddress, function: Arc<Mutex<dyn PciDevice>>) -> Result<(), PciError> {
        if at.device >= 32 || at.function >= 8 || self.slots.iter().any(|s| s.at == at) {
            return Err(PciError::Address(at));
        }
        self.insert(at, function);
        Ok(())
    }

    /// Takes all functions of `device` off the bus, as when it is pulled out: they are reset, and no address leads to them any
    /// more. They are dropped by the caller, who must not hold the bus while that takes time.
    pub fn remove(&mut self, device: u8) -> Vec<Arc<Mutex<dyn PciDevice>>> {
        let (gone, kept): (Vec<Slot>, Vec<Slot>) =
            std::mem::take(&mut self.slots).into_iter().partition(|s| s.at.device == device);
        self.slots = kept;
        let mut functions = Vec::new();
        for slot in gone {
            for old in slot.bars.iter().filter_map(|b| b.claimed) {
                release(&self.pio, &self.mmio, old);
            }
            let mut function = lock(&slot.function);
            for (i, _) in slot.bars.iter().enumerate().filter(|(_, b)| b.claimed.is_some()) {
                function.bar_moved(i as u8, None);
            }
            function.reset();
            drop(function);
            functions.push(slot.function);
        }
        // A BAR that found its place taken gets it now.
        (0..self.slots.len()).for_each(|i| self.claim(i));
        functions
    }

    /// Whether `device` has functions.
    pub fn is_taken(&self, device: u8) -> bool {
        self.slots.iter().any(|s| s.at.device == device)
    }

    /// The routing of interrupt pins after reset, for ACPI's _PRT. Level-triggered, active high.
    pub fn routing(&self) -> Vec<IntxRoute> {
        intx::routing()
    }

    /// The address ranges of the host bridge, for ACPI's _CRS.
    pub fn apertures(&self) -> &Apertures {
        &self.apertures
    }

    fn insert(&mut self, at: PciAddress, function: Function) {
        self.slots.push(Slot { at, function, bars: Default::default() });
        self.slots.sort_by_key(|s| s.at);
        // Software looks at functions 1 to 7 only if function 0 says so (PCI 3.0 §6.2.1).
        let several = |s: &Slot| self.slots.iter().any(|o| o.at.device == s.at.device && o.at.function != 0);
        for slot in self.slots.iter().filter(|s| s.at.function == 0 && several(s)) {
            lock(&slot.function).config_mut().set_multifunction();
        }
        if let Some(i) = self.slots.iter().position(|s| s.at == at) {
            self.refresh(i);
        }
    }

    /// Re-registers the BARs of function `index` that have moved, been enabled or disabled.
    pub(crate) fn refresh(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        let mut function = lock(&slot.function);
        let mut released = false;
        for (i, bar) in slot.bars.iter_mut().enumerate() {
            let config = function.config();
            let range = if i == usize::from(ROM_BAR) { config.decoded_rom() } else { config.decoded(i as u8) };
            bar.wanted = range.filter(|r| allowed(&self.apertures, r));
            if bar.claimed != bar.wanted
                && let Some(old) = bar.claimed.take()
            {
                release(&self.pio, &self.mmio, old);
                function.bar_moved(i as u8, None);
                bar.window = None;
                released = true;
            }
        }
        drop(function);
        self.claim(index);
        // A BAR that found its place taken gets it when the other leaves.
        if released {
            (0..self.slots.len()).for_each(|i| self.claim(i));
        }
    }

    fn claim(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        for (i, bar) in slot.bars.iter_mut().enumerate() {
            let (Some(range), None) = (bar.wanted, bar.claimed) else { continue };
            let name = format!("{} BAR{i}", slot.at);
            let window = Arc::new(Mutex::new(Window { name, bar: i as u8, function: slot.function.clone() }));
            let claimed = match range.kind {
                BarKind::Io => self.pio.upgrade().map(|b| b.claim(range.base, range.size, window.clone())),
                _ => self.mmio.upgrade().map(|b| b.claim(range.base, range.size, window.clone())),
            };
            match claimed {
                Some(Ok(())) => {
                    bar.claimed = Some(range);
                    bar.window = Some(window);
                    lock(&slot.function).bar_moved(i as u8, Some(range.base));
                }
                Some(Err(error)) => tracing::debug!(function = %slot.at, bar = i, %error, "BAR not decoded"),
                None => {}
            }
        }
    }
}

impl Device for PciBus {
    fn name(&self) -> &str {
        "pci"
    }

    /// Resets the bus and all its functions; BARs are no longer decoded.
    fn reset(&mut self) {
        self.address = 0;
        self.reset_control = 0;
        // Bridges last, so that pins fall while they are still routed as before.
        for i in (0..self.slots.len()).rev() {
            lock(&self.slots[i].function).reset();
            self.refresh(i);
        }
    }

    fn as_pio(&mut self) -> Option<&mut dyn PioDevice> {
        Some(self)
    }
}

impl Device for Window {
    fn name(&self) -> &str {
        &self.name
    }

    fn reset(&mut self) {}

    fn as_pio(&mut self) -> Option<&mut dyn PioDevice> {
        Some(self)
    }

    fn as_mmio(&mut self) -> Option<&mut dyn MmioDevice> {
        Some(self)
    }
}

impl MmioDevice for Window {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        let mut function = lock(&self.function);
        if self.bar == ROM_BAR {
            function.config().read_rom(offset, data);
        } else {
            function.bar_read(self.bar, offset, data);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if self.bar != ROM_BAR {
            lock(&self.function).bar_write(self.bar, offset, data);
        }
    }
}

impl PioDevice for Window {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        MmioDevice::read(self, u64::from(offset), data);
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        MmioDevice::write(self, u64::from(offset), data);
    }
}

pub(crate) fn lock(function: &Mutex<dyn PciDevice>) -> MutexGuard<'_, dyn PciDevice + 'static> {
    function.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the host bridge passes `range` on. Ports below 100h belong to the mainboard.
fn allowed(apertures: &Apertures, range: &BarRange) -> bool {
    match range.kind {
        BarKind::Io => range.within(&(0x100..0x1_0000)),
        _ => range.within(&apertures.mem32) || range.within(&apertures.mem64),
    }
}

fn release(pio: &Weak<Bus<Pio>>, mmio: &Weak<Bus<Mmio>>, range: BarRange) {
    match range.kind {
        BarKind::Io => {
            if let Some(bus) = pio.upgrade() {
                bus.release(range.base);
            }
        }
        _ => {
            if let Some(bus) = mmio.upgrade() {
                bus.release(range.base);
            }
        }
    }
}
