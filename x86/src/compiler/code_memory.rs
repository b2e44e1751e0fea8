//! Memory for generated code: one file mapped twice, once to write and once to execute.
//!
//! Does: hand out space front to back, patch it, start over. Does not: know what the code is.
//!
//! Invariant: no mapping can be written and executed. Space is handed out once between two calls of
//! [`CodeMemory::clear`], so a stale place is never somebody else's.

#![allow(unsafe_code)]

use std::ptr;

/// Alignment of what is appended.
const ALIGNMENT: usize = 16;

/// Two views of the same memory.
pub(super) struct CodeMemory {
    write: *mut u8,
    execute: *const u8,
    capacity: usize,
    used: usize,
}

// SAFETY: the mappings belong to this value alone and are no thread's own.
unsafe impl Send for CodeMemory {}

impl CodeMemory {
    /// Maps `capacity` bytes; `None` if the host refuses.
    pub(super) fn new(capacity: usize) -> Option<CodeMemory> {
        let capacity = capacity.next_multiple_of(4096);
        // SAFETY: the name is a C string; the descriptor is closed below, the mappings keep the
        // file alive. Both mappings are new and as long as the file.
        unsafe {
            let file = libc::memfd_create(c"x86-code".as_ptr(), libc::MFD_CLOEXEC);
            if file < 0 {
                return None;
            }
            let map = |protection| {
                let at = libc::mmap(
                    ptr::null_mut(),
                    capacity,
                    protection,
                    libc::MAP_SHARED,
                    file,
                    0,
                );
                (at != libc::MAP_FAILED).then_some(at)
            };
            let views = if libc::ftruncate(file, capacity as libc::off_t) == 0 {
                map(libc::PROT_READ | libc::PROT_WRITE).and_then(|write| {
                    let execute = map(libc::PROT_READ | libc::PROT_EXEC);
                    if execute.is_none() {
                        libc::munmap(write, capacity);
                    }
                    Some((write, execute?))
                })
            } else {
                None
            };
            libc::close(file);
            let (write, execute) = views?;
            Some(CodeMemory {
                write: write.cast(),
                execute: execute.cast_const().cast(),
                capacity,
                used: 0,
            })
        }
    }

    /// Where the code at `offset` is executed.
    pub(super) fn address(&self, offset: u32) -> u64 {
        self.execute.addr() as u64 + u64::from(offset)
    }

    /// Appends code and gives its offset; `None` if there is no room.
    pub(super) fn append(&mut self, code: &[u8]) -> Option<u32> {
        let at = self.used.next_multiple_of(ALIGNMENT);
        if at + code.len() > self.capacity {
            return None;
        }
        // SAFETY: the range lies in the writable mapping, which nothing else refers to.
        unsafe { ptr::copy_nonoverlapping(code.as_ptr(), self.write.add(at), code.len()) };
        self.used = at + code.len();
        Some(at as u32)
    }

    /// Overwrites code at `offset`.
    pub(super) fn patch(&mut self, offset: u32, bytes: &[u8]) {
        let at = offset as usize;
        assert!(at + bytes.len() <= self.used, "a patch lies within code");
        // SAFETY: as in `append`. Nothing executes meanwhile: the thread that would is here.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.write.add(at), bytes.len()) };
    }

    /// Forgets all code.
    pub(super) fn clear(&mut self) {
        self.used = 0;
    }
}

impl Drop for CodeMemory {
    fn drop(&mut self) {
        // SAFETY: both mappings were made by `new`, and nothing executes or refers to them.
        unsafe {
            libc::munmap(self.write.cast(), self.capacity);
            libc::munmap(self.execute.cast_mut().cast(), self.capacity);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_executed() {
        let mut memory = CodeMemory::new(4096).expect("memory can be mapped");
        // mov eax, 7; ret
        let at = memory
            .append(&[0xb8, 7, 0, 0, 0, 0xc3])
            .expect("there is room");
        memory.patch(at + 1, &9i32.to_le_bytes());
        let address = memory.address(at) as usize;
        // SAFETY: the bytes are a function without arguments that returns a number.
        let function: extern "sysv64" fn() -> u32 =
            unsafe { std::mem::transmute(std::ptr::with_exposed_provenance::<()>(address)) };
        assert_eq!(function(), 9);
        assert_eq!(memory.append(&[0; 4090]), None);
        memory.clear();
        assert_eq!(memory.append(&[0; 4090]), Some(0));
    }
}
