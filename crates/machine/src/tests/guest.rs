//! Small Multiboot kernels, put together from machine code (32-bit protected mode, loaded at 1 MiB).

/// Load address.
pub(super) const BASE: u32 = 0x10_0000;
/// The header's bytes, behind which the code begins.
const HEADER: u32 = 32;

/// A kernel under construction.
#[derive(Default)]
pub(super) struct Guest(Vec<u8>);

impl Guest {
    /// Appends machine code.
    pub(super) fn code(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// Address of what is appended next.
    pub(super) fn here(&self) -> u32 {
        BASE + HEADER + self.0.len() as u32
    }

    /// OUT of a byte.
    pub(super) fn out8(self, port: u16, value: u8) -> Self {
        let [low, high] = port.to_le_bytes();
        // mov dx, port; mov al, value; out dx, al
        self.code(&[0x66, 0xba, low, high, 0xb0, value, 0xee])
    }

    /// OUT of a word.
    pub(super) fn out16(self, port: u16, value: u16) -> Self {
        let ([p0, p1], [v0, v1]) = (port.to_le_bytes(), value.to_le_bytes());
        // mov dx, port; mov ax, value; out dx, ax
        self.code(&[0x66, 0xba, p0, p1, 0x66, 0xb8, v0, v1, 0x66, 0xef])
    }

    /// Text on COM1.
    pub(super) fn print(self, text: &str) -> Self {
        text.bytes().fold(self, |g, b| g.out8(0x3f8, b))
    }

    /// Ends the machine with status 2 × `value` + 1.
    pub(super) fn exit(self, value: u8) -> Self {
        self.out8(0xf4, value).spin()
    }

    /// jmp $
    pub(super) fn spin(self) -> Self {
        self.code(&[0xeb, 0xfe])
    }

    /// The kernel file.
    pub(super) fn kernel(self) -> Vec<u8> {
        let flags = 1u32 << 16;
        let sum = 0u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags);
        let end = self.here();
        let header = [0x1bad_b002, flags, sum, BASE, BASE, end, end + 0x1000, BASE + HEADER];
        header.iter().flat_map(|v| v.to_le_bytes()).chain(self.0).collect()
    }
}
