//! The one place that turns errors of capabilities into what a caller sees.

use capsule_fabric::map::Refusal as MapRefusal;
use tonic::{Code, Status};

use crate::{
    debug::DebugError,
    fabric::FabricError,
    identity::{KeyChangeError, Refusal},
    image::ImageError,
    install::InstallError,
    network::NetworkError,
    runtime::RuntimeError,
    store::StoreError,
    update::UpdateError,
    volume::VolumeError,
    workload::{WorkloadError, needs::NeedKind},
};

/// The error and all its sources, joined by ": ".
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        let code = match error {
            StoreError::Closed => Code::Unavailable,
            StoreError::Sqlite(_) => Code::Internal,
        };
        Self::new(code, chain(&error))
    }
}

impl From<RuntimeError> for Status {
    fn from(error: RuntimeError) -> Self {
        let code = match error {
            RuntimeError::Unavailable(_) => Code::Unavailable,
            RuntimeError::NotFound(..) => Code::NotFound,
            RuntimeError::Invalid(_) | RuntimeError::Command { .. } => Code::InvalidArgument,
            RuntimeError::Engine { .. } => Code::Internal,
        };
        Self::new(code, chain(&error))
    }
}

impl From<ImageError> for Status {
    fn from(error: ImageError) -> Self {
        Self::new(image_code(&error), chain(&error))
    }
}

fn image_code(error: &ImageError) -> Code {
    match error {
        ImageError::Reference { .. }
        | ImageError::Archive(_)
        | ImageError::Malformed { .. }
        | ImageError::NoPlatform { .. } => Code::InvalidArgument,
        ImageError::NotFound(_) | ImageError::NoSuchTag { .. } => Code::NotFound,
        // Not Unauthenticated: the caller's own credentials are right.
        ImageError::Unauthorized { .. } | ImageError::InUse { .. } | ImageError::Config { .. } => {
            Code::FailedPrecondition
        }
        ImageError::Registry { .. } | ImageError::Network { .. } => Code::Unavailable,
        ImageError::Digest { .. } => Code::DataLoss,
        ImageError::DiskFull { .. } => Code::ResourceExhausted,
        ImageError::Engine { code: Code::Unavailable, .. } | ImageError::Store(StoreError::Closed) => {
            Code::Unavailable
        }
        ImageError::Engine { .. } | ImageError::Store(_) => Code::Internal,
        ImageError::Shared(inner) => image_code(inner),
    }
}

impl From<InstallError> for Status {
    fn from(error: InstallError) -> Self {
        let code = match error {
            InstallError::NoDisk { .. } => Code::NotFound,
            InstallError::OtherDisk { .. }
            | InstallError::Unfit { .. }
            | InstallError::Capsule(_)
            | InstallError::Busy
            | InstallError::NotWritten => Code::FailedPrecondition,
            InstallError::Abandoned => Code::Cancelled,
            InstallError::Medium(_) | InstallError::ReadBack { .. } => Code::DataLoss,
            InstallError::Io { .. }
            | InstallError::Partition(_)
            | InstallError::Run(_)
            | InstallError::Group(_)
            | InstallError::Seed(_) => Code::Internal,
        };
        Self::new(code, chain(&error))
    }
}

impl From<DebugError> for Status {
    fn from(error: DebugError) -> Self {
        let code = match error {
            DebugError::Image(error) => return error.into(),
            DebugError::Runtime(error) => return error.into(),
            DebugError::Name(_) => Code::InvalidArgument,
            DebugError::NotFound(_) => Code::NotFound,
            DebugError::Exists(_) => Code::AlreadyExists,
            DebugError::Make { source: RuntimeError::Unavailable(_), .. } => Code::Unavailable,
            DebugError::NoImage | DebugError::Make { .. } => Code::FailedPrecondition,
        };
        Self::new(code, chain(&error))
    }
}

impl From<VolumeError> for Status {
    fn from(error: VolumeError) -> Self {
        let code = match error {
            VolumeError::Store(error) => return error.into(),
            VolumeError::NotFound(_) => Code::NotFound,
            VolumeError::Exists { .. } => Code::AlreadyExists,
            VolumeError::Size(_) | VolumeError::Name(_) => Code::InvalidArgument,
            VolumeError::Missing { .. }
            | VolumeError::Shrink { .. }
            | VolumeError::Claimed { .. }
            | VolumeError::Named { .. }
            | VolumeError::Mounted { .. }
            | VolumeError::NoDisk
            | VolumeError::PoolUnusable(_) => Code::FailedPrecondition,
            VolumeError::NoRoom { .. } => Code::ResourceExhausted,
            VolumeError::Deleting(_) => Code::Unavailable,
            VolumeError::Io { .. } | VolumeError::Tool { .. } | VolumeError::Group(_) => Code::Internal,
        };
        Self::new(code, chain(&error))
    }
}

