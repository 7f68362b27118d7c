//! What may be asked, line by line: <https://www.wireguard.com/xplatform/>.

use std::net::{IpAddr, SocketAddr};

use boringtun::x25519::{PublicKey, StaticSecret};
use ipnet::IpNet;
use zeroize::{Zeroize as _, Zeroizing};

use super::Errno;

/// Lines of one request, so that its memory is bounded; enough for a peer with each of 65 536 routes.
const LINES: usize = 1 << 18;

/// A request, whole.
#[derive(Debug)]
pub enum Request {
    /// `get=1`.
    Get,
    /// `set=1`.
    Set(Box<Change>),
}

/// A key to use from now on, or that there is none: all zeros on the wire.
pub enum Key<T> {
    /// There is none.
    Unset,
    /// This one.
    Set(T),
}

/// What is to be other than before. What is `None` stays.
#[derive(Default)]
pub struct Change {
    /// Ours.
    pub private_key: Option<Key<StaticSecret>>,
    /// 0 for any.
    pub listen_port: Option<u16>,
    /// 0 for none.
    pub fwmark: Option<u32>,
    /// Only peers named here remain.
    pub replace_peers: bool,
    /// In the order given.
    pub peers: Vec<PeerChange>,
}

/// The same of one peer.
pub struct PeerChange {
    /// Which.
    pub key: PublicKey,
    /// It is to go.
    pub remove: bool,
    /// Nothing, where it is not there.
    pub update_only: bool,
    /// Mixed into handshakes.
    pub preshared: Option<Key<Zeroizing<[u8; 32]>>>,
    /// Where it is.
    pub endpoint: Option<SocketAddr>,
    /// 0 for never.
    pub keepalive_seconds: Option<u16>,
    /// Only the prefixes given here remain.
    pub replace_allowed_ips: bool,
    /// In the order given.
    pub allowed_ips: Vec<AllowedIp>,
}

/// A prefix that a peer gets or loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllowedIp {
    /// Gets, also from another peer.
    Add(IpNet),
    /// Loses.
    Remove(IpNet),
}

/// Takes lines until one is empty.
#[derive(Debug, Default)]
pub struct Parser {
    request: Option<Request>,
    error: Option<Errno>,
    lines: usize,
}

/// What follows from a line.
#[derive(Debug)]
pub enum Parsed {
    /// More lines are needed.
    More,
    /// This was the last; a request that is wrong somewhere is wrong as a whole.
    Whole(Result<Request, Errno>),
    /// This is no request, and what follows cannot be told apart.
    Lost(Errno),
}

impl Parser {
    /// Takes a line without its end.
    pub fn line(&mut self, line: &str) -> Parsed {
        if line.is_empty() {
            return match (self.error.take(), self.request.take()) {
                (Some(error), _) => self.whole(Err(error)),
                (None, Some(request)) => self.whole(Ok(request)),
                (None, None) => Parsed::Lost(Errno::INVALID),
            };
        }
        self.lines += 1;
        if self.lines > LINES {
            return Parsed::Lost(Errno::TOO_MUCH);
        }
        match &mut self.request {
            None => match line {
                "get=1" => self.request = Some(Request::Get),
                "set=1" => self.request = Some(Request::Set(Box::default())),
                _ => return Parsed::Lost(Errno::INVALID),
            },
            Some(Request::Get) => self.error = Some(Errno::INVALID),
            Some(Request::Set(change)) if self.error.is_none() => self.error = change.line(line).err(),
            Some(Request::Set(_)) => {}
        }
        Parsed::More
    }

    fn whole(&mut self, request: Result<Request, Errno>) -> Parsed {
        *self = Self::default();
        Parsed::Whole(request)
    }
}

impl Change {
    fn line(&mut self, line: &str) -> Result<(), Errno> {
        let (key, value) = line.split_once('=').ok_or(Errno::INVALID)?;
        if key == "public_key" {
            self.peers.push(PeerChange::new(PublicKey::from(*parse_key(value)?)));
            return Ok(());
        }
        match self.peers.last_mut() {
            Some(peer) => peer.line(key, value),
            None => self.own_line(key, value),
        }
    }

