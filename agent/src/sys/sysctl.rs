//! Kernel parameters below /proc/sys. Those of `net` belong to the calling thread's network namespace.

use std::{fs, io};

/// Another one after each boot of this machine.
pub const BOOT_ID: &str = "kernel/random/boot_id";

/// The value of `name`, such as `net/ipv4/ip_forward`.
pub fn get(name: &str) -> io::Result<String> {
    Ok(fs::read_to_string(format!("/proc/sys/{name}"))?.trim().to_owned())
}

/// Gives `name` a value; one that it has already needs no write access.
pub fn ensure(name: &str, value: &str) -> io::Result<()> {
    if get(name)? == value {
        return Ok(());
    }
    fs::write(format!("/proc/sys/{name}"), value)
        .map_err(|error| io::Error::new(error.kind(), format!("set {name} to {value}: {error}")))
}
