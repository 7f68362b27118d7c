//! What the kernel says of its clock, adjtimex(2).

/// Whether something that keeps time, such as chrony, vouches for the clock.
#[allow(unsafe_code)]
pub fn is_synchronised() -> bool {
    // SAFETY: all zeroes is a value of this plain structure, and no modes make it a question only.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is ours and outlives the call.
    let answer = unsafe { libc::adjtimex(&raw mut state) };
    answer >= 0 && state.status & libc::STA_UNSYNC == 0
}
