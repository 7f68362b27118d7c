//! Where a capsule listens.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use capsule_proto::DEFAULT_PORT;
use serde::{Deserialize, Serialize};

/// `host:port`; the port is [`DEFAULT_PORT`] where none is written. IPv6 with a port stands in
/// brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// Name or IP address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// As a socket address, where the host is no name and so needs no resolver.
    pub fn literal(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.host.parse::<IpAddr>().ok()?, self.port))
    }
}

/// Why a text is not an [`Address`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address: write HOST, HOST:PORT, an IPv4 address or [IPV6]:PORT")]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let refuse = || AddressError(text.chars().take(100).collect());
        let make = |host: &str, port: &str| {
            let port = if port.is_empty() { Ok(DEFAULT_PORT) } else { port.parse() };
            Ok(Self { host: host.to_owned(), port: port.ok().filter(|p| *p != 0).ok_or_else(refuse)? })
        };
        if text.parse::<Ipv6Addr>().is_ok() {
            return make(text, "");
        }
        if let Some((host, rest)) = text.strip_prefix('[').and_then(|text| text.split_once(']')) {
            host.parse::<Ipv6Addr>().map_err(|_| refuse())?;
            return make(host, rest.strip_prefix(':').unwrap_or(rest));
        }
        let (host, port) = text.split_once(':').unwrap_or((text, ""));
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if host.is_empty() || !host.chars().all(allowed) {
            return Err(refuse());
        }
        make(host, port)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let brackets = self.host.contains(':');
        f.pad(&if brackets {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        })
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_takes_the_default_port_where_none_is_written() {
        for (text, shown) in [
            ("nuc-1", "nuc-1:50000"),
            ("nuc-1:7", "nuc-1:7"),
            ("127.0.0.1", "127.0.0.1:50000"),
            ("::1", "[::1]:50000"),
            ("[::1]", "[::1]:50000"),
            ("[::1]:7", "[::1]:7"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_forms_that_are() {
        for text in ["", ":7", "a:b", "a:0", "a:70000", "[a]:7", "a b", "https://a"] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains("HOST:PORT"), "{error}");
        }
    }
}
