//! Memory goes back to the system.
//!
//! The C library keeps what was freed: in up to eight heaps for each core, and, once something big
//! was freed, everything of up to that size, too. A service that took an upload in many pieces or
//! read a list of 100,000 files would keep the most that it ever needed.

/// Sets the allocator up; to be called before any thread exists.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn set_up() {
    /// Heaps that threads share; small pieces come from caches of their own.
    const HEAPS: libc::c_int = 2;
    /// Bytes from which on a piece is mapped alone, and unmapped when it is freed.
    const MAPPED: libc::c_int = 256 << 10;
    /// Free bytes at the end of a heap from which on they go back.
    const TRIMMED: libc::c_int = 1 << 20;
    for (what, value) in [
        (libc::M_ARENA_MAX, HEAPS),
        (libc::M_MMAP_THRESHOLD, MAPPED),
        (libc::M_TRIM_THRESHOLD, TRIMMED),
    ] {
        // SAFETY: the call takes numbers alone. One that it does not take changes nothing.
        unsafe { libc::mallopt(what, value) };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn set_up() {}
