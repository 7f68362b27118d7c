//! A machine's network cards.

use std::{fmt, net::SocketAddrV4};

/// A virtio card and what it is plugged into. A machine without one has no network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    pub(crate) link: Link,
    pub(crate) mac: Option<[u8; 6]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// QEMU is a router with a DHCP server, 10.0.2.2, and makes the guest's connections itself.
    User(Vec<Forward>),
    /// An interface of the host.
    Tap(String),
}

/// Whether a card's cable is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// It is.
    Up,
    /// It is not.
    Down,
}

/// A TCP port of the host that leads into the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Where the host listens.
    pub host: SocketAddrV4,
    /// Where the guest does.
    pub guest: u16,
}

impl Network {
    /// Through QEMU, which needs no rights on the host, and listens there for the guest.
    pub fn user(forwards: impl IntoIterator<Item = Forward>) -> Self {
        Self { link: Link::User(forwards.into_iter().collect()), mac: None }
    }

    /// The guest's end of a tap interface that exists.
    pub fn tap(interface: &str) -> Self {
        Self { link: Link::Tap(interface.to_owned()), mac: None }
    }

    /// Its address; machines that share a link must not share that.
    #[must_use]
    pub fn mac(mut self, mac: [u8; 6]) -> Self {
        self.mac = Some(mac);
        self
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hostfwd=tcp:{}-:{}", self.host, self.guest)
    }
}
