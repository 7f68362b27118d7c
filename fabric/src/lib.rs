//! Capsules as one private network: pure cores with thin kernel edges. Knows nothing of the agent.
//!
//! - `map/`: who the members are, as an operator signed it; which address is whose.
//! - `policy/`: from references in manifests to what the packet filter holds.
//! - `device/`: WireGuard in userspace, for kernels that have none.
//! - `paths/`: which way packets to a peer take.
//! - `relay/`: forwards between members that cannot reach each other.

#[cfg(feature = "device")]
pub mod device;
pub mod map;
pub mod paths;
pub mod policy;
#[cfg(feature = "device")]
pub mod relay;

/// TCP port where members ask each other, on their own addresses in the fabric.
pub const MEMBER_PORT: u16 = 50002;
