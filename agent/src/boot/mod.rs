//! The appliance: init, and what it and the agent tell each other.
//!
//! ```text
//!   initramfs ─exec─▶ pid1 ─fork─▶ init ─┬─ perm: the volume group, /perm
//!   (a crate of its     │ reaps          ├─ uplink, clock, hardware: nobody waits for them
//!    own)               ▼                ├─ supervise ─▶ agent ◀─ link ─▶ server
//!                    orphans             ├─ watchdog, console, power, tentative: looked at
//!                                        └─ stop: all of it backwards, and the machine
//! ```
//!
//! - [`facts`]: what init tells the agent about this boot;
//! - [`link`]: the socket between the two;
//! - [`history`]: the last boots and why each ended;
//! - [`tentative`]: what is expected of a slot that nobody has confirmed;
//! - [`report`]: what the agent tells init for the console;
//! - [`dhcp_event`]: what the DHCP client calls; [`perm`]: where a capsule is kept;
//! - the rest is init's own.

mod clock;
mod console;
pub mod dhcp_event;
pub mod facts;
pub mod hardware;
pub mod history;
pub mod init;
pub mod link;
mod mounts;
pub mod perm;
pub mod pid1;
mod power;
pub mod report;
mod role;
mod server;
mod stop;
mod supervise;
pub mod tentative;
pub mod uplink;
mod watchdog;

pub use facts::{BootFacts, Role, Slot};
pub use link::InitLink;
