//! Memory for translated code: shared pages, mapped once to write and once to execute, so that no address is ever writable and
//! executable. It fills from the front and starts over when it is full.

/// An offset in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct At(pub(super) u32);

/// The code of one CPU.
#[derive(Debug)]
pub(super) struct CodeCache {
    writable: *mut u8,
    executable: *mut u8,
    len: usize,
    used: usize,
    /// Code up to here stays when the cache starts over.
    kept: usize,
}

// SAFETY: plain memory that one CPU owns.
unsafe impl Send for CodeCache {}

impl CodeCache {
    /// Reserves `len` bytes, at most 1 GiB; the host gives memory as code fills them.
    ///
    /// # Errors
    /// The host's, if it gives no memory that may be executed.
    pub(super) fn new(len: usize) -> std::io::Result<Self> {
        let len = len.clamp(1 << 20, 1 << 30).next_multiple_of(4096);
        let writable = map(len)?;
        // Linux `perf` looks for names of generated code where memory has no file: a second view of the same shared pages, which
        // mremap(2) gives for an old size of 0.
        // SAFETY: our own mapping; the new one goes wherever the kernel chooses.
        let executable = unsafe {
            let second = libc::mremap(writable.cast(), 0, len, libc::MREMAP_MAYMOVE);
            if second == libc::MAP_FAILED || libc::mprotect(second, len, libc::PROT_READ | libc::PROT_EXEC) != 0 {
                let error = std::io::Error::last_os_error();
                libc::munmap(writable.cast(), len);
                return Err(error);
            }
            second.cast()
        };
        Ok(CodeCache { writable, executable, len, used: 0, kept: 0 })
    }

    /// Where the next piece of code will be.
    pub(super) fn next(&self) -> At {
        At(self.used as u32)
    }

    /// Bytes still free.
    pub(super) fn room(&self) -> usize {
        self.len - self.used
    }

    /// Bytes in use.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// Bytes in all.
    pub(super) fn capacity(&self) -> usize {
        self.len
    }

    /// Appends `code` if there is room; the next piece starts at a multiple of 16.
    pub(super) fn append(&mut self, code: &[u8]) -> Option<At> {
        let end = self.used + code.len();
        if end + 16 > self.len {
            return None;
        }
        let at = At(self.used as u32);
        // SAFETY: within the mapping, as just checked.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), self.writable.add(self.used), code.len()) };
        self.used = end.next_multiple_of(16);
        Some(at)
    }

    /// What has been appended so far stays for ever.
    pub(super) fn keep(&mut self) {
        self.kept = self.used;
    }

    /// Drops everything but what is kept.
    pub(super) fn start_over(&mut self) {
        self.used = self.kept;
    }

    /// The host address at which the code at `at` executes.
    pub(super) fn address(&self, at: At) -> u64 {
        self.executable as u64 + u64::from(at.0)
    }

    /// Lets the jump whose 32-bit distance is at `field` go to `to`. Only the CPU that owns the cache executes it, and it is not
    /// executing now.
    pub(super) fn redirect(&mut self, field: At, to: At) {
        let distance = i64::from(to.0) - (i64::from(field.0) + 4);
        self.write(field, &(distance as i32).to_le_bytes());
    }

    /// Puts a jump to `to` over the code at `at`, whose first five bytes are lost.
    pub(super) fn divert(&mut self, at: At, to: At) {
        self.write(at, &[0xe9]);
        self.redirect(At(at.0 + 1), to);
    }

    /// Where the code at `at` jumps, if it is a jump.
    #[cfg(test)]
    pub(super) fn jump_at(&self, at: At) -> Option<At> {
        assert!(at.0 as usize + 5 <= self.used);
        let mut bytes = [0u8; 5];
        // SAFETY: within the part in use, as just checked.
        unsafe { std::ptr::copy_nonoverlapping(self.writable.add(at.0 as usize), bytes.as_mut_ptr(), 5) };
        let [0xe9, distance @ ..] = bytes else { return None };
        Some(At((at.0 + 5).wrapping_add_signed(i32::from_le_bytes(distance))))
    }

    fn write(&mut self, at: At, bytes: &[u8]) {
        assert!(at.0 as usize + bytes.len() <= self.used);
        // SAFETY: within the part in use, as just checked.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.writable.add(at.0 as usize), bytes.len()) };
    }
}

impl Drop for CodeCache {
    fn drop(&mut self) {
        // SAFETY: our own mappings; nobody executes the code once its CPU is gone.
        unsafe {
            libc::munmap(self.writable.cast(), self.len);
            libc::munmap(self.executable.cast(), self.len);
        }
    }
}

fn map(len: usize) -> std::io::Result<*mut u8> {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping at an address of the kernel's choice.
    let got = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags | libc::MAP_NORESERVE, -1, 0) };
    if got == libc::MAP_FAILED { Err(std::io::Error::last_os_error()) } else { Ok(got.cast()) }
}
