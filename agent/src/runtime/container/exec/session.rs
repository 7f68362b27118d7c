//! The processes of a session (setsid(2)), as the agent's PID namespace numbers them.

use std::fs;

use nix::{
    sys::signal::{Signal, kill as send},
    unistd::Pid,
};

/// Looks at a session that forks while it is killed, at most.
const ROUNDS: usize = 8;

/// Kills every process of the session that `leader` leads, until none is left.
pub(super) fn kill(leader: u32) {
    for _ in 0..ROUNDS {
        let members = members(leader);
        if members.is_empty() {
            return;
        }
        for pid in members {
            // Gone in the meantime: that is what was wanted.
            let _ = send(pid, Signal::SIGKILL);
        }
    }
}

/// Zombies are left out: they need no killing.
fn members(leader: u32) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_member = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        session_of(&stat) == Some(leader)
    };
    pids.filter(is_member).map(Pid::from_raw).collect()
}

/// proc_pid_stat(5): `PID (NAME) STATE PPID PGRP SESSION …`; a name may hold anything.
fn session_of(stat: &str) -> Option<u32> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let session = fields.nth(2)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(session)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_read_past_any_name() {
        assert_eq!(session_of("42 (a) b) (c) S 1 40 39 0 -1 4194560"), Some(39));
        assert_eq!(session_of("42 (x) Z 1 40 39 0 -1"), None);
        assert_eq!(session_of(""), None);
    }
}
