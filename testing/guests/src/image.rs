//! The guest image: all programs, assembled into this binary's read-only data, and the directory of them.

#![expect(unsafe_code, reason = "the assembled sections are reachable only through linker symbols")]

use std::arch::global_asm;

/// Where the image is loaded; the GDT is its first page.
pub const LOAD: u64 = 0x8000;

/// One guest program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// `group/what`.
    pub name: &'static str,
    /// Address of its first instruction in guest memory.
    pub entry: u32,
    /// The mode it starts in: 16, 32 or 64 bits.
    pub mode: u32,
    /// CPU features without which it makes no sense; see [`crate::features`].
    pub needs: Vec<&'static str>,
}

global_asm!(
    ".pushsection .rodata.visor_guest_image, \"a\", @progbits",
    include_str!("asm/prelude.s"),
    include_str!("asm/boot.s"),
    include_str!("asm/real.s"),
    include_str!("asm/v86.s"),
    include_str!("asm/protected.s"),
    include_str!("asm/gates.s"),
    include_str!("asm/tasks.s"),
    include_str!("asm/exceptions.s"),
    include_str!("asm/debug.s"),
    include_str!("asm/paging.s"),
    include_str!("asm/long.s"),
    include_str!("asm/syscall.s"),
    include_str!("asm/inline.s"),
    include_str!("asm/narrow.s"),
    include_str!("asm/modify.s"),
    include_str!("asm/loops.s"),
    include_str!("asm/io.s"),
    include_str!("asm/irq.s"),
    include_str!("asm/smp.s"),
    include_str!("asm/matrix.s"),
    include_str!("asm/drive.s"),
    include_str!("asm/epilogue.s"),
    ".code64",
    ".popsection",
    options(att_syntax, raw)
);

unsafe extern "C" {
    static visor_guest_image: u8;
    static visor_guest_image_end: u8;
    static visor_guest_names: u8;
    static visor_guest_names_end: u8;
    static visor_guest_programs: u8;
    static visor_guest_programs_end: u8;
}

/// The bytes to load at [`LOAD`].
pub fn bytes() -> &'static [u8] {
    section(&raw const visor_guest_image, &raw const visor_guest_image_end)
}

/// Address of the common entry: real mode, EBX = program, ECX = its mode.
pub const BOOT: u64 = LOAD + 0x200;

/// The name of the check whose third report is `offset`.
pub fn check_name(offset: u32) -> &'static str {
    let names = section(&raw const visor_guest_names, &raw const visor_guest_names_end);
    text(names.get(offset as usize..).unwrap_or_default())
}

/// Every program, in the order of the source.
pub fn programs() -> Vec<Program> {
    let mut rest = section(&raw const visor_guest_programs, &raw const visor_guest_programs_end);
    let mut all = Vec::new();
    while let Some((head, tail)) = rest.split_at_checked(8) {
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let name = text(tail);
        let needs = text(&tail[name.len() + 1..]);
        rest = &tail[name.len() + needs.len() + 2..];
        all.push(Program { name, entry: word(0), mode: word(4), needs: needs.split_whitespace().collect() });
    }
    all
}

/// The program with that name.
///
/// # Panics
/// If there is none, which is a mistake in the caller.
pub fn program(name: &str) -> Program {
    let found = programs().into_iter().find(|p| p.name == name);
    found.unwrap_or_else(|| panic!("no guest program is called {name}"))
}

fn text(bytes: &'static [u8]) -> &'static str {
    let len = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    std::str::from_utf8(&bytes[..len]).unwrap_or("?")
}

fn section(start: *const u8, end: *const u8) -> &'static [u8] {
    // SAFETY: both symbols delimit one contiguous read-only section of this binary.
    unsafe { std::slice::from_raw_parts(start, end.offset_from(start) as usize) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_sound() {
        let all = programs();
        assert!(all.len() > 100);
        for p in &all {
            let end = LOAD + bytes().len() as u64;
            assert!((LOAD..end).contains(&u64::from(p.entry)), "{} lies in the image", p.name);
            assert!(matches!(p.mode, 16 | 32 | 64), "{}", p.name);
            assert!(p.mode != 16 || p.entry < 0xf000, "{} is reachable in real mode", p.name);
            assert_eq!(all.iter().filter(|q| q.name == p.name).count(), 1, "{} is there once", p.name);
        }
        assert!(LOAD + (bytes().len() as u64) < 0x3_0000, "the image ends below what programs use");
    }
}
