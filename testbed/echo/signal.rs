//! SIGTERM: the first process of a PID namespace ignores it unless it has a handler.

#![allow(unsafe_code)]

const SIGTERM: i32 = 15;

unsafe extern "C" {
    fn signal(signal: i32, handler: extern "C" fn(i32)) -> usize;
    fn _exit(code: i32) -> !;
}

extern "C" fn end(_signal: i32) {
    // SAFETY: _exit is async-signal-safe (POSIX.1-2017, 2.4.3) and takes any code.
    unsafe { _exit(0) }
}

/// Ends the program with 0 on SIGTERM.
pub fn end_on_terminate() {
    // SAFETY: the handler calls nothing but _exit, so it may interrupt any code.
    unsafe { signal(SIGTERM, end) };
}
