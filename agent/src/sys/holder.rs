//! Which process has a port.

use std::{fs, path::Path};

pub use super::socket::Protocol;
use super::socket::{self, Socket};

/// Who has the port in this network namespace, as `nginx (PID 812)`. `None` where nobody has, or
/// only a process that this one does not see.
pub fn holder(protocol: Protocol, port: u16) -> Option<String> {
    let sockets: Vec<Socket> = socket::of("self", protocol)
        .unwrap_or_default()
        .into_iter()
        .filter(|socket| socket.at.port() == port && (socket.waits || protocol == Protocol::Udp))
        .collect();
    if sockets.is_empty() {
        return None;
    }
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let pid = pids.find(|pid| has_one_of(*pid, &sockets))?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("{} (PID {pid})", name.trim()))
}

fn has_one_of(pid: u32, sockets: &[Socket]) -> bool {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    open.filter_map(|entry| fs::read_link(entry.path()).ok())
        .any(|target| sockets.iter().any(|socket| target == Path::new(&socket.link)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_of_this_process_is_found_to_be_so() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let found = holder(Protocol::Tcp, port).unwrap();
        assert!(found.ends_with(&format!("(PID {})", std::process::id())), "{found}");
        drop(listener);
        assert_eq!(holder(Protocol::Tcp, port), None);
    }
}