    fn own_line(&mut self, key: &str, value: &str) -> Result<(), Errno> {
        match key {
            "private_key" => {
                let bytes = parse_key(value)?;
                self.private_key = Some(Key::unless_zero(bytes).map(|bytes| StaticSecret::from(*bytes)));
            }
            "listen_port" => self.listen_port = Some(number(value)?),
            // wg writes it in hexadecimal where a person does.
            "fwmark" => self.fwmark = Some(mark(value)?),
            "replace_peers" => self.replace_peers = truth(value)?,
            _ => return Err(Errno::INVALID),
        }
        Ok(())
    }
}

impl PeerChange {
    fn new(key: PublicKey) -> Self {
        Self {
            key,
            remove: false,
            update_only: false,
            preshared: None,
            endpoint: None,
            keepalive_seconds: None,
            replace_allowed_ips: false,
            allowed_ips: Vec::new(),
        }
    }

    fn line(&mut self, key: &str, value: &str) -> Result<(), Errno> {
        match key {
            "remove" => self.remove = truth(value)?,
            "update_only" => self.update_only = truth(value)?,
            "preshared_key" => self.preshared = Some(Key::unless_zero(parse_key(value)?)),
            "endpoint" => self.endpoint = Some(value.parse().map_err(|_| Errno::INVALID)?),
            "persistent_keepalive_interval" => self.keepalive_seconds = Some(number(value)?),
            "replace_allowed_ips" => self.replace_allowed_ips = truth(value)?,
            "allowed_ip" => self.allowed_ips.push(allowed_ip(value)?),
            "protocol_version" if value == "1" => {}
            "protocol_version" => return Err(Errno::PROTOCOL),
            _ => return Err(Errno::INVALID),
        }
        Ok(())
    }
}

impl Key<Zeroizing<[u8; 32]>> {
    fn unless_zero(bytes: Zeroizing<[u8; 32]>) -> Self {
        if bytes.iter().all(|byte| *byte == 0) { Self::Unset } else { Self::Set(bytes) }
    }
}

impl<T> Key<T> {
    fn map<U>(self, to: impl FnOnce(T) -> U) -> Key<U> {
        match self {
            Self::Unset => Key::Unset,
            Self::Set(key) => Key::Set(to(key)),
        }
    }

    /// It, if there is one.
    pub fn into_option(self) -> Option<T> {
        match self {
            Self::Unset => None,
            Self::Set(key) => Some(key),
        }
    }
}

// Keys are never shown, not even in a test's failure.
impl std::fmt::Debug for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a change of {} peers", self.peers.len())
    }
}

fn allowed_ip(value: &str) -> Result<AllowedIp, Errno> {
    let (removes, text) = value.strip_prefix('-').map_or((false, value), |text| (true, text));
    let net = match text.parse::<IpNet>() {
        Ok(net) => net.trunc(),
        Err(_) => text.parse::<IpAddr>().map_err(|_| Errno::INVALID)?.into(),
    };
    Ok(if removes { AllowedIp::Remove(net) } else { AllowedIp::Add(net) })
}

/// 32 bytes as 64 hexadecimal digits.
fn parse_key(value: &str) -> Result<Zeroizing<[u8; 32]>, Errno> {
    let mut bytes = Zeroizing::new([0; 32]);
    if hex::decode_to_slice(value, &mut *bytes).is_err() {
        bytes.zeroize();
        return Err(Errno::INVALID);
    }
    Ok(bytes)
}

fn number(value: &str) -> Result<u16, Errno> {
    value.parse().map_err(|_| Errno::INVALID)
}

fn mark(value: &str) -> Result<u32, Errno> {
    let parsed = match value.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => value.parse(),
    };
    parsed.map_err(|_| Errno::INVALID)
}

fn truth(value: &str) -> Result<bool, Errno> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Errno::INVALID),
    }
}
