//! Enums as people read and write them: `Running`, `CrashLoop`, `bridge`, `on-failure`.
//!
//! Where the API says what an unspecified value means, that is what it shows as.

use std::fmt;

use crate::v1;

/// `ON_FAILURE` as `on-failure`.
pub(crate) fn kebab(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

/// `CRASH_LOOP` as `CrashLoop`.
fn camel(name: &str) -> String {
    let word = |word: &str| word[..1].to_owned() + &word[1..].to_ascii_lowercase();
    name.split('_').filter(|part| !part.is_empty()).map(word).collect()
}

/// `Kind` in a manifest: `MICRO_VM` is `MicroVM`.
pub(crate) fn kind(name: &str) -> String {
    if name == "MICRO_VM" { "MicroVM".into() } else { camel(name) }
}

/// Implements `Display`: `prefix` is cut from the full name, `style` writes the rest.
macro_rules! shown {
    ($($name:ident, $prefix:literal, $style:ident $(, $unspecified:ident)?;)*) => {$(
        impl fmt::Display for v1::$name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let value = match self {
                    $(Self::Unspecified => Self::$unspecified,)?
                    other => *other,
                };
                f.pad(&$style(value.as_str_name().strip_prefix($prefix).unwrap_or_default()))
            }
        }
    )*};
}

shown! {
    Kind, "KIND_", kind;
    NetworkMode, "NETWORK_MODE_", kebab, Bridge;
    Protocol, "PROTOCOL_", kebab, Tcp;
    RestartPolicy, "RESTART_POLICY_", kebab, Always;
    MicroVmBackend, "MICRO_VM_BACKEND_", kebab, Qemu;
    Phase, "PHASE_", camel;
    DesiredState, "DESIRED_STATE_", camel;
    ApplyAction, "APPLY_ACTION_", kebab;
    WaitCondition, "WAIT_CONDITION_", kebab;
    Severity, "SEVERITY_", kebab;
    Stream, "STREAM_", kebab;
    Role, "ROLE_", kebab;
    Mode, "MODE_", kebab;
    LayerState, "LAYER_STATE_", kebab;
    UpdateState, "UPDATE_STATE_", kebab;
    PushPhase, "PUSH_PHASE_", kebab;
    SlotState, "SLOT_STATE_", kebab;
    DiskStanding, "DISK_STANDING_", kebab;
    WritePhase, "WRITE_PHASE_", kebab;
    PoolState, "POOL_STATE_", kebab;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enums_show_the_short_name_people_write() {
        assert_eq!(v1::Phase::CrashLoop.to_string(), "CrashLoop");
        assert_eq!(v1::Phase::Running.to_string(), "Running");
        assert_eq!(v1::Kind::MicroVm.to_string(), "MicroVM");
        assert_eq!(v1::RestartPolicy::OnFailure.to_string(), "on-failure");
        assert_eq!(v1::MicroVmBackend::Firecracker.to_string(), "firecracker");
        assert_eq!(format!("{:>5}", v1::Protocol::Udp), "  udp");
    }

    #[test]
    fn an_unspecified_value_shows_what_it_means() {
        assert_eq!(v1::NetworkMode::Unspecified.to_string(), "bridge");
        assert_eq!(v1::Protocol::Unspecified.to_string(), "tcp");
        assert_eq!(v1::RestartPolicy::Unspecified.to_string(), "always");
    }
}
