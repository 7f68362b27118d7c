//! Why an image could not be had, kept or removed.

use std::sync::Arc;

use capsule_proto::Name;
use tonic::Code;

use crate::store::StoreError;

/// What went wrong with an image. [`ImageError::is_retryable`] says whether waiting may help.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The text is no image reference.
    #[error("{text:?} is not an image reference: {reason}")]
    Reference {
        /// As it was given, cut to a readable length.
        text: String,
        /// What is wrong with it and what is right.
        reason: String,
    },
    /// No such image on this capsule.
    #[error("this capsule has no image {0}; `fleetctl image list` shows what it has")]
    NotFound(String),
    /// The registry answers that it has no such tag or digest.
    #[error(
        "pulling {reference}: registry {registry} has no such tag or digest {tag:?} in repository {repository}; \
         check the spelling, or push the image to this capsule"
    )]
    NoSuchTag {
        /// The whole reference.
        reference: String,
        /// Host and port.
        registry: String,
        /// Path in the registry.
        repository: String,
        /// Tag or digest that was asked for.
        tag: String,
    },
    /// The registry wants credentials, or other ones.
    #[error(
        "pulling {reference}: registry {registry} refused access to repository {repository} ({detail}): it needs \
         credentials, or other ones, or there is no such repository. Pull with a user name and password, or write \
         them to `registries.json` in the capsule's state directory"
    )]
    Unauthorized {
        /// The whole reference.
        reference: String,
        /// Host and port.
        registry: String,
        /// Path in the registry.
        repository: String,
        /// What was tried and what the registry said.
        detail: String,
    },
    /// The registry answered with another error.
    #[error("pulling {reference}: registry {registry} answered {status}: {detail}")]
    Registry {
        /// The whole reference.
        reference: String,
        /// Host and port.
        registry: String,
        /// HTTP status; 0 where the answer itself made no sense.
        status: u16,
        /// What it said.
        detail: String,
    },
    /// The registry could not be reached or the connection broke.
    #[error("pulling {reference}: cannot talk to registry {registry}: {detail}")]
    Network {
        /// The whole reference.
        reference: String,
        /// Host and port.
        registry: String,
        /// What broke.
        detail: String,
    },
    /// None of an index' images is for this machine.
    #[error("{reference} has no image for {wanted}; it has {offered}")]
    NoPlatform {
        /// The image.
        reference: String,
        /// This machine.
        wanted: String,
        /// Platforms in the index.
        offered: String,
    },
    /// A manifest, index or configuration that is not what it should be.
    #[error("{what} cannot be used: {detail}")]
    Malformed {
        /// Which document.
        what: String,
        /// Why.
        detail: String,
    },
    /// Bytes that do not hash to the digest that names them.
    #[error("{what} does not match its digest {digest}: {detail}; nothing of it was kept")]
    Digest {
        /// Which content.
        what: String,
        /// What it should be.
        digest: String,
        /// What was found.
        detail: String,
    },
    /// A pushed archive that was refused; nothing of it was kept.
    #[error("the archive was refused: {0}")]
    Archive(String),
    /// The disk below the content store has no room.
    #[error(
        "{attempted}: the capsule's disk is full; make room (`image prune`, or larger storage) and try again"
    )]
    DiskFull {
        /// What was being written.
        attempted: String,
    },
    /// Workloads use the image.
    #[error("image {reference} is used by {}; delete or change {} first", list(users), if users.len() == 1 { "it" } else { "them" })]
    InUse {
        /// The image.
        reference: String,
        /// Whose spec names it.
        users: Vec<Name>,
    },
    /// The capsule's configuration of registries is unusable.
    #[error("{what}: {detail}")]
    Config {
        /// Which file or option.
        what: String,
        /// What is wrong and what would be right.
        detail: String,
    },
    /// containerd refused or could not be reached.
    #[error("{attempted}: containerd says: {detail}")]
    Engine {
        /// What was attempted, on what.
        attempted: String,
        /// Its message.
        detail: String,
        /// Its class of error.
        code: Code,
    },
    /// The capsule's own database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The outcome of a pull that several callers shared.
    #[error(transparent)]
    Shared(#[from] Arc<ImageError>),
}

impl ImageError {
    /// Whether the same call may work later without anybody changing anything but time, network
    /// and disk.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Network { .. } | Self::DiskFull { .. } | Self::Digest { .. } => true,
            Self::Registry { status, .. } => matches!(status, 408 | 429 | 500..),
            Self::Engine { code, .. } => {
                matches!(code, Code::Unavailable | Code::DeadlineExceeded | Code::Aborted | Code::Cancelled)
            }
            Self::Shared(inner) => inner.is_retryable(),
            _ => false,
        }
    }

    /// From containerd's answer to `attempted`.
    pub(super) fn engine(attempted: impl Into<String>, status: &tonic::Status) -> Self {
        let (attempted, detail) = (attempted.into(), status.message().to_owned());
        if detail.contains("no space left on device") || detail.contains("disk quota exceeded") {
            return Self::DiskFull { attempted };
        }
        Self::Engine { attempted, detail, code: status.code() }
    }

    /// A document that cannot be used.
    pub(super) fn malformed(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Malformed { what: what.into(), detail: detail.into() }
    }

    /// Whether containerd says that the thing is not there.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Engine { code: Code::NotFound, .. } | Self::NotFound(_))
    }
}

fn list(users: &[Name]) -> String {
    users.iter().map(|name| format!("workload {name}")).collect::<Vec<_>>().join(", ")
}
