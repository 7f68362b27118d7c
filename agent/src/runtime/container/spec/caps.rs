//! Linux capabilities by name.

use std::{collections::BTreeSet, fs};

use capsule_proto::v1;

use crate::runtime::RuntimeError;

/// Names with `CAP_`, as the OCI runtime spec writes them.
pub(crate) type CapabilitySet = BTreeSet<&'static str>;

/// In the order of their numbers, capabilities(7).
const ALL: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What docker and containerd grant unless told otherwise.
const DEFAULT: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// What the agent holds, and so may give away.
pub(crate) fn own() -> CapabilitySet {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
    let bits = field.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    ALL.iter().enumerate().filter(|(number, _)| bits >> number & 1 == 1).map(|(_, name)| *name).collect()
}

/// What a workload gets: the default, less `drop`, plus `add`; `ALL` is everything that the agent
/// holds. Adding by name what the agent lacks is an error.
pub(crate) fn granted(spec: &v1::ContainerSpec, own: &CapabilitySet) -> Result<CapabilitySet, RuntimeError> {
    if spec.privileged {
        return Ok(own.clone());
    }
    let empty = v1::Capabilities::default();
    let wanted = spec.capabilities.as_ref().unwrap_or(&empty);
    let mut set: CapabilitySet = DEFAULT.into_iter().filter(|name| own.contains(name)).collect();
    if wanted.drop.iter().any(|name| is_all(name)) {
        set.clear();
    }
    if wanted.add.iter().any(|name| is_all(name)) {
        set.clone_from(own);
    }
    for name in wanted.drop.iter().filter(|name| !is_all(name)) {
        set.remove(parse(name)?);
    }
    for name in wanted.add.iter().filter(|name| !is_all(name)) {
        let name = parse(name)?;
        if !own.contains(name) {
            return Err(RuntimeError::Invalid(format!(
                "the workload asks for {name}, which this capsule's agent does not hold itself; leave it out of \
                 capabilities.add or run the agent with it"
            )));
        }
        set.insert(name);
    }
    Ok(set)
}

fn is_all(name: &str) -> bool {
    name.eq_ignore_ascii_case("ALL") || name.eq_ignore_ascii_case("CAP_ALL")
}

fn parse(name: &str) -> Result<&'static str, RuntimeError> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    ALL.into_iter().find(|known| &known["CAP_".len()..] == bare).ok_or_else(|| {
        RuntimeError::Invalid(format!(
            "{name:?} is not a capability; capabilities(7) lists them, such as NET_ADMIN, and ALL means every one"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(add: &[&str], drop: &[&str]) -> v1::ContainerSpec {
        let texts = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let capabilities = Some(v1::Capabilities { add: texts(add), drop: texts(drop) });
        v1::ContainerSpec { capabilities, ..Default::default() }
    }

    fn everything() -> CapabilitySet {
        ALL.into_iter().collect()
    }

    #[test]
    fn the_default_is_the_usual_fourteen() {
        assert_eq!(granted(&spec(&[], &[]), &everything()).unwrap(), DEFAULT.into_iter().collect());
    }

    #[test]
    fn dropping_all_and_adding_one_leaves_that_one() {
        let set = granted(&spec(&["net_admin"], &["ALL"]), &everything()).unwrap();
        assert_eq!(set, CapabilitySet::from(["CAP_NET_ADMIN"]));
    }

    #[test]
    fn all_is_what_the_agent_holds_less_what_is_dropped() {
        let own = CapabilitySet::from(["CAP_CHOWN", "CAP_KILL"]);
        let set = granted(&spec(&["all"], &["CAP_KILL"]), &own).unwrap();
        assert_eq!(set, CapabilitySet::from(["CAP_CHOWN"]));
    }

    #[test]
    fn an_unknown_capability_and_one_the_agent_lacks_are_refused() {
        let own = CapabilitySet::from(["CAP_CHOWN"]);
        assert!(granted(&spec(&["FLY"], &[]), &own).unwrap_err().to_string().contains("not a capability"));
        assert!(granted(&spec(&["SYS_RESOURCE"], &[]), &own).unwrap_err().to_string().contains("agent"));
    }
}
