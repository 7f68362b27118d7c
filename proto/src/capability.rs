//! Linux capabilities as manifests name them.

/// Stands for every capability.
pub const ALL: &str = "ALL";

/// Every capability of Linux 5.9 and later (`capabilities(7)`), without `CAP_`, in the order of
/// their numbers.
pub const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The name without `CAP_`, where there is such a capability or it is [`ALL`].
pub fn short_name(text: &str) -> Option<&'static str> {
    let name = text.strip_prefix("CAP_").unwrap_or(text);
    if text == ALL {
        return Some(ALL);
    }
    NAMES.into_iter().find(|known| *known == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_known_with_and_without_their_prefix() {
        assert_eq!(short_name("CAP_NET_ADMIN"), Some("NET_ADMIN"));
        assert_eq!(short_name("NET_ADMIN"), Some("NET_ADMIN"));
        assert_eq!(short_name("ALL"), Some("ALL"));
        assert_eq!(short_name("CAP_ALL"), None);
        assert_eq!(short_name("net_admin"), None);
    }
}
