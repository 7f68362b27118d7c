//! The appliance's own parts of the agent.
//!
//! - [`facts`]: what init tells the agent about this boot;
//! - [`link`]: the socket between the two.

pub mod facts;
pub mod link;

pub use facts::{BootFacts, Role, Slot};
pub use link::InitLink;
