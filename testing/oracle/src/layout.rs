//! Where code and data of a case live. The addresses are the same natively and in the guest, all below 4 GiB so that
//! 32-bit code reaches them.
//!
//! ```text
//! 1000_0000 code, 2 pages, read-execute, filled with INT3     (1000_2000 unmapped)
//! 2000_0000 data, 2 pages, read-write      (page before unmapped)
//! 2000_2000 data, 1 page, read-only        (2000_3000 unmapped)
//! 2001_0000 stack, 1 page, read-write      (unmapped on both sides)
//! ```

use std::sync::OnceLock;

/// Bytes in a page.
pub const PAGE: u64 = 0x1000;
/// First byte of the code pages.
pub const CODE: u64 = 0x1000_0000;
/// Bytes of code.
pub const CODE_LEN: u64 = 2 * PAGE;
/// First byte of the read-write data.
pub const DATA: u64 = 0x2000_0000;
/// Bytes of read-write data.
pub const DATA_LEN: u64 = 2 * PAGE;
/// The read-only page, directly after the read-write data.
pub const RODATA: u64 = DATA + DATA_LEN;
/// The stack page.
pub const STACK: u64 = 0x2001_0000;
/// Bytes of stack.
pub const STACK_LEN: u64 = PAGE;
/// All writable bytes.
pub const WRITABLE_LEN: usize = (DATA_LEN + STACK_LEN) as usize;

/// INT3, which fills the code pages and so ends every run.
pub const FILL: u8 = 0xcc;

/// Selectors of a 64-bit Linux kernel's GDT, which the guest's table copies.
pub mod selector {
    /// 32-bit user code.
    pub const USER_CS32: u16 = 0x23;
    /// User data and stack.
    pub const USER_DS: u16 = 0x2b;
    /// 64-bit user code.
    pub const USER_CS64: u16 = 0x33;
    /// First LDT entry, a 32-bit read-write data segment over [`super::LDT_FS_BASE`], loaded in FS in 32-bit mode.
    pub const LDT_FS: u16 = 0x07;
    /// Second LDT entry, an expand-up segment over [`super::LDT_GS_BASE`] with a limit of [`super::LDT_GS_LIMIT`].
    pub const LDT_GS: u16 = 0x0f;
}

/// Base of the FS segment in 32-bit mode; its limit is 4 GiB.
pub const LDT_FS_BASE: u32 = DATA as u32 + 0x100;
/// Base of the GS segment in 32-bit mode.
pub const LDT_GS_BASE: u32 = DATA as u32 + 0x800;
/// Last valid offset of the GS segment in 32-bit mode.
pub const LDT_GS_LIMIT: u32 = 0x7ff;

/// Index into the writable image of an address in it.
pub fn writable_offset(address: u64) -> Option<usize> {
    if (DATA..DATA + DATA_LEN).contains(&address) {
        Some((address - DATA) as usize)
    } else if (STACK..STACK + STACK_LEN).contains(&address) {
        Some((address - STACK + DATA_LEN) as usize)
    } else {
        None
    }
}

/// The address of a byte of the writable image.
pub fn writable_address(offset: usize) -> u64 {
    let offset = offset as u64;
    if offset < DATA_LEN { DATA + offset } else { STACK + offset - DATA_LEN }
}

/// What the writable pages (data, then stack) hold before a case's patches.
pub fn base_image() -> &'static [u8; WRITABLE_LEN] {
    static IMAGE: OnceLock<Box<[u8; WRITABLE_LEN]>> = OnceLock::new();
    IMAGE.get_or_init(|| Box::new(fill(1)))
}

/// What the read-only page holds.
pub fn rodata_image() -> &'static [u8; PAGE as usize] {
    static IMAGE: OnceLock<Box<[u8; PAGE as usize]>> = OnceLock::new();
    IMAGE.get_or_init(|| Box::new(fill(2)))
}

fn fill<const N: usize>(stream: u64) -> [u8; N] {
    let mut image = [0; N];
    crate::rng::Rng::for_case(0x0bad_cafe, stream).fill(&mut image);
    image
}
