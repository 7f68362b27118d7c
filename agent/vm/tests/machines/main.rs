//! Real machines: QEMU, Debian's kernel and busybox, as `scripts/setup` fetches them.
// The guest's helpers are tests as well.
#![allow(clippy::unwrap_used)]

mod console;
mod devices;
mod guest;
mod life;
mod owner;
