//! How the agent is linked.

use std::process::Command;

/// The first glibc that reads packed relocations; those before it refuse programs that have them.
const PACKED_SINCE: (u32, u32) = (2, 36);

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // 53 000 pointers of its tables are to be set right before it runs. Written out they are 1.2 MiB, which an
    // appliance reads and checks at every start of it; packed they are a few KiB.
    if glibc().is_some_and(|version| version >= PACKED_SINCE) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// The one here: programs run where it is at least as new as where they were built. `getconf` says `glibc 2.36`.
fn glibc() -> Option<(u32, u32)> {
    let said = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?.stdout;
    let said = String::from_utf8(said).ok()?;
    let (major, minor) = said.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
