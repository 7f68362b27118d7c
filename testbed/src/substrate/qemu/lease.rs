//! Addresses for machines, by DHCP: Debian's dnsmasq on the hub's bridge. Who has which is known
//! beforehand, by the card's MAC address.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use crate::{
    substrate::{
        Plan, Testbed,
        plan::{MAX_NODES, PREFIX_V6},
        wire::BRIDGE,
    },
    sys::{netns, process::Process},
};

/// Where its console log goes.
const HELPER: &str = "leases";
const PROGRAM: &str = "dnsmasq";
const START_LIMIT: Duration = Duration::from_secs(10);
const STOP_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);

/// Starts it, unless it runs; it can be asked then.
pub fn ensure(testbed: &mut Testbed) -> Result<()> {
    if server(testbed).is_some() {
        return Ok(());
    }
    let plan = testbed.plan();
    let dir = testbed.record.dir.join(HELPER);
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let (file, pid_file) = (dir.join("dnsmasq.conf"), dir.join("pid"));
    fs::write(&file, configuration(&plan, &dir))
        .with_context(|| format!("cannot write {}", file.display()))?;
    let _ = fs::remove_file(&pid_file);
    let mut command = netns::command(&plan.hub(), PROGRAM);
    command.arg("--keep-in-foreground").arg(format!("--conf-file={}", file.display()));
    let helper = testbed.spawn(&mut command, HELPER)?;
    testbed.record.helpers.push(helper);
    testbed.record.save()?;
    // Written once it has its sockets.
    let end = Instant::now() + START_LIMIT;
    while !pid_file.exists() {
        let log = testbed.record.console(HELPER);
        ensure!(
            helper.is_alive() && Instant::now() < end,
            "the DHCP server did not start: {}",
            fs::read_to_string(log).unwrap_or_default().trim()
        );
        thread::sleep(POLL);
    }
    Ok(())
}

/// Ends it: who has an address must do with it.
pub fn stop(testbed: &Testbed) -> Result<()> {
    let server = server(testbed).context("no DHCP server runs")?;
    server.signal(Signal::SIGTERM);
    ensure!(server.wait_gone(STOP_LIMIT), "the DHCP server does not end");
    Ok(())
}

fn server(testbed: &Testbed) -> Option<Process> {
    let is_server = |helper: &Process| helper.arguments().first().is_some_and(|word| word.ends_with(PROGRAM));
    testbed.record.helpers.iter().copied().find(|helper| helper.is_alive() && is_server(helper))
}

fn configuration(plan: &Plan, dir: &Path) -> String {
    let ((first_v4, first_v6), (gateway_v4, _)) = (plan.node(0), plan.operator());
    let last_v6 = plan.node(MAX_NODES - 1).1;
    // No DNS, and nothing but these. Its usual PID file is one for all servers of a host: of two that start
    // at once, one would not.
    let mut text = format!(
        "port=0\ninterface={BRIDGE}\nbind-interfaces\nuser=root\ndhcp-authoritative\nenable-ra\n\
         dhcp-leasefile={dir}/leases\n\
         pid-file={dir}/pid\n\
         dhcp-range={first_v4},static\n\
         dhcp-range={first_v6},{last_v6},static,{PREFIX_V6}\n\
         dhcp-option=option:router,{gateway_v4}\n",
        dir = dir.display()
    );
    for position in 0..MAX_NODES {
        let ((v4, v6), mac) = (plan.node(position), plan.mac(position));
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        let _ = writeln!(text, "dhcp-host={mac},{v4},[{v6}]");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_machine_has_the_address_that_it_is_planned_to_have() {
        let text = configuration(&Plan::new("t", 7), Path::new("/leases"));
        assert!(text.contains("dhcp-host=52:54:00:99:07:0b,10.99.7.11,[fd99:7::b]\n"), "{text}");
        assert!(text.contains("dhcp-range=10.99.7.11,static\n"), "{text}");
    }
}
