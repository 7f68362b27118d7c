//! Where a member may be met.

use std::{fmt, net::IpAddr, str::FromStr};

/// `HOST:PORT` of a UDP socket; an IPv6 address stands in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    host: String,
    port: u16,
}

/// Why a text is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an endpoint: write HOST:PORT, ADDRESS:PORT or [IPV6]:PORT")]
pub struct EndpointError(String);

/// Longest name of a host (RFC 1035, section 2.3.4).
const MAX_HOST_LEN: usize = 253;

impl Endpoint {
    /// A host, by address or name, and a port that is not 0.
    pub fn new(host: &str, port: u16) -> Result<Self, EndpointError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let is_name = !host.is_empty() && host.len() <= MAX_HOST_LEN && host.chars().all(allowed);
        let host = match host.parse::<IpAddr>() {
            Ok(address) => address.to_string(),
            Err(_) if is_name => host.to_owned(),
            Err(_) => return Err(refusal(host)),
        };
        if port == 0 { Err(refusal(&host)) } else { Ok(Self { host, port }) }
    }

    /// Name or address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// UDP port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

fn refusal(text: &str) -> EndpointError {
    EndpointError(text.chars().take(100).collect())
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_bracketed = self.host.contains(':');
        f.pad(&if is_bracketed {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        })
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let (host, port) = text.rsplit_once(':').ok_or_else(|| refusal(text))?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|_| is_number).ok_or_else(|| refusal(text))?;
        match bracketed {
            Some(host) if host.contains(':') => Self::new(host, port),
            None if !host.contains(':') => Self::new(host, port),
            _ => Err(refusal(text)),
        }
        .map_err(|_| refusal(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_keeps_its_text_and_anything_else_is_refused_with_the_forms() {
        for text in ["nuc-1:51820", "192.168.1.20:7", "[fd00::1]:51820", "a.b_c.d:1"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        for text in ["", "a", "a:", ":1", "a:0", "a:70000", "a:+1", "fd00::1:5", "[a]:1", "a b:1", "[::1]"] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains("HOST:PORT"), "{text}: {error}");
        }
    }
}
