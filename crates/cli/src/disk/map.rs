//! `visor disk map`: what lies where.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;
use visor_disk::{Access, Opened};
use visor_qcow2::{ExtentKind, Source};

use super::args::Which;
use super::names::find;
use super::work::{human, image_failure, open};
use crate::report::Failure;

/// Most extents that are kept: a picture of more shows nothing more.
const MOST: usize = 1 << 20;
/// Cells of a picture: rows and columns.
const ROWS: u64 = 24;
const COLUMNS: u64 = 64;
/// In front of the rows, for where they start; every so many say it.
const LEFT: u64 = 66;
const LABELLED: u64 = 4;

/// A stretch of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    at: u64,
    len: u64,
    kind: Kind,
    host: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Hole,
    Zero,
    Backing,
    Compressed,
    Shared,
    Data,
}

impl Kind {
    const ALL: [Kind; 6] = [Kind::Data, Kind::Shared, Kind::Compressed, Kind::Backing, Kind::Zero, Kind::Hole];

    fn name(self) -> &'static str {
        match self {
            Kind::Hole => "hole",
            Kind::Zero => "zero",
            Kind::Backing => "backing",
            Kind::Compressed => "compressed",
            Kind::Shared => "shared",
            Kind::Data => "data",
        }
    }

    fn letter(self) -> char {
        match self {
            Kind::Hole => '.',
            Kind::Zero => '0',
            Kind::Backing => 'b',
            Kind::Compressed => 'c',
            Kind::Shared => 's',
            Kind::Data => '#',
        }
    }

    /// Distinguishable without colour vision as well, by lightness.
    fn colour(self) -> &'static str {
        match self {
            Kind::Hole => "#eeeeee",
            Kind::Zero => "#b0bec5",
            Kind::Backing => "#b39ddb",
            Kind::Compressed => "#ffb300",
            Kind::Shared => "#00897b",
            Kind::Data => "#1565c0",
        }
    }
}

pub(super) fn map(which: &Which, svg: bool) -> Result<u8, Failure> {
    let path = find(&which.disk)?;
    let image = open(&path, Access::ReadOnly, which.format)?;
    let size = image.source().size();
    let pieces = pieces(&image, size, &path)?;
    let fragments = fragments(&pieces);
    if which.json {
        let extents: Vec<_> = pieces
            .iter()
            .map(|p| json!({ "start": p.at, "length": p.len, "kind": p.kind.name(), "host": p.host }))
            .collect();
        let value = json!({ "disk": path, "size": size, "fragments": fragments, "extents": extents });
        println!("{}", serde_json::to_string_pretty(&value)?);
        return Ok(0);
    }
    let cells = cells(&pieces, size);
    if svg {
        print!("{}", picture(&cells, &pieces, size, &path));
        return Ok(0);
    }
    for row in cells.chunks(COLUMNS as usize) {
        println!("{}", row.iter().map(|k| k.letter()).collect::<String>());
    }
    println!();
    for kind in Kind::ALL {
        let total = total(&pieces, kind);
        if total > 0 {
            println!("{}  {:<11} {:>10}", kind.letter(), kind.name(), human(total));
        }
    }
    println!("{} in {} stretches, {fragments} fragments of data in the file", human(size), pieces.len());
    Ok(0)
}

