//! The page-permission matrix: every combination of rights at two levels, ring, kind of access and the control bits that
//! matter, with what must happen (SDM 3A §4.6 "Access rights", §4.7 "Page-fault exceptions", §4.8 "Accessed and dirty flags").

use std::fmt::Write as _;

use visor_engine::{Engine, EngineError};

use crate::harness::{Guest, Outcome};
use crate::{image, scenario};

/// Where the table lies in guest memory, and where the results go; as in `asm/matrix.s`.
const CASES: u64 = 0x40_0000;
const RESULTS: u64 = 0xc0_0000;
/// Physical address of the page under test, and of its tables.
const PAGE: u64 = 0x20_0000;
const TABLES: u64 = 0x10_0000;

const P: u64 = 1;
const RW: u64 = 2;
const US: u64 = 4;
const A: u64 = 1 << 5;
const PS: u64 = 1 << 7;
const NX: u64 = 1 << 63;
const SMEP: u32 = 1 << 20;
const SMAP: u32 = 1 << 21;

/// Kinds of access, by their number in the guest.
const KINDS: [&str; 4] = ["load", "store", "fetch", "read-modify-write"];
const FETCH: u32 = 2;

/// One case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Case {
    entries: [u64; 4],
    cr4: u32,
    wp: bool,
    nxe: bool,
    ac: bool,
    ring: u32,
    kind: u32,
}

/// What a case leads to: a page fault with this error code, or an access that sets A and D.
type Expected = Option<u32>;

/// Runs the matrix on `engine`; the account of the first differences, or nothing.
///
/// # Errors
/// Those of the engine.
pub fn check(engine: &dyn Engine) -> Result<String, EngineError> {
    let cases = cases();
    let guest = Guest::new(engine, &image::program("drive/paging-matrix"), 1)?;
    for (n, case) in cases.iter().enumerate() {
        guest.write(CASES + 64 * n as u64, &case.encode());
    }
    guest.write(CASES + 64 * cases.len() as u64 + 52, &4u32.to_le_bytes());
    let memory = guest.memory.clone();
    let outcome = guest.finish(scenario::LIMIT)?;
    let dword = |at| scenario::dword(&memory, at);
    Ok(compare(&cases, &outcome, dword))
}

fn compare(cases: &[Case], outcome: &Outcome, dword: impl Fn(u64) -> u32) -> String {
    let mut text = String::new();
    if outcome.trace != [RESULTS as u32 + 16 * cases.len() as u32] {
        let _ = writeln!(text, "  the guest walked to {:x?}; {}", outcome.trace, outcome.differences());
        return text;
    }
    let mut wrong = 0;
    for (n, case) in cases.iter().enumerate() {
        let at = RESULTS + 16 * n as u64;
        let [vector, error, bits, cr2] = [0, 4, 8, 12].map(|o| dword(at + o));
        let want = case.expected();
        let good = match want {
            Some(want) => vector == 15 && error == want && cr2 == 0 && bits & 2 == 0,
            None => vector == 0 && bits & 7 == case.accessed_dirty(),
        };
        if !good {
            wrong += 1;
            if wrong <= 20 {
                let _ = writeln!(
                    text,
                    "  {case}: got vector {} error {error:#x} A/D {bits:#x} cr2 {}, want {want:x?}",
                    i64::from(vector) - 1,
                    if cr2 == 0 { "right" } else { "wrong" },
                );
            }
        }
    }
    if wrong > 0 {
        let _ = writeln!(text, "  {wrong} of {} cases differ", cases.len());
    }
    text
}

impl Case {
    fn encode(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        for (i, e) in self.entries.iter().enumerate() {
            bytes[8 * i..8 * i + 8].copy_from_slice(&e.to_le_bytes());
        }
        let words = [
            self.cr4,
            u32::from(self.wp) << 16,
            u32::from(self.nxe) << 11,
            u32::from(self.ac) << 18,
            self.ring,
            self.kind,
        ];
        for (i, w) in words.iter().enumerate() {
            bytes[32 + 4 * i..36 + 4 * i].copy_from_slice(&w.to_le_bytes());
        }
        bytes
    }

    fn writes(&self) -> bool {
        self.kind == 1 || self.kind == 3
    }

