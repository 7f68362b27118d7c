//! One file per external tool or kernel interface; nothing else runs commands.

pub mod blkid;
pub mod block;
pub mod daemon;
pub mod dm;
pub mod efi;
pub mod ext4;
pub mod file;
pub mod holder;
pub mod icmp;
pub mod limits;
pub mod link;
pub mod lock;
pub mod loopdev;
pub mod lvm;
pub mod memory;
pub mod mount;
pub mod netlink;
pub mod nft;
pub mod partition;
pub mod route;
pub mod run;
pub mod socket;
pub mod sysctl;
#[cfg(test)]
pub(crate) mod testing;
pub mod timex;
pub mod uplink;
pub mod vfat;
pub mod wireguard;

/// Whether the kernel has IPv6 at all.
pub fn has_ipv6() -> bool {
    std::path::Path::new("/proc/sys/net/ipv6").is_dir()
}
