//! The power button, as the kernel's input devices tell of it.

use std::{
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
    thread,
};

use tokio::sync::mpsc;

const INPUTS: &str = "/sys/class/input";
/// `struct input_event` on 64-bit machines: a time of two words, type, code, value.
const EVENT_BYTES: usize = 24;
/// EV_KEY, KEY_POWER, pressed (Linux' include/uapi/linux/input-event-codes.h).
const PRESSED: (u16, u16, i32) = (1, 116, 1);

/// Says each press from now on.
pub fn watch() -> mpsc::Receiver<()> {
    let (sender, receiver) = mpsc::channel(1);
    for node in buttons(Path::new(INPUTS)) {
        let sender = sender.clone();
        // Blocks in the kernel until somebody presses; it ends with the machine.
        let wait = move || listen(&node, &sender);
        if let Err(error) =
            thread::Builder::new().name("power-button".into()).stack_size(64 * 1024).spawn(wait)
        {
            tracing::warn!(%error, "nobody listens to the power button");
        }
    }
    receiver
}

fn buttons(inputs: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(inputs).into_iter().flatten().flatten();
    let is_button = |dir: &Path| {
        fs::read_to_string(dir.join("device/name")).is_ok_and(|name| name.trim() == "Power Button")
    };
    let found = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("event"));
    found
        .filter(|entry| is_button(&entry.path()))
        .map(|entry| Path::new("/dev/input").join(entry.file_name()))
        .collect()
}

fn listen(node: &Path, pressed: &mpsc::Sender<()>) {
    let Ok(mut device) = File::open(node) else { return };
    let mut event = [0; EVENT_BYTES];
    while device.read_exact(&mut event).is_ok() {
        if parse(&event) == PRESSED && pressed.blocking_send(()).is_err() {
            return;
        }
    }
}

fn parse(event: &[u8; EVENT_BYTES]) -> (u16, u16, i32) {
    let half = |at: usize| u16::from_ne_bytes([event[at], event[at + 1]]);
    (half(16), half(18), i32::from_ne_bytes([event[20], event[21], event[22], event[23]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_press_is_told_from_a_release_and_buttons_from_keyboards() {
        let mut event = [0; EVENT_BYTES];
        event[16..].copy_from_slice(&[1, 0, 116, 0, 1, 0, 0, 0]);
        assert_eq!(parse(&event), PRESSED);
        event[20] = 0;
        assert_ne!(parse(&event), PRESSED);
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in
            [("event0", "Power Button\n"), ("event1", "AT Keyboard\n"), ("mouse0", "Power Button\n")]
        {
            fs::create_dir_all(dir.path().join(name).join("device")).unwrap();
            fs::write(dir.path().join(name).join("device/name"), text).unwrap();
        }
        assert_eq!(buttons(dir.path()), [Path::new("/dev/input/event0")]);
    }
}
