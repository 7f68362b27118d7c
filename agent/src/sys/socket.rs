//! Open sockets, as the kernel lists them in `/proc/PID/net` (proc(5)).

use std::{
    fmt, fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// Protocols whose sockets are told apart here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// State of a socket that whoever asks meets: TCP's that listens, UDP's that is of no one peer.
    fn waits(self) -> &'static str {
        match self {
            Self::Tcp => "0A",
            Self::Udp => "07",
        }
    }
}

/// One socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Its own end.
    pub at: SocketAddr,
    /// Whether anybody may ask there.
    pub waits: bool,
    /// As links in `/proc/PID/fd` name it.
    pub link: String,
}

/// Every socket of the network namespace of a process: a PID, or `self`.
pub fn of(process: impl fmt::Display, protocol: Protocol) -> io::Result<Vec<Socket>> {
    let path = format!("/proc/{process}/net/{}", protocol.name());
    let mut found = parse(&fs::read_to_string(&path)?, protocol);
    // A kernel without IPv6 has no such file.
    found.extend(parse(&fs::read_to_string(path + "6").unwrap_or_default(), protocol));
    Ok(found)
}

/// Of one table.
fn parse(table: &str, protocol: Protocol) -> Vec<Socket> {
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (address, port) = fields.get(1)?.rsplit_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        Some(Socket {
            at: SocketAddr::new(self::address(address)?, port),
            waits: *fields.get(3)? == protocol.waits(),
            link: format!("socket:[{}]", fields.get(9)?),
        })
    };
    table.lines().filter_map(of_line).collect()
}

/// The kernel prints each 32 bits as a number of its own.
fn address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let octets: [u8; 16] = words.concat().try_into().ok()?;
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel wrote it: a listener and a connection on port 5000, a listener on 80.
    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
        0: 0100007F:1388 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n   \
        1: 0100007F:1388 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 20 4 30 10 -1\n   \
        2: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 \
        00000000     0        0 4713 1 0 100 0 0 10 0\n";

    #[test]
    fn a_table_is_read_in_the_kernels_own_byte_order() {
        let found = parse(TABLE, Protocol::Tcp);
        let told: Vec<(String, bool, &str)> =
            found.iter().map(|socket| (socket.at.to_string(), socket.waits, socket.link.as_str())).collect();
        assert_eq!(
            told,
            [
                ("127.0.0.1:5000".to_owned(), true, "socket:[4711]"),
                ("127.0.0.1:5000".to_owned(), false, "socket:[4712]"),
                ("[::1]:80".to_owned(), true, "socket:[4713]"),
            ]
        );
    }

    #[test]
    fn a_listener_of_this_process_is_among_them() {
        let listeners = ["127.0.0.1:0", "[::1]:0"].map(|at| std::net::TcpListener::bind(at).unwrap());
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let waits = |protocol, at| of("self", protocol).unwrap().iter().any(|s| s.at == at && s.waits);
        for listener in &listeners {
            assert!(waits(Protocol::Tcp, listener.local_addr().unwrap()));
        }
        assert!(waits(Protocol::Udp, udp.local_addr().unwrap()));
    }
}
