//! The PC's fixed devices: PIC, PIT, RTC, UART, PM timer, reset and debug ports.
