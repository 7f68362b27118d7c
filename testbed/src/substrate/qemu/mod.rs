//! The `qemu` substrate: a virtual machine for each capsule, booted from the appliance's image.
//!
//! ```text
//!   root namespace          NAME-hub
//!   NAME 10.99.X.1 ──veth── uplink ┐
//!                                  br0 10.99.X.2 ── dnsmasq: 10.99.X.11, .12, … by MAC address
//!                         p-a, p-b ┘──tap── QEMU of a, of b
//! ```
//!
//! Machines outlive the command that starts them: a [`keeper`] for each, a process of its own, owns
//! machine and disks, and takes [`order`]s on a Unix socket. It lives in the hub's namespace and is
//! found there by whoever takes the testbed down. [`hardware`] is what a machine is asked to have,
//! [`files`] what that is on this host, [`lease`] gives out the addresses, [`partition`] finds slots
//! on disks.

mod files;
mod hardware;
mod keeper;
mod lease;
pub mod order;
pub mod partition;

use std::{fs, io::ErrorKind, path::Path};

use anyhow::{Context as _, Result};
use capsule_vm::Accelerator;

pub(crate) use self::lease::stop as stop_leases;
pub use self::{
    files::Files,
    hardware::{Hardware, Medium, SYSTEM, bundle_in},
    keeper::keep,
};
pub(super) use self::{keeper::ensure as ensure_keeper, lease::ensure as ensure_leases};
use super::record;
use crate::sys;

/// Says what runs guests here; a reboot forgets it, as it does the records beside it.
const PROBED: &str = "accelerator";

/// What machines of this host run on: found out once, because that takes seconds where KVM is there
/// and runs no guest.
pub async fn accelerator() -> Result<Accelerator> {
    let known = Path::new(record::DIR).join(PROBED);
    match fs::read_to_string(&known) {
        Ok(text) if text == "kvm" => return Ok(Accelerator::Kvm),
        Ok(_) => return Ok(Accelerator::Tcg),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", known.display())),
    }
    let found = Accelerator::probe(&files::program()?).await?;
    fs::create_dir_all(record::DIR).with_context(|| format!("cannot make {}", record::DIR))?;
    sys::replace_file(&known, if found == Accelerator::Kvm { b"kvm" } else { b"tcg" })?;
    Ok(found)
}
