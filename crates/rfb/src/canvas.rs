//! The picture as one client knows it, and which parts of it are news.

/// Pixels in a row and rows of a tile of news.
const TILE: u32 = 16;

/// A part of the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rect {
    pub(crate) x: u32,
    pub(crate) y: u32,
    pub(crate) width: u32,
    pub(crate) height: u32,
}

/// A picture with a note of which tiles have changed.
#[derive(Clone, Debug, Default)]
pub struct Canvas {
    width: u32,
    height: u32,
    pixels: Vec<u32>,
    /// A flag for each tile, row by row.
    news: Vec<bool>,
    any: bool,
    /// The size is new.
    pub(crate) resized: bool,
    /// The size that was asked for, if the client cannot follow.
    fixed: Option<(u32, u32)>,
}

impl Canvas {
    /// The picture has this size from now on, is black, and all of it is news. Sizes are cut to 16384; for a client that cannot
    /// follow, the size stays and the picture is cut or framed.
    pub fn resize(&mut self, width: u32, height: u32) {
        let asked = (width.min(16384), height.min(16384));
        match &mut self.fixed {
            Some(fixed) => *fixed = asked,
            None => (self.resized, self.width, self.height) = (true, asked.0, asked.1),
        }
        self.pixels = vec![0; self.width as usize * self.height as usize];
        let (columns, rows) = self.tiles();
        self.news = vec![true; columns as usize * rows as usize];
        self.any = true;
    }

    /// The size stays from now on.
    pub(crate) fn fix(&mut self) {
        self.fixed.get_or_insert((self.width, self.height));
    }

    /// The size follows again; true if it is another one, whose picture must come anew.
    pub(crate) fn unfix(&mut self) -> bool {
        let Some(asked) = self.fixed.take().filter(|f| *f != (self.width, self.height)) else { return false };
        self.resize(asked.0, asked.1);
        true
    }

    /// Pixels (00RRGGBBh) of row `y` from column `x`. What they do not change is not news; what lies outside is dropped.
    pub fn row(&mut self, y: u32, x: u32, pixels: &[u32]) {
        if y >= self.height || x >= self.width {
            return;
        }
        let len = pixels.len().min((self.width - x) as usize);
        let at = y as usize * self.width as usize + x as usize;
        let row = &mut self.pixels[at..at + len];
        let columns = self.width.div_ceil(TILE) as usize;
        let tiles = &mut self.news[(y / TILE) as usize * columns..][..columns];
        let mut done = 0;
        while done < len {
            let column = (x as usize + done) / TILE as usize;
            let n = ((column + 1) * TILE as usize - x as usize - done).min(len - done);
            if row[done..done + n] != pixels[done..done + n] {
                tiles[column] = true;
                self.any = true;
            }
            done += n;
        }
        row.copy_from_slice(&pixels[..len]);
    }

    /// Width and height.
    pub fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// Makes all of `part` news.
    pub(crate) fn touch(&mut self, part: &Rect) {
        let (columns, rows) = self.tiles();
        let last = |at: u32, len: u32, limit: u32| at.saturating_add(len).div_ceil(TILE).min(limit);
        for row in part.y / TILE..last(part.y, part.height, rows) {
            for column in part.x / TILE..last(part.x, part.width, columns) {
                self.news[(row * columns + column) as usize] = true;
                self.any = true;
            }
        }
    }

    /// Takes the news in all tiles that `part` touches, as rectangles that do not overlap.
    pub(crate) fn take_news(&mut self, part: &Rect) -> Vec<Rect> {
        let (columns, rows) = self.tiles();
        let last = |at: u32, len: u32| at.saturating_add(len).div_ceil(TILE);
        let (left, right) = (part.x / TILE, last(part.x, part.width).min(columns));
        let mut open: Vec<Rect> = Vec::new();
        let mut done = Vec::new();
        for row in part.y / TILE..last(part.y, part.height).min(rows) {
            let runs = self.runs(row, columns, left, right);
            let mut next = Vec::new();
            for (start, end) in runs {
                let x = start * TILE;
                let width = (end * TILE).min(self.width) - x;
                let height = ((row + 1) * TILE).min(self.height) - row * TILE;
                match open.iter().position(|r| r.x == x && r.width == width) {
                    Some(i) => {
                        let above = open.swap_remove(i);
                        next.push(Rect { height: above.height + height, ..above });
                    }
                    None => next.push(Rect { x, y: row * TILE, width, height }),
                }
            }
            done.append(&mut open);
            open = next;
        }
        done.append(&mut open);
        self.any = self.news.contains(&true);
        done
    }

    /// The runs of news in a row of tiles from `left` to `right`, which are news no more.
    fn runs(&mut self, row: u32, columns: u32, left: u32, right: u32) -> Vec<(u32, u32)> {
        let tiles = &mut self.news[(row * columns) as usize..][..columns as usize];
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for column in left..right.min(columns) {
            if std::mem::take(&mut tiles[column as usize]) {
                match runs.last_mut() {
                    Some((_, end)) if *end == column => *end += 1,
                    _ => runs.push((column, column + 1)),
                }
            }
        }
        runs
    }

    /// Pixels of row `y` of `part`, black where there is no picture.
    pub(crate) fn pixels(&self, part: &Rect, y: u32) -> &[u32] {
        let at = (part.y + y) as usize * self.width as usize + part.x as usize;
        self.pixels.get(at..at + part.width as usize).unwrap_or(&[])
    }

    fn tiles(&self) -> (u32, u32) {
        (self.width.div_ceil(TILE), self.height.div_ceil(TILE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole() -> Rect {
        Rect { x: 0, y: 0, width: 9999, height: 9999 }
    }

    #[test]
    fn only_changes_are_news() {
        let mut c = Canvas::default();
        assert!(c.take_news(&whole()).is_empty());
        c.resize(100, 40);
        assert_eq!(c.take_news(&whole()), [Rect { x: 0, y: 0, width: 100, height: 40 }]);
        c.row(5, 0, &[0; 100]);
        assert!(!c.any);
        c.row(5, 10, &[0, 0, 0, 0, 0, 7, 7]);
        c.row(20, 99, &[1, 2, 3]);
        c.row(40, 0, &[1]);
        c.row(0, 100, &[1]);
        let news = c.take_news(&whole());
        assert_eq!(news, [Rect { x: 0, y: 0, width: 32, height: 16 }, Rect { x: 96, y: 16, width: 4, height: 16 }]);
        assert_eq!(c.pixels(&news[1], 4), [0, 0, 0, 1]);
    }

    #[test]
    fn news_outside_of_a_request_wait() {
        let mut c = Canvas::default();
        c.resize(64, 64);
        let part = Rect { x: 17, y: 20, width: 3, height: 27 };
        assert_eq!(c.take_news(&part), [Rect { x: 16, y: 16, width: 16, height: 32 }]);
        let area: u32 = c.take_news(&whole()).iter().map(|r| r.width * r.height).sum();
        assert_eq!(area, 64 * 64 - 16 * 32);
        c.touch(&Rect { x: 63, y: 0, width: u32::MAX, height: 1 });
        assert_eq!(c.take_news(&whole()), [Rect { x: 48, y: 0, width: 16, height: 16 }]);
    }
}
