//! Memory of this process: what malloc and the kernel keep for it though nobody needs it.

#![allow(unsafe_code)]

use std::{fs, ptr, time::Duration};

/// Between two times that a process gives back what it does not need.
pub const INTERVAL: Duration = Duration::from_secs(10);

/// Arenas that malloc makes for threads; each may keep what was freed in it.
const ARENAS: libc::c_int = 2;
/// From this size on an allocation is a mapping of its own, which goes back when it is freed; bytes.
/// Left alone, malloc raises it with each larger piece that is freed, and keeps those.
const OWN_MAPPING_BYTES: libc::c_int = 128 << 10;
/// Free memory at the end of an arena that malloc keeps; bytes.
const KEPT_BYTES: libc::c_int = 128 << 10;

/// Bounds what malloc keeps. Called before the first thread starts.
pub fn bound_malloc() {
    let settings = [
        (libc::M_ARENA_MAX, ARENAS),
        (libc::M_MMAP_THRESHOLD, OWN_MAPPING_BYTES),
        (libc::M_TRIM_THRESHOLD, KEPT_BYTES),
    ];
    for (setting, value) in settings {
        // SAFETY: mallopt takes two integers and touches only the allocator's own settings.
        unsafe { libc::mallopt(setting, value) };
    }
}

/// Gives back pages that hold nothing but freed memory, and lets go of code and constants: the kernel maps
/// 64 KiB around each of them that was ever used, most of it for starting up. What is used again is mapped
/// again from the page cache, without reading the disk.
pub fn give_back() {
    // SAFETY: malloc_trim touches only memory that the allocator has been given back.
    unsafe { libc::malloc_trim(0) };
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for (start, end) in maps.lines().filter_map(unwritten) {
        // SAFETY: the mapping is private, backed by a file and never written: the kernel shows the same
        // bytes at the same addresses again when they are next read.
        unsafe { libc::madvise(ptr::without_provenance_mut(start), end - start, libc::MADV_DONTNEED) };
    }
}

/// Where a line of `/proc/PID/maps` maps what cannot have been written: code of a program or library, or
/// what comes first in one. Further parts that are read-only now were relocated before they became so.
fn unwritten(line: &str) -> Option<(usize, usize)> {
    let (range, rest) = line.split_once(' ')?;
    let is_code = rest.starts_with("r-xp ") || rest.starts_with("r--p 00000000 ");
    let (start, end) = range.split_once('-').filter(|_| is_code && rest.contains(" /"))?;
    Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cannot_have_been_written_is_let_go_of() {
        let line = |mode, file| format!("55f1-66a2 {mode} fe:00 709                    {file}");
        for mode in ["r-xp 0080c000", "r--p 00000000"] {
            assert_eq!(unwritten(&line(mode, "/usr/bin/capsuled")), Some((0x55f1, 0x66a2)));
            assert_eq!(unwritten(&line(mode, "[vdso]")), None);
        }
        for mode in ["r--p 02015000", "rw-p 00000000", "rwxp 0080c000", "r--s 00000000"] {
            assert_eq!(unwritten(&line(mode, "/usr/bin/capsuled")), None, "{mode}");
        }
    }

    #[test]
    fn the_program_goes_on_after_it() {
        let kept: Vec<u64> = (0..100_000).collect();
        give_back();
        assert_eq!(kept.iter().sum::<u64>(), 4_999_950_000);
    }
}
