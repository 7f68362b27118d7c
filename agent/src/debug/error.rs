//! Why there is no debug shell.

use capsule_proto::Name;

use crate::{image::ImageError, runtime::RuntimeError};

/// What went wrong with a debug shell.
#[derive(Debug, thiserror::Error)]
pub enum DebugError {
    /// Not a name of one.
    #[error("{0:?} is not a name of a debug shell: those are `debug-` and four hex digits")]
    Name(String),
    /// Nothing of that name.
    #[error("there is no debug shell {0}; `fleetctl debug --list` shows those that are")]
    NotFound(Name),
    /// Somebody has one of that name.
    #[error("there is a debug shell {0} already; enter that one, or choose another name")]
    Exists(Name),
    /// No image is named, and none is on board.
    #[error(
        "this capsule has no debug image on board, as appliances have; name one that it has or can pull, with `sh` and \
         `sleep` in it, such as --image docker.io/library/busybox:latest"
    )]
    NoImage,
    /// The image cannot be had.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The container does not come to run.
    #[error("no debug shell can be made of image {image}, which needs `sh` and `sleep` in it")]
    Make {
        /// What it was to be made from.
        image: String,
        /// What the runtime says.
        #[source]
        source: RuntimeError,
    },
    /// The runtime fails otherwise.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

impl DebugError {
    /// Whether there may be a part of a container that is of no use.
    pub(super) fn is_half_made(&self) -> bool {
        matches!(self, Self::Make { .. })
    }
}
