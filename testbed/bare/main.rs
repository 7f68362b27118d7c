//! A system that does nothing, in the place of init: what the time of a boot is measured beside.

use std::{fs::OpenOptions, io::Write as _, thread};

/// `bench boot` waits for it.
const WORDS: &[u8] = b"a bare system runs\n";

fn main() {
    // There is nobody else to tell.
    let _ =
        OpenOptions::new().write(true).open("/dev/console").and_then(|mut console| console.write_all(WORDS));
    loop {
        thread::park();
    }
}
