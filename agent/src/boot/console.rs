//! What stands on the screen and the serial line: who this is and how it is. Nobody logs in there.

use std::{
    fmt::Write as _,
    fs::{self, OpenOptions},
    io::Write as _,
    net::IpAddr,
};

use super::{
    facts::{Role, Slot},
    link::Banner,
};

const ACTIVE: &str = "/sys/class/tty/console/active";
/// Clears a screen and begins at its top; a serial line would only scroll.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Screen {
    /// The system's.
    pub version: String,
    /// What the machine runs as.
    pub role: Role,
    /// The booted slot, and whether it is not confirmed yet.
    pub slot: Option<(Slot, bool)>,
    /// From which it can be reached.
    pub addresses: Vec<IpAddr>,
    /// What the agent says; empty until it does.
    pub banner: Banner,
    /// What keeps it from being a capsule.
    pub trouble: Vec<String>,
}

impl Screen {
    /// As text.
    pub fn text(&self) -> String {
        let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        let slot = self.slot.map_or_else(String::new, |(slot, tentative)| {
            format!("{slot}{}", if tentative { ", not confirmed" } else { "" })
        });
        let addresses: Vec<String> = self.addresses.iter().map(IpAddr::to_string).collect();
        let Banner { name, short_id, fingerprint, health } = &self.banner;
        let health = if health.is_empty() { "starting" } else { health };
        let rows = [
            ("name", or_dash(name)),
            ("short id", or_dash(short_id)),
            ("addresses", or_dash(&addresses.join(", "))),
            ("fingerprint", or_dash(fingerprint)),
            ("slot", or_dash(&slot)),
            ("health", health.to_owned()),
        ];
        let role = if self.role == Role::Installer { " installer" } else { "" };
        let mut text = format!("\nCapsule {}{role}\n\n", self.version);
        for (name, value) in rows {
            let _ = writeln!(text, "  {name:<12} {}", printable(&value));
        }
        for trouble in &self.trouble {
            let _ = writeln!(text, "\n  !!! {}", printable(trouble));
        }
        text
    }

    /// Writes it to every console.
    pub fn show(&self) {
        let text = self.text();
        for console in consoles() {
            let clear = if console.starts_with("ttyS") { "" } else { CLEAR };
            write(&console, &format!("{clear}{text}"));
        }
    }
}

/// A line on every console.
pub fn say(line: &str) {
    consoles().iter().for_each(|console| write(console, &format!("capsule: {}\n", printable(line))));
}

/// What others named must not move the cursor.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn consoles() -> Vec<String> {
    let active = fs::read_to_string(ACTIVE).unwrap_or_default();
    active.split_whitespace().map(str::to_owned).collect()
}

/// A console that does not take it must stop nothing.
fn write(console: &str, text: &str) {
    use std::os::unix::fs::OpenOptionsExt as _;
    let options = OpenOptions::new().write(true).custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK).to_owned();
    if let Ok(mut terminal) = options.open(format!("/dev/{console}")) {
        let _ = terminal.write_all(text.replace('\n', "\r\n").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_names_the_capsule_and_shouts_what_is_wrong() {
        let banner = Banner {
            name: "attic\x1b[2J".into(),
            short_id: "capsule-a3f2".into(),
            fingerprint: "ab:cd".into(),
            health: String::new(),
        };
        let screen = Screen {
            version: "0.1.0".into(),
            role: Role::Appliance,
            slot: Some((Slot::B, true)),
            addresses: vec!["10.0.2.15".parse().unwrap(), "fd00::2".parse().unwrap()],
            banner,
            trouble: vec!["/perm is damaged".into()],
        };
        let expected = "\nCapsule 0.1.0\n\n  name         attic [2J\n  short id     capsule-a3f2\n  \
                        addresses    10.0.2.15, fd00::2\n  fingerprint  ab:cd\n  slot         b, not confirmed\n  \
                        health       starting\n\n  !!! /perm is damaged\n";
        assert_eq!(screen.text(), expected);
        let installer = Screen { role: Role::Installer, ..screen };
        assert!(installer.text().starts_with("\nCapsule 0.1.0 installer\n\n"));
    }
}
