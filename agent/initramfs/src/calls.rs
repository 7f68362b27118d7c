//! What the running system has this program for, under other names: a boot waits for each of these several
//! times, and mostly they have nothing to do. Small and linked statically, it is through before a shell has
//! begun.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::process::CommandExt as _,
    process::Command,
};

/// What dhcpcd calls, whose end it waits for.
const DHCP_HOOK: &str = "dhcp-hook";
/// What the kernel calls for a module.
const MODPROBE: &str = "modprobe";
/// Who knows what to do with a lease.
const DHCP_EVENT: &str = "/usr/lib/capsule/dhcp-event";
/// Who loads modules.
const KMOD: &str = "/sbin/modprobe";
/// Of what dhcpcd tells before it has a lease, nobody wants to know (dhcpcd-run-hooks(8)).
const IDLE: [&str; 3] = ["PREINIT", "CARRIER", "NOCARRIER"];
/// What dhcpcd has the kernel ask for, of every card twice, and what no capsule has: VLANs and wireless cards.
const ABSENT: [&str; 2] = ["8021q", "net-pf-16-proto-16-family-nl80211"];

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
enum Call {
    /// Nothing; the exit code.
    End(i32),
    /// That, with the same arguments.
    Go(&'static str),
}

/// Ends the process, or makes another program of it, where it was called by one of the names.
pub fn serve(name: &OsStr, arguments: &[OsString]) {
    match call(name, arguments, std::env::var_os("reason").as_deref()) {
        None => {}
        Some(Call::End(code)) => std::process::exit(code),
        Some(Call::Go(program)) => {
            let error: io::Error = Command::new(program).args(arguments).exec();
            eprintln!("cannot run {program}: {error}");
            std::process::exit(127)
        }
    }
}

fn call(name: &OsStr, arguments: &[OsString], reason: Option<&OsStr>) -> Option<Call> {
    let is_of = |text: &OsStr, known: &[&str]| known.iter().any(|known| text == *known);
    if name == DHCP_HOOK {
        let is_idle = reason.is_some_and(|reason| is_of(reason, &IDLE));
        return Some(if is_idle { Call::End(0) } else { Call::Go(DHCP_EVENT) });
    }
    if name == MODPROBE {
        let is_absent = arguments.last().is_some_and(|module| is_of(module, &ABSENT));
        return Some(if is_absent { Call::End(1) } else { Call::Go(KMOD) });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(name: &str, module: &str, reason: Option<&str>) -> Option<Call> {
        let arguments = ["-q", "--", module].map(OsString::from);
        call(OsStr::new(name), &arguments, reason.map(OsStr::new))
    }

    #[test]
    fn only_what_somebody_has_to_do_is_gone_on_with() {
        assert_eq!(asked("dhcp-hook", "", Some("CARRIER")), Some(Call::End(0)));
        assert_eq!(asked("dhcp-hook", "", Some("BOUND")), Some(Call::Go(DHCP_EVENT)));
        assert_eq!(asked("dhcp-hook", "", None), Some(Call::Go(DHCP_EVENT)));
        assert_eq!(asked("modprobe", "8021q", None), Some(Call::End(1)));
        assert_eq!(asked("modprobe", "rtnl-link-wireguard", None), Some(Call::Go(KMOD)));
        assert_eq!(asked("init", "8021q", Some("CARRIER")), None);
    }
}
