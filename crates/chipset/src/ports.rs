//! Devices with byte-wide registers in several port ranges.
//!
//! A bus tells a device only the offset into the range that was claimed. A window per range, which knows where it starts,
//! turns that into a port number again.

use std::sync::{Arc, Mutex, PoisonError};

use visor_device::{Bus, BusError, Device, Pio, PioDevice};

/// A device that knows its registers by port number.
pub trait Ports: Device {
    /// First port and length of each range.
    fn ranges(&self) -> &'static [(u16, u16)];

    /// IN of one byte.
    fn read_port(&mut self, port: u16) -> u8;

    /// OUT of one byte.
    fn write_port(&mut self, port: u16, value: u8);

    /// IN of any width; as on the ISA bus, a wide access is one to each port.
    fn read_ports(&mut self, port: u16, data: &mut [u8]) {
        for (port, byte) in (port..).zip(data) {
            *byte = self.read_port(port);
        }
    }
}

/// Claims all ranges of `device` on `bus`.
///
/// # Errors
/// [`BusError`] if a range is taken; those claimed before stay claimed.
pub fn claim_ports<D: Ports + 'static>(bus: &Bus<Pio>, device: &Arc<Mutex<D>>) -> Result<(), BusError> {
    let (name, ranges) = {
        let d = device.lock().unwrap_or_else(PoisonError::into_inner);
        (d.name().to_owned(), d.ranges())
    };
    for &(base, len) in ranges {
        let window = Window { name: name.clone(), device: device.clone(), base };
        bus.claim(u64::from(base), u64::from(len), Arc::new(Mutex::new(window)))?;
    }
    Ok(())
}

struct Window<D> {
    name: String,
    device: Arc<Mutex<D>>,
    base: u16,
}

impl<D: Ports> Device for Window<D> {
    fn name(&self) -> &str {
        &self.name
    }

    /// Nothing: the device is reset by whoever holds it.
    fn reset(&mut self) {}

    fn as_pio(&mut self) -> Option<&mut dyn PioDevice> {
        Some(self)
    }
}

impl<D: Ports> PioDevice for Window<D> {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        let mut device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        device.read_ports(self.base + offset, data);
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        let mut device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        for (port, byte) in (self.base + offset..).zip(data) {
            device.write_port(port, *byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo(Vec<(u16, u8)>);

    impl Device for Echo {
        fn name(&self) -> &str {
            "echo"
        }
        fn reset(&mut self) {}
    }

    impl Ports for Echo {
        fn ranges(&self) -> &'static [(u16, u16)] {
            &[(0x20, 2), (0xa0, 2)]
        }
        fn read_port(&mut self, port: u16) -> u8 {
            port as u8
        }
        fn write_port(&mut self, port: u16, value: u8) {
            self.0.push((port, value));
        }
    }

    #[test]
    fn windows_give_port_numbers_and_split_wide_accesses() {
        let bus = Bus::<Pio>::default();
        let echo = Arc::new(Mutex::new(Echo(Vec::new())));
        claim_ports(&bus, &echo).unwrap();
        let mut data = [0; 2];
        assert!(bus.read(0xa0, &mut data));
        assert_eq!(data, [0xa0, 0xa1]);
        assert!(bus.write(0x20, &[1, 2]));
        assert_eq!(echo.lock().unwrap().0, [(0x20, 1), (0x21, 2)]);
        assert!(claim_ports(&bus, &echo).is_err());
    }
}
