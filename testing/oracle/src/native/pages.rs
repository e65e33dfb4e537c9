//! The pages of a case in the child process: fixed addresses, the right permissions, and a second, writable view of the
//! code pages (SDM 3A §8.1.3: the IRETQ that enters a case serialises, so the new code is seen).

use crate::layout::{self, CODE, CODE_LEN, DATA, PAGE, RODATA, STACK, WRITABLE_LEN};
use std::io;

/// The mapped pages.
#[derive(Debug)]
pub(super) struct Pages {
    /// Writable view of the code pages.
    code: *mut u8,
    dirty_code: (usize, usize),
    base: &'static [u8; WRITABLE_LEN],
}

impl Pages {
    /// Maps everything.
    ///
    /// # Safety
    /// Replaces whatever the process has at the addresses of [`layout`]; call it in a process made for this purpose.
    pub(super) unsafe fn map() -> io::Result<Pages> {
        let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh anonymous file; the name is a C string.
        let fd = unsafe { libc::memfd_create(c"oracle-code".as_ptr(), libc::MFD_CLOEXEC) };
        // SAFETY: `fd` is checked by the call itself.
        if fd < 0 || unsafe { libc::ftruncate(fd, CODE_LEN as i64) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the caller gives up these addresses.
        let code = unsafe {
            map_at(CODE, CODE_LEN, libc::PROT_READ | libc::PROT_EXEC, libc::MAP_SHARED, fd)?;
            map_at(DATA, layout::DATA_LEN, rw, anonymous, -1)?;
            map_at(RODATA, PAGE, rw, anonymous, -1)?;
            map_at(STACK, layout::STACK_LEN, rw, anonymous, -1)?;
            let code = libc::mmap(std::ptr::null_mut(), CODE_LEN as usize, rw, libc::MAP_SHARED, fd, 0);
            libc::close(fd);
            if code == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            code.cast::<u8>()
        };
        let base = layout::base_image();
        // SAFETY: all just mapped read-write with these lengths.
        unsafe {
            code.write_bytes(layout::FILL, CODE_LEN as usize);
            copy(DATA, &base[..layout::DATA_LEN as usize]);
            copy(STACK, &base[layout::DATA_LEN as usize..]);
            copy(RODATA, layout::rodata_image());
            // Fault the executable view in, so that no case waits for it.
            std::ptr::read_volatile(CODE as *const u64);
            std::ptr::read_volatile((CODE + PAGE) as *const u64);
            if libc::mprotect(RODATA as *mut libc::c_void, PAGE as usize, libc::PROT_READ) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(Pages { code, dirty_code: (0, 0), base })
    }

    /// Places the code at its address; everything else in the code pages is INT3.
    pub(super) fn set_code(&mut self, rip: u64, code: &[u8]) {
        let (from, to) = self.dirty_code;
        let start = (rip.saturating_sub(CODE) as usize).min(CODE_LEN as usize);
        let len = code.len().min(CODE_LEN as usize - start);
        // SAFETY: both ranges lie in the writable view, which is CODE_LEN long.
        unsafe {
            self.code.add(from).write_bytes(layout::FILL, to - from);
            std::ptr::copy_nonoverlapping(code.as_ptr(), self.code.add(start), len);
        }
        self.dirty_code = (start, start + len);
    }

    /// Writes into the writable image; bytes beyond its end are dropped.
    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        for (i, byte) in bytes.iter().enumerate().take_while(|(i, _)| offset + i < WRITABLE_LEN) {
            // SAFETY: the image's addresses are mapped read-write.
            unsafe { *(layout::writable_address(offset + i) as *mut u8) = *byte };
        }
    }

    /// The data and the stack pages as they are.
    pub(super) fn writable(&self) -> (&[u8], &[u8]) {
        // SAFETY: mapped read-write for the life of the process; nothing writes while the borrow lives but the caller.
        unsafe {
            (
                std::slice::from_raw_parts(DATA as *const u8, layout::DATA_LEN as usize),
                std::slice::from_raw_parts(STACK as *const u8, layout::STACK_LEN as usize),
            )
        }
    }

    /// Puts the base image's quadword back.
    pub(super) fn reset_qword(&mut self, offset: usize) {
        let bytes: &[u8] = &self.base[offset..offset + 8];
        self.write(offset, bytes);
    }
}

unsafe fn copy(to: u64, from: &[u8]) {
    // SAFETY: the caller mapped `from.len()` bytes at `to`.
    unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to as *mut u8, from.len()) }
}

unsafe fn map_at(at: u64, len: u64, prot: i32, flags: i32, fd: i32) -> io::Result<()> {
    // SAFETY: MAP_FIXED_NOREPLACE never touches an existing mapping.
    let got =
        unsafe { libc::mmap(at as *mut libc::c_void, len as usize, prot, flags | libc::MAP_FIXED_NOREPLACE, fd, 0) };
    if got as u64 == at { Ok(()) } else { Err(io::Error::last_os_error()) }
}