    /// The error code of the page fault, or `None` for an access that goes through.
    fn expected(&self) -> Expected {
        let fetch = self.kind == FETCH;
        let mut code = u32::from(self.writes()) << 1 | u32::from(self.ring == 3) << 2;
        if fetch && (self.nxe || self.cr4 & SMEP != 0) {
            code |= 0x10;
        }
        let (mut rw, mut us, mut nx) = (true, true, false);
        for (level, &e) in self.entries.iter().enumerate() {
            if e & P == 0 {
                return Some(code);
            }
            let large = level == 2 && e & PS != 0;
            let reserved = (level == 0 && e & PS != 0)
                || (large && e & 0x1f_e000 != 0)
                || (e & NX != 0 && !self.nxe)
                || e & 1 << 51 != 0;
            if reserved {
                return Some(code | 9);
            }
            rw &= e & RW != 0;
            us &= e & US != 0;
            nx |= e & NX != 0;
            if large {
                break;
            }
        }
        let denied = if self.ring == 3 {
            !us || (self.writes() && !rw) || (fetch && nx)
        } else {
            (self.writes() && !rw && self.wp)
                || (fetch && (nx || (us && self.cr4 & SMEP != 0)))
                || (!fetch && us && self.cr4 & SMAP != 0 && !self.ac)
        };
        denied.then_some(code | 1)
    }

    /// A and D as the guest reports them after an access that went through: PTE in bits 0 and 1, PDE in bit 2.
    fn accessed_dirty(&self) -> u32 {
        let large = self.entries[2] & PS != 0;
        if large { 4 | u32::from(self.entries[3] & A != 0) } else { 5 | u32::from(self.writes()) << 1 }
    }
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rights = |e: u64| {
            let bit = |b, c| if e & b != 0 { c } else { '-' };
            [bit(P, 'p'), bit(RW, 'w'), bit(US, 'u'), bit(NX, 'x')].iter().collect::<String>()
        };
        let [a, b, c, d] = self.entries.map(rights);
        let flag = |on, name| if on { name } else { "" };
        write!(
            f,
            "{} at ring {} with {a} {b} {c} {d}{}{}{}{}{}",
            KINDS[self.kind as usize % 4],
            self.ring,
            flag(self.wp, " WP"),
            flag(self.nxe, " NXE"),
            flag(self.ac, " AC"),
            flag(self.cr4 & SMEP != 0, " SMEP"),
            flag(self.cr4 & SMAP != 0, " SMAP"),
        )
    }
}

/// All cases: rights of PDE and PTE against everything, then missing and reserved bits at every level.
fn cases() -> Vec<Case> {
    let top = P | RW | US;
    let base = [TABLES + 0x11000, TABLES + 0x12000, TABLES + 0x13000, PAGE];
    let tables = |rights: [u64; 4]| std::array::from_fn(|i| base[i] | rights[i]);
    let mut all = Vec::new();
    for pte in [P, P | RW, P | US, P | RW | US, P | NX, P | RW | NX, P | US | NX, P | RW | US | NX, 0, RW | US] {
        for pde in [top, P | US, P | RW, top | NX] {
            push_settings(&mut all, tables([top, top, pde, pte]));
        }
    }
    for special in [
        [top | PS, top, top, top],
        [0, top, top, top],
        [top, 0, top, top],
        [top, top, 0, top],
        [top, top, top, top | 1 << 51],
        [top, top, top | 1 << 51, top],
        [top, top | NX, top, top],
        [P | RW, top, top, top],
        [top, P | US, top, top],
    ] {
        push_settings(&mut all, tables(special));
    }
    for pde in [top, P | US, P | RW, top | NX, top | 1 << 13, top | 1 << 20] {
        let mut entries = tables([top, top, 0, 0]);
        entries[2] = PAGE | PS | pde;
        push_settings(&mut all, entries);
    }
    all
}

/// One case per kind of access, ring and control bits.
fn push_settings(all: &mut Vec<Case>, entries: [u64; 4]) {
    for bits in 0..256u32 {
        let bit = |n: u32| bits >> n & 1 == 1;
        let cr4 = if bit(0) { SMEP } else { 0 } | if bit(1) { SMAP } else { 0 };
        let ring = if bit(5) { 3 } else { 0 };
        // AC does nothing at ring 3 here (CR0.AM is clear), and AC without SMAP nothing at ring 0.
        if bit(4) && (ring == 3 || !bit(1)) {
            continue;
        }
        all.push(Case { entries, cr4, wp: bit(2), nxe: bit(3), ac: bit(4), ring, kind: bits >> 6 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_knows_the_manual() {
        let user = [7, 7, 7, 7];
        let case = Case { entries: user, cr4: SMAP, wp: true, nxe: true, ac: false, ring: 0, kind: 0 };
        assert_eq!(case.expected(), Some(1), "SMAP stops a supervisor load of a user page");
        assert_eq!(Case { ac: true, ..case }.expected(), None, "unless AC is set");
        assert_eq!(Case { cr4: SMEP, kind: FETCH, ..case }.expected(), Some(0x11));
        assert_eq!(Case { entries: [7, 7, 7, 5], ring: 3, kind: 1, ..case }.expected(), Some(7));
        assert_eq!(Case { entries: [7, 7, 7, 7 | NX], nxe: false, ..case }.expected(), Some(9));
        assert!(cases().len() > 5000);
    }
}
