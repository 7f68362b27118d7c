//! Virtual machines: described as a value, run by QEMU, operated through its console.
//!
//! ```text
//!   Machine ──arguments──▶ QEMU, a child that dies with this process
//!   (what it has)            │  socket pair: QMP      ──▶ Vm: status, power, the reason it ended
//!                            │  socket pair: serial   ──▶ Console: wait for words, type, log in
//!                            └─ pipe: what it says    ──▶ errors
//! ```
//!
//! - [`machine`], [`disk`], [`network`], [`command_line`]: what a machine is made of; plain values.
//! - [`arguments`]: the same as QEMU's command line; pure.
//! - [`accelerator`]: whether KVM runs guests here, found out by running one.
//! - [`vm`]: a running machine; [`qmp`] and [`process`] are its means.
//! - [`console`]: everything that the guest wrote, and a place in it; [`shell`] types commands there.
//! - [`initramfs`]: what a kernel that is booted directly begins with.
//!
//! A machine ends with its guest, unless it reboots: then [`Vm`] tells of each reset and why it came.
//! What happens to machines happens to a running one: power cut, reset, an interrupt that makes a kernel
//! panic, CPUs that stand still, a disk or a cable that is pulled.
//!
//! Two tasks run per machine: one keeps what the console brings, one reads QMP's events. Nothing is
//! lost when a wait times out, and every wait has a limit. Machines do not outlive their owner: they
//! are killed when their [`Vm`] is dropped, and by the kernel when this process dies.

pub mod accelerator;
mod arguments;
pub mod command_line;
pub mod console;
pub mod disk;
mod error;
pub mod initramfs;
pub mod machine;
pub mod network;
mod process;
mod qmp;
mod shell;
pub mod vm;

pub use self::{
    accelerator::Accelerator,
    command_line::CommandLine,
    console::Console,
    disk::Disk,
    error::{Error, Result},
    machine::{Access, Firmware, Kernel, Machine, Share},
    network::{Carrier, Forward, Network},
    shell::Outcome,
    vm::{Exit, Reset, Status, Vm},
};
