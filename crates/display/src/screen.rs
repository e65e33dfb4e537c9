//! The monitor: what has changed since a viewer last looked.

use std::sync::{Arc, Mutex, PoisonError};

use visor_console::{Display, FrameBufferSink, Generation, Picture, Size};
use visor_device::Nanos;
use visor_memory::PAGE;

use crate::scan::{self, Geometry, Phases};
use crate::text;
use crate::vga::{Core, Frame, Mode, VgaWires, lock};

/// The cursor changes between shown and not shown at this time; characters blink half as fast (16 and 32 frames at 70 Hz).
const BLINK: Nanos = 8 * 1_000_000_000 / 70;

/// What an adapter shows. Made by [`crate::Vga::screen`].
pub struct Screen {
    core: Arc<Mutex<Core>>,
    wires: VgaWires,
    scan: Mutex<Scan>,
}

/// What is known of the picture.
struct Scan {
    /// Of the last change.
    generation: u64,
    /// When the size changed last.
    resized: u64,
    size: Size,
    /// When each row changed last.
    rows: Vec<u64>,
    /// For the tracking of writes.
    seen: Vec<u32>,
    /// `Core::changes` at the last look.
    changes: Option<u64>,
    phases: Phases,
    mode: Option<Mode>,
    /// Modes of the VGA itself: all pixels.
    pixels: Vec<u32>,
}

impl Screen {
    pub(crate) fn new(core: Arc<Mutex<Core>>, wires: VgaWires) -> Self {
        let scan = Scan {
            generation: 0,
            resized: 0,
            size: Size { width: 0, height: 0 },
            rows: Vec::new(),
            seen: wires.memory.unseen(),
            changes: None,
            phases: SHOWN,
            mode: None,
            pixels: Vec::new(),
        };
        Screen { core, wires, scan: Mutex::new(scan) }
    }

    /// The picture as it is, everything that blinks being shown.
    pub fn picture(&self) -> Picture {
        let mode = lock(&self.core).mode();
        let mut picture = Picture::default();
        match &mode {
            Mode::Vga { regs, colours, frame } => {
                let planes = scan::planes(&self.wires.memory);
                let (g, pixels) = scan::picture(regs, colours, *frame, &planes, SHOWN);
                picture.resize(g.size());
                pixels.chunks_exact(g.width as usize).zip(0..).for_each(|(row, y)| picture.row(y, 0, row));
            }
            Mode::Linear { frame, colours } => {
                picture.resize(frame.size());
                let (mut bytes, mut row) = (Vec::new(), Vec::new());
                for y in 0..frame.height {
                    scan::linear_row(frame, colours, &self.wires.memory, y, &mut bytes, &mut row);
                    picture.row(y, 0, &row);
                }
            }
        }
        picture
    }

    fn phases(&self) -> Phases {
        let n = self.wires.clock.now() / BLINK;
        Phases { cursor: n.is_multiple_of(2), text: (n / 2).is_multiple_of(2) }
    }
}

/// Everything that blinks is shown.
const SHOWN: Phases = Phases { cursor: true, text: true };

impl Display for Screen {
    fn changes(&self, since: Generation, out: &mut dyn FrameBufferSink) -> Generation {
        let mut scan = self.scan.lock().unwrap_or_else(PoisonError::into_inner);
        scan.look(self);
        scan.tell(since.0, &self.wires, out);
        Generation(scan.generation)
    }

    fn text(&self) -> Option<Vec<String>> {
        let (mode, fonts) = {
            let core = lock(&self.core);
            (core.mode(), [core.text_font.clone(), core.rom_font.clone()])
        };
        match &mode {
            Mode::Vga { regs, frame: None, .. } if regs.gfx[6] & 1 == 0 => {
                if regs.blank() {
                    return Some(Vec::new());
                }
                let g = Geometry::new(regs, None);
                let cells = scan::cells(regs, &scan::planes(&self.wires.memory), &g);
                Some(cells.iter().map(|row| text::line(row)).collect())
            }
            _ => text::console_text(&self.picture(), &fonts.into_iter().flatten().collect::<Vec<_>>()),
        }
    }

    fn size(&self) -> (u32, u32) {
        let size = match lock(&self.core).mode() {
            Mode::Vga { regs, frame, .. } => Geometry::new(&regs, frame).size(),
            Mode::Linear { frame, .. } => frame.size(),
        };
        (size.width, size.height)
    }

    fn picture(&self) -> Picture {
        Screen::picture(self)
    }
}

