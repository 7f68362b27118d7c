//! Memory of this process: what malloc and the kernel keep for it though nobody needs it.

#![allow(unsafe_code)]

use std::{fs, ptr};

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

/// Gives back pages that hold nothing but freed memory, and lets go of program code: the kernel maps
/// 64 KiB around each instruction that ever ran, most of it code for starting up. What runs again is
/// mapped again from the page cache, without reading the disk.
pub fn give_back() {
    // SAFETY: malloc_trim touches only memory that the allocator has been given back.
    unsafe { libc::malloc_trim(0) };
    let Ok(program) = std::env::current_exe() else { return };
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let code = maps.lines().filter_map(|line| code_of(line, &program.to_string_lossy()));
    for (start, end) in code {
        // SAFETY: the mapping is private, backed by a file and never written (r-xp): the kernel
        // shows the same bytes at the same addresses again when they are next read.
        unsafe { libc::madvise(ptr::without_provenance_mut(start), end - start, libc::MADV_DONTNEED) };
    }
}

/// Where a line of `/proc/PID/maps` maps code of `program`.
fn code_of(line: &str, program: &str) -> Option<(usize, usize)> {
    let (range, rest) = line.split_once(' ')?;
    let is_code = rest.starts_with("r-xp ") && rest.ends_with(program);
    let (start, end) = range.split_once('-').filter(|_| is_code)?;
    Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_that_cannot_have_been_written_is_let_go_of() {
        let line = |mode| format!("55f1-66a2 {mode} 00567000 fe:00 709                    /usr/bin/capsuled");
        assert_eq!(code_of(&line("r-xp"), "/usr/bin/capsuled"), Some((0x55f1, 0x66a2)));
        for (mode, program) in
            [("r--p", "/usr/bin/capsuled"), ("rwxp", "/usr/bin/capsuled"), ("r-xp", "/bin/x")]
        {
            assert_eq!(code_of(&line(mode), program), None);
        }
    }

    #[test]
    fn the_program_goes_on_after_it() {
        let kept: Vec<u64> = (0..100_000).collect();
        give_back();
        assert_eq!(kept.iter().sum::<u64>(), 4_999_950_000);
    }
}
