//! The indexed register groups: sequencer, graphics controller, CRT controller, attribute controller (IBM VGA technical reference).

/// Bits that exist in the sequencer's registers.
const SEQUENCER: [u8; 5] = [0x03, 0x3d, 0x0f, 0x3f, 0x0e];
/// Bits that exist in the graphics controller's registers.
const GRAPHICS: [u8; 9] = [0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff];
/// Bits that exist in the attribute controller's registers from 10h.
const ATTRIBUTE: [u8; 5] = [0xef, 0xff, 0x3f, 0x0f, 0x0f];
/// Registers of the CRT controller.
const CRTC: usize = 0x19;

/// All of them.
#[derive(Clone, Debug)]
pub(crate) struct Regs {
    /// Miscellaneous output.
    pub(crate) misc: u8,
    pub(crate) feature: u8,
    pub(crate) seq_index: u8,
    pub(crate) seq: [u8; 5],
    pub(crate) gfx_index: u8,
    pub(crate) gfx: [u8; 9],
    pub(crate) crtc_index: u8,
    pub(crate) crtc: [u8; CRTC],
    /// With "palette address source" in bit 5.
    pub(crate) attr_index: u8,
    pub(crate) attr: [u8; 21],
    /// The next write to 3C0h is data.
    pub(crate) attr_data: bool,
}

impl Default for Regs {
    /// After power-on: colour addresses, nothing displayed. (A real one has random contents here.)
    fn default() -> Self {
        Regs {
            misc: 0x01,
            feature: 0,
            seq_index: 0,
            seq: [0; 5],
            gfx_index: 0,
            gfx: [0; 9],
            crtc_index: 0,
            crtc: [0; CRTC],
            attr_index: 0,
            attr: [0; 21],
            attr_data: false,
        }
    }
}

impl Regs {
    pub(crate) fn read_seq(&self) -> u8 {
        self.seq.get(usize::from(self.seq_index)).copied().unwrap_or(0)
    }

    pub(crate) fn write_seq(&mut self, value: u8) {
        let i = usize::from(self.seq_index);
        if let (Some(r), Some(mask)) = (self.seq.get_mut(i), SEQUENCER.get(i)) {
            *r = value & mask;
        }
    }

    pub(crate) fn read_gfx(&self) -> u8 {
        self.gfx.get(usize::from(self.gfx_index)).copied().unwrap_or(0)
    }

    pub(crate) fn write_gfx(&mut self, value: u8) {
        let i = usize::from(self.gfx_index);
        if let (Some(r), Some(mask)) = (self.gfx.get_mut(i), GRAPHICS.get(i)) {
            *r = value & mask;
        }
    }

    /// 22h gives the latch of the plane chosen for reading, 24h and 26h the state of the attribute controller's port.
    pub(crate) fn read_crtc(&self, latch: u32) -> u8 {
        match self.crtc_index {
            0x22 => latch.to_le_bytes()[usize::from(self.gfx[4])],
            0x24 => u8::from(self.attr_data) << 7,
            0x26 => self.attr_index,
            i => self.crtc.get(usize::from(i)).copied().unwrap_or(0xff),
        }
    }

    pub(crate) fn write_crtc(&mut self, value: u8) {
        let i = usize::from(self.crtc_index);
        let protected = self.crtc[0x11] & 0x80 != 0 && i <= 7;
        match self.crtc.get_mut(i) {
            // Of the protected registers, bit 8 of the line compare can be written.
            Some(r) if protected && i == 7 => *r = *r & !0x10 | value & 0x10,
            Some(r) if !protected => *r = value,
            _ => {}
        }
    }

    pub(crate) fn read_attr(&self) -> u8 {
        self.attr.get(usize::from(self.attr_index & 0x1f)).copied().unwrap_or(0)
    }

    /// A write to 3C0h: index and data in turn.
    pub(crate) fn write_attr(&mut self, value: u8) {
        self.attr_data = !self.attr_data;
        if self.attr_data {
            self.attr_index = value & 0x3f;
            return;
        }
        let i = usize::from(self.attr_index & 0x1f);
        let mask = i.checked_sub(0x10).map_or(Some(&0x3f), |i| ATTRIBUTE.get(i));
        if let (Some(r), Some(mask)) = (self.attr.get_mut(i), mask) {
            *r = value & mask;
        }
    }

    /// Whether the CRT controller answers at 3D4h and status at 3DAh, or at 3B4h and 3BAh.
    pub(crate) fn colour(&self) -> bool {
        self.misc & 1 != 0
    }

    /// Visible scan lines.
    pub(crate) fn lines(&self) -> u32 {
        let overflow = u32::from(self.crtc[7]);
        (u32::from(self.crtc[0x12]) | (overflow >> 1 & 1) << 8 | (overflow >> 6 & 1) << 9) + 1
    }

    /// Scan lines of a whole frame.
    pub(crate) fn total_lines(&self) -> u32 {
        let overflow = u32::from(self.crtc[7]);
        (u32::from(self.crtc[6]) | (overflow & 1) << 8 | (overflow >> 5 & 1) << 9) + 2
    }

    /// First scan line of the vertical retrace.
    pub(crate) fn retrace_start(&self) -> u32 {
        let overflow = u32::from(self.crtc[7]);
        u32::from(self.crtc[0x10]) | (overflow >> 2 & 1) << 8 | (overflow >> 7 & 1) << 9
    }

    /// The scan line after which memory is shown from address 0.
    pub(crate) fn line_compare(&self) -> u32 {
        let (overflow, max) = (u32::from(self.crtc[7]), u32::from(self.crtc[9]));
        u32::from(self.crtc[0x18]) | (overflow >> 4 & 1) << 8 | (max >> 6 & 1) << 9
    }

    /// Dots in a character.
    pub(crate) fn char_width(&self) -> u32 {
        if self.seq[1] & 1 != 0 { 8 } else { 9 }
    }

    /// The screen is off: by the sequencer, or because the attribute controller's palette belongs to the CPU.
    pub(crate) fn blank(&self) -> bool {
        self.seq[1] & 0x20 != 0 || self.attr_index & 0x20 == 0
    }
}