impl Scan {
    /// Brings everything up to date.
    fn look(&mut self, screen: &Screen) {
        let phases = screen.phases();
        let changed = {
            let core = lock(&screen.core);
            let changed = self.changes != Some(core.changes);
            if changed {
                self.changes = Some(core.changes);
                self.mode = Some(core.mode());
            }
            changed
        };
        screen.wires.vm.collect_writes();
        match self.mode.take() {
            Some(Mode::Linear { frame, colours }) => {
                self.look_linear(&screen.wires, &frame, changed);
                self.mode = Some(Mode::Linear { frame, colours });
            }
            Some(Mode::Vga { regs, colours, frame }) => {
                let blinked = std::mem::replace(&mut self.phases, phases) != phases;
                let mut written = false;
                let pages = 0..(scan::PLANES / PAGE) as usize;
                screen.wires.memory.collect(pages, &mut self.seen, |_| written = true);
                if changed || written {
                    let planes = scan::planes(&screen.wires.memory);
                    let (g, pixels) = scan::picture(&regs, &colours, frame, &planes, phases);
                    self.compare(g.size(), pixels);
                } else if blinked {
                    let planes = scan::planes(&screen.wires.memory);
                    let (next, rows) = (self.generation + 1, &mut self.rows);
                    scan::blink((&regs, &colours, frame), &planes, phases, &mut self.pixels, |y| {
                        self.generation = next;
                        if let Some(row) = rows.get_mut(y) {
                            *row = next;
                        }
                    });
                }
                self.mode = Some(Mode::Vga { regs, colours, frame });
            }
            None => {}
        }
    }

    fn look_linear(&mut self, wires: &VgaWires, frame: &Frame, changed: bool) {
        self.pixels = Vec::new();
        let bytes = scan::byte_range(frame, 0).start..scan::byte_range(frame, frame.height - 1).end;
        let pages = (bytes.start / PAGE) as usize..bytes.end.div_ceil(PAGE) as usize;
        let mut written = Vec::new();
        wires.memory.collect(pages, &mut self.seen, |page| written.push(page as u64));
        if changed {
            self.all_new(frame.size());
            return;
        }
        if written.is_empty() {
            return;
        }
        self.generation += 1;
        let pitch = frame.bytes(frame.stride);
        for page in written {
            // Rows whose bytes, up to the next row's, touch the page.
            let first = (page * PAGE).saturating_sub(bytes.start) / pitch;
            let last = ((page + 1) * PAGE - 1).saturating_sub(bytes.start) / pitch;
            for y in first..=last.min(u64::from(frame.height) - 1) {
                self.rows[y as usize] = self.generation;
            }
        }
    }

    /// Takes a new picture; rows that differ are new.
    fn compare(&mut self, size: Size, pixels: Vec<u32>) {
        if size != self.size || self.pixels.len() != pixels.len() {
            self.pixels = pixels;
            return self.all_new(size);
        }
        let width = size.width as usize;
        let next = self.generation + 1;
        for ((old, new), row) in self.pixels.chunks_exact(width).zip(pixels.chunks_exact(width)).zip(&mut self.rows) {
            if old != new {
                *row = next;
                self.generation = next;
            }
        }
        self.pixels = pixels;
    }

    fn all_new(&mut self, size: Size) {
        self.generation += 1;
        if size != self.size {
            self.size = size;
            self.resized = self.generation;
        }
        self.rows = vec![self.generation; size.height as usize];
    }

    /// Gives `out` what is newer than `since`.
    fn tell(&self, since: u64, wires: &VgaWires, out: &mut dyn FrameBufferSink) {
        if since >= self.generation {
            return;
        }
        let since = if since < self.resized {
            out.resize(self.size);
            0
        } else {
            since
        };
        let (mut bytes, mut pixels) = (Vec::new(), Vec::new());
        for (y, _) in (0..).zip(&self.rows).filter(|(_, g)| **g > since) {
            match &self.mode {
                Some(Mode::Linear { frame, colours }) => {
                    scan::linear_row(frame, colours, &wires.memory, y, &mut bytes, &mut pixels);
                    out.row(y, 0, &pixels);
                }
                _ => {
                    let width = self.size.width as usize;
                    let at = y as usize * width;
                    out.row(y, 0, &self.pixels[at..at + width]);
                }
            }
        }
    }
}

impl Geometry {
    fn size(&self) -> Size {
        Size { width: self.width, height: self.height }
    }
}

impl Frame {
    fn size(&self) -> Size {
        Size { width: self.width, height: self.height }
    }
}
