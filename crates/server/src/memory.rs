//! How memory goes back to the system.

/// From how many bytes on an allocation is given back to the system as soon as it is freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE: libc::c_int = 1 << 20;

/// Has large allocations be given back to the system when they are freed. Hashing a password takes 19 MiB, a large
/// room's state more. Left to itself, glibc takes what was freed for what will be wanted again, and keeps as much in
/// each of its arenas: 250 MB after a dozen logins, where 40 are in use.
///
/// To be called before there are other threads.
pub fn give_back_large_allocations() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[allow(
        unsafe_code,
        reason = "it is a setting of the C library, which has no safe form"
    )]
    // SAFETY: it sets a number, and nobody else allocates meanwhile.
    let taken = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    debug_assert_eq!(taken, 1, "glibc knows the setting");
}
