//! What can go wrong with the network.

use capsule_proto::Name;

use crate::{store::StoreError, sys::run::RunError};

/// Why a workload's network could not be reserved, made or removed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// Another workload has the port.
    #[error(
        "workload {workload} cannot have host port {port}/{protocol}: workload {holder} has it. Choose another \
         hostPort, 0 to have one picked, or delete {holder}"
    )]
    PortTaken {
        /// Who asks.
        workload: Name,
        /// Which.
        port: u16,
        /// `tcp` or `udp`.
        protocol: &'static str,
        /// Who has it.
        holder: String,
    },
    /// A process on the host has the port.
    #[error(
        "host port {port}/{protocol} cannot be listened on at {address}: {}. Choose another hostPort, or 0 to have \
         one picked", obstacle(holder.as_deref(), source)
    )]
    PortBusy {
        /// Which.
        port: u16,
        /// `tcp` or `udp`.
        protocol: &'static str,
        /// Where it would listen.
        address: String,
        /// Which process has it, where that is seen.
        holder: Option<String>,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// Another capsule on this host publishes the port.
    #[error(
        "host port {port}/{protocol} is published by {holder}, which runs on the same host; choose another hostPort"
    )]
    PortPublished {
        /// Which.
        port: u16,
        /// `tcp` or `udp`.
        protocol: &'static str,
        /// Short id of the capsule.
        holder: String,
    },
    /// A port or address that is none.
    #[error("workload {workload} asks for a port that cannot be: {reason}")]
    Port {
        /// Who asks.
        workload: Name,
        /// What is wrong.
        reason: String,
    },
    /// No address is left.
    #[error(
        "the bridge's subnet {subnet} has no address left; delete workloads, or give the capsule a wider one"
    )]
    AddressesExhausted {
        /// Which.
        subnet: String,
    },
    /// No place in the fabric is left.
    #[error(
        "workload {workload} gets no address in the fabric: every one of the capsule's slice is given, or rests for \
         an hour after its workload was deleted"
    )]
    PlacesExhausted {
        /// Who asks.
        workload: Name,
    },
    /// Its places, its filter or its names.
    #[error("{0}")]
    Fabric(String),
    /// No port is left to pick.
    #[error("no host port is left to pick; name one, or delete workloads")]
    PortsExhausted,
    /// A bridge subnet that cannot be used.
    #[error("{subnet:?} cannot be the bridge's subnet: {reason}")]
    Subnet {
        /// As given.
        subnet: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// Every candidate is in use on the host.
    #[error(
        "every /24 of 10.0.0.0/8 from 10.88 on overlaps an address or route of this host; give --bridge-subnet"
    )]
    NoSubnet,
    /// A link of the bridge's name belongs to something else.
    #[error("the host has a link {0} that is not this capsule's; remove it, then start the agent again")]
    BridgeTaken(String),
    /// A step in the kernel failed.
    #[error("cannot {attempt}")]
    Kernel {
        /// What was attempted, on what.
        attempt: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The packet filter's transaction failed.
    #[error("the packet filter did not take the capsule's table")]
    Firewall(#[source] std::sync::Arc<RunError>),
    /// The name service has no socket.
    #[error(
        "the name service cannot listen on {address}:53; stop what listens there (or on every address), then \
         start the agent again"
    )]
    Dns {
        /// The gateway's address.
        address: std::net::IpAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The agent is stopping.
    #[error("the agent is stopping")]
    Closed,
}

fn obstacle(holder: Option<&str>, source: &std::io::Error) -> String {
    match (holder, source.kind()) {
        (Some(holder), _) => format!("{holder} has it"),
        (None, std::io::ErrorKind::AddrInUse) => "something on the host has it".into(),
        (None, std::io::ErrorKind::AddrNotAvailable) => "the host has no such address".into(),
        (None, _) => "the host does not allow it".into(),
    }
}

impl NetworkError {
    /// Whether the same call may succeed later without anyone changing a spec.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Kernel { .. } | Self::Firewall(_) | Self::Store(_) | Self::Closed)
    }

    pub(super) fn kernel(attempt: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let attempt = attempt.into();
        move |source| Self::Kernel { attempt, source }
    }
}

impl From<rusqlite::Error> for NetworkError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}
