//! Screens.

/// A state of a screen; later ones are larger. The default is "nothing seen yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(pub u64);

/// The size of a picture in pixels; neither is zero, nor larger than 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

/// Something that has a picture.
pub trait Display: Send + Sync {
    /// Tells `out` what has changed since `since`, and returns the generation that `out` has then seen: the same again if
    /// nothing has changed, and then `out` has not been called. Whoever passes the default gets the whole picture.
    ///
    /// `out` is called with the screen locked, so it must not call back.
    fn changes(&self, since: Generation, out: &mut dyn FrameBufferSink) -> Generation;

    /// The text that the picture shows if it is a text console: one string for each row, without trailing blanks. `None` if it is
    /// something else.
    fn text(&self) -> Option<Vec<String>>;

    /// The size of the picture: width and height, zero before there is one.
    fn size(&self) -> (u32, u32);

    /// The whole picture as it is now, everything that blinks being shown.
    fn picture(&self) -> Picture;
}

/// Takes changes of a picture.
pub trait FrameBufferSink {
    /// The picture has this size from now on, and all of it follows. Comes before any row when the size is new to the sink.
    fn resize(&mut self, size: Size);

    /// Pixels of row `y` from column `x`, as 00RRGGBBh; they lie within the size.
    fn row(&mut self, y: u32, x: u32, pixels: &[u32]);
}

/// A whole picture in memory, as a sink.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    width: u32,
    height: u32,
    pixels: Vec<u32>,
}

impl Picture {
    /// Pixels in a row; zero before anything was shown.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// All pixels, row by row, as 00RRGGBBh.
    pub fn pixels(&self) -> &[u32] {
        &self.pixels
    }

    /// The pixel at (`x`, `y`); black outside.
    pub fn pixel(&self, x: u32, y: u32) -> u32 {
        let inside = x < self.width && y < self.height;
        let at = y as usize * self.width as usize + x as usize;
        self.pixels.get(at).copied().filter(|_| inside).unwrap_or(0)
    }

    /// Red, green and blue bytes of all pixels.
    pub fn rgb(&self) -> Vec<u8> {
        self.pixels.iter().flat_map(|p| [(p >> 16) as u8, (p >> 8) as u8, *p as u8]).collect()
    }
}

impl FrameBufferSink for Picture {
    fn resize(&mut self, size: Size) {
        *self = Picture {
            width: size.width,
            height: size.height,
            pixels: vec![0; size.width as usize * size.height as usize],
        };
    }

    fn row(&mut self, y: u32, x: u32, pixels: &[u32]) {
        let at = y as usize * self.width as usize + x as usize;
        if let Some(row) = self.pixels.get_mut(at..at + pixels.len()) {
            row.copy_from_slice(pixels);
        }
    }
}
