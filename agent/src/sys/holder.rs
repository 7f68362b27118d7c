//! Which process has a port.

use std::{fs, path::Path};

/// Of a TCP socket that listens, in `/proc/net/tcp` (proc(5)).
const LISTENS: &str = "0A";

/// Protocols whose sockets are told apart here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Those that listen.
    Tcp,
    /// All.
    Udp,
}

/// Who has the port in this network namespace, as `nginx (PID 812)`. `None` where nobody has, or
/// only a process that this one does not see.
pub fn holder(protocol: Protocol, port: u16) -> Option<String> {
    let tables = match protocol {
        Protocol::Tcp => ["/proc/self/net/tcp", "/proc/self/net/tcp6"],
        Protocol::Udp => ["/proc/self/net/udp", "/proc/self/net/udp6"],
    };
    let tables = tables.map(|path| fs::read_to_string(path).unwrap_or_default());
    let sockets: Vec<String> = tables.iter().flat_map(|table| sockets(table, protocol, port)).collect();
    if sockets.is_empty() {
        return None;
    }
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let pid = pids.find(|pid| has_one_of(*pid, &sockets))?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("{} (PID {pid})", name.trim()))
}

/// Of the sockets in a table, those on this port, as links in `/proc/PID/fd` name them.
fn sockets(table: &str, protocol: Protocol, port: u16) -> Vec<String> {
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
        let is_meant = u16::from_str_radix(local_port, 16) == Ok(port)
            && (protocol == Protocol::Udp || *fields.get(3)? == LISTENS);
        is_meant.then(|| format!("socket:[{}]", fields.get(9).unwrap_or(&"")))
    };
    table.lines().filter_map(of_line).collect()
}

fn has_one_of(pid: u32, sockets: &[String]) -> bool {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    open.filter_map(|entry| fs::read_link(entry.path()).ok())
        .any(|target| sockets.iter().any(|socket| target == Path::new(socket)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel wrote it: a listener and a connection on port 5000, a listener on 80.
    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
        0: 0100007F:1388 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n   \
        1: 0100007F:1388 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 20 4 30 10 -1\n   \
        2: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0\n";

    #[test]
    fn of_tcp_only_who_listens_has_a_port() {
        assert_eq!(sockets(TABLE, Protocol::Tcp, 5000), ["socket:[4711]"]);
        assert_eq!(sockets(TABLE, Protocol::Udp, 5000), ["socket:[4711]", "socket:[4712]"]);
        assert!(sockets(TABLE, Protocol::Tcp, 81).is_empty());
    }

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
