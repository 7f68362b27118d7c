//! Our device and the kernel's. [`crate::fabric_kernel`] runs these in a guest whose kernel has one.

use anyhow::Result;
use testbed::wireguard::{Family, device::Make};

use super::{SOME, follow, interoperate, outlive};

/// Enough where the machine is emulated.
const BYTES: usize = SOME / 8;

#[test]
#[ignore = "needs a kernel with WireGuard"]
fn it_interoperates_with_the_kernels() -> Result<()> {
    interoperate(&[Make::ours(), Make::Kernel], Family::V4, BYTES)?;
    interoperate(&[Make::Kernel, Make::ours()], Family::V6, BYTES)
}

#[test]
#[ignore = "needs a kernel with WireGuard"]
fn it_follows_the_kernels_and_is_followed() -> Result<()> {
    follow(&[Make::ours(), Make::Kernel], BYTES)?;
    follow(&[Make::Kernel, Make::ours()], BYTES)
}

#[test]
#[ignore = "needs a kernel with WireGuard"]
fn a_connection_with_the_kernels_outlives_new_keys_and_its_own_death() -> Result<()> {
    outlive(Make::Kernel, BYTES)
}
