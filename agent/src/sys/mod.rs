//! One file per external tool or kernel interface; nothing else runs commands.

pub mod daemon;
pub mod ext4;
pub mod file;
pub mod holder;
pub mod icmp;
pub mod limits;
pub mod link;
pub mod lock;
pub mod loopdev;
pub mod memory;
pub mod mount;
pub mod netlink;
pub mod nft;
pub mod route;
pub mod run;
pub mod socket;
pub mod sysctl;
#[cfg(test)]
pub(crate) mod testing;
pub mod wireguard;