fn pieces(image: &Opened, size: u64, path: &Path) -> Result<Vec<Piece>, Failure> {
    let mut list: Vec<Piece> = Vec::new();
    let mut at = 0;
    while at < size && list.len() < MOST {
        let piece = match image {
            Opened::Qcow2(i) => {
                let backed = i.describe().backing_file.is_some();
                let e = i.extent(at, size - at).map_err(image_failure(path))?;
                let (kind, host) = match e.kind {
                    ExtentKind::Data { host, shared } => (if shared { Kind::Shared } else { Kind::Data }, Some(host)),
                    ExtentKind::Compressed { host, .. } => (Kind::Compressed, Some(host)),
                    ExtentKind::Zero => (Kind::Zero, None),
                    ExtentKind::Hole if backed => (Kind::Backing, None),
                    ExtentKind::Hole => (Kind::Hole, None),
                };
                Piece { at, len: e.len, kind, host }
            }
            other => {
                let (zero, len) = Source::is_zero(&*other.source(), at, size - at).map_err(image_failure(path))?;
                Piece {
                    at,
                    len: len.max(1),
                    kind: if zero { Kind::Hole } else { Kind::Data },
                    host: (!zero).then_some(at),
                }
            }
        };
        at += piece.len;
        match list.last_mut() {
            // Stretches of nothing are told of piece by piece.
            Some(last) if last.kind == piece.kind && piece.host.is_none() => last.len += piece.len,
            Some(last) if last.kind == piece.kind && last.host.map(|h| h + last.len) == piece.host => {
                last.len += piece.len
            }
            _ => list.push(piece),
        }
    }
    Ok(list)
}

/// Stretches of data that do not lie behind their predecessor in the file.
fn fragments(pieces: &[Piece]) -> usize {
    let mut end = None;
    let mut count = 0;
    for p in pieces {
        if let Some(host) = p.host {
            count += usize::from(end != Some(host));
            end = Some(host + p.len);
        }
    }
    count
}

/// What each cell of the picture holds most remarkably.
fn cells(pieces: &[Piece], size: u64) -> Vec<Kind> {
    let count = (ROWS * COLUMNS).min(size.div_ceil(512)).max(1);
    let mut cells = vec![Kind::Hole; count as usize];
    let cell_of = |byte: u64| (u128::from(byte) * u128::from(count) / u128::from(size.max(1))) as usize;
    for p in pieces.iter().filter(|p| p.len > 0) {
        for cell in &mut cells[cell_of(p.at)..=cell_of(p.at + p.len - 1)] {
            *cell = (*cell).max(p.kind);
        }
    }
    cells
}

/// Bytes of a kind.
fn total(pieces: &[Piece], kind: Kind) -> u64 {
    pieces.iter().filter(|p| p.kind == kind).map(|p| p.len).sum()
}

fn picture(cells: &[Kind], pieces: &[Piece], size: u64, path: &Path) -> String {
    let (w, rows) = (12, (cells.len() as u64).div_ceil(COLUMNS));
    let (width, height) = (LEFT + COLUMNS * w + 10, rows * w + 70);
    let start = |cell: usize| human((u128::from(size) * cell as u128 / cells.len().max(1) as u128) as u64);
    let mut svg = String::new();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <title>{name}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"20\">{name}: {}, a cell is {}; {} fragments of data</text>",
        human(size),
        human(size / cells.len().max(1) as u64),
        fragments(pieces)
    );
    for (i, kind) in cells.iter().enumerate() {
        let (x, y) = (LEFT + i as u64 % COLUMNS * w, 32 + i as u64 / COLUMNS * w);
        if (i as u64).is_multiple_of(LABELLED * COLUMNS) {
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" font-size=\"10\" text-anchor=\"end\">{}</text>",
                LEFT - 6,
                y + 9,
                start(i)
            );
        }
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{0}\" height=\"{0}\" fill=\"{1}\"><title>{2} at {3}</title></rect>",
            w - 1,
            kind.colour(),
            kind.name(),
            start(i)
        );
    }
    let mut x = LEFT;
    for kind in Kind::ALL.into_iter().filter(|k| cells.contains(k)) {
        let y = 32 + rows * w + 12;
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{y}\" width=\"11\" height=\"11\" fill=\"{}\"/><text x=\"{}\" y=\"{}\" font-size=\"11\">{} {}</text>",
            kind.colour(),
            x + 15,
            y + 10,
            kind.name(),
            human(total(pieces, kind))
        );
        x += 128;
    }
    svg.push_str("</svg>\n");
    svg
}