impl From<NetworkError> for Status {
    fn from(error: NetworkError) -> Self {
        let code = match error {
            NetworkError::Store(error) => return error.into(),
            NetworkError::PortTaken { .. }
            | NetworkError::PortBusy { .. }
            | NetworkError::PortPublished { .. } => Code::FailedPrecondition,
            NetworkError::Port { .. } | NetworkError::Subnet { .. } => Code::InvalidArgument,
            NetworkError::AddressesExhausted { .. } | NetworkError::PortsExhausted => Code::ResourceExhausted,
            _ => Code::Internal,
        };
        Self::new(code, chain(&error))
    }
}

impl From<FabricError> for Status {
    fn from(error: FabricError) -> Self {
        let code = match error {
            FabricError::Store(error) => return error.into(),
            FabricError::Map(_) | FabricError::Signature { .. } => Code::InvalidArgument,
            FabricError::Signer { .. } => Code::PermissionDenied,
            FabricError::Refused(MapRefusal::Older { .. } | MapRefusal::Fork { .. }) => Code::Aborted,
            FabricError::Refused(_) | FabricError::Overlap { .. } | FabricError::Port { .. } => {
                Code::FailedPrecondition
            }
            FabricError::NoMap => Code::NotFound,
            FabricError::Closed => Code::Unavailable,
            FabricError::Key { .. } | FabricError::Kernel { .. } => Code::Internal,
        };
        Self::new(code, chain(&error))
    }
}

impl From<UpdateError> for Status {
    fn from(error: UpdateError) -> Self {
        let code = match error {
            UpdateError::Store(error) => return error.into(),
            UpdateError::Bundle(_)
            | UpdateError::Oversized { .. }
            | UpdateError::Protocol(_)
            | UpdateError::Assembled { .. }
            | UpdateError::Key(_) => Code::InvalidArgument,
            UpdateError::NotAppliance
            | UpdateError::Downgrade { .. }
            | UpdateError::TooFar { .. }
            | UpdateError::Architecture { .. }
            | UpdateError::TriedBefore { .. }
            | UpdateError::OnTrial(_)
            | UpdateError::Armed(_)
            | UpdateError::Otherwise(_)
            | UpdateError::NoFallback(_)
            | UpdateError::NothingBefore(_)
            | UpdateError::LastKey(_)
            | UpdateError::TooManyKeys(_)
            | UpdateError::NoSpace { .. } => Code::FailedPrecondition,
            UpdateError::Busy(_) | UpdateError::TakenOver => Code::Aborted,
            UpdateError::Chunk(_) => Code::DataLoss,
            UpdateError::UnknownKey(_) => Code::NotFound,
            UpdateError::ReadBack { .. } | UpdateError::Io { .. } => Code::Internal,
        };
        Self::new(code, chain(&error))
    }
}

impl From<WorkloadError> for Status {
    fn from(error: WorkloadError) -> Self {
        let code = match error {
            WorkloadError::Store(error) => return error.into(),
            WorkloadError::Runtime(error) => return error.into(),
            WorkloadError::NotFound(_) | WorkloadError::Deleted => Code::NotFound,
            WorkloadError::Invalid(_) | WorkloadError::Name(_) | WorkloadError::Selector(_) => {
                Code::InvalidArgument
            }
            WorkloadError::Conflict(_) | WorkloadError::NoMicroVm(_) => Code::FailedPrecondition,
            WorkloadError::TimedOut(_) => Code::DeadlineExceeded,
            WorkloadError::Need(ref need) => match need.kind {
                NeedKind::Invalid => Code::InvalidArgument,
                NeedKind::Conflict => Code::FailedPrecondition,
                NeedKind::Failed => Code::Unavailable,
            },
            WorkloadError::Io { .. } => Code::Internal,
        };
        Self::new(code, chain(&error))
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal {
            Refusal::Role { .. } => Code::PermissionDenied,
            Refusal::Claimed { .. } | Refusal::WindowClosed(_) | Refusal::Purpose(_) => {
                Code::FailedPrecondition
            }
            Refusal::Limited(_) | Refusal::Busy => Code::ResourceExhausted,
            _ => Code::Unauthenticated,
        };
        Self::new(code, chain(&refusal))
    }
}

impl From<KeyChangeError> for Status {
    fn from(error: KeyChangeError) -> Self {
        let code = match error {
            KeyChangeError::Unknown(_) => Code::NotFound,
            KeyChangeError::LastAdmin(_) => Code::FailedPrecondition,
            KeyChangeError::Known(_) => Code::AlreadyExists,
            KeyChangeError::Invalid(_) => Code::InvalidArgument,
            KeyChangeError::Store(error) => return error.into(),
        };
        Self::new(code, chain(&error))
    }
}
