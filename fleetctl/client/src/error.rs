//! Why a call on one capsule did not succeed.

use std::{error::Error, time::Duration};

use capsule_proto::Fingerprint;
use tonic::{Code, Status};

use crate::Address;

/// One readable paragraph each: what, why and what to do next.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// No TCP connection.
    #[error(
        "{address} cannot be reached: {reason}; check that the capsule is up and that its address is right"
    )]
    Unreachable {
        /// Whom.
        address: Address,
        /// In the system's words.
        reason: String,
    },
    /// No connection in time.
    #[error("{address} did not answer within {} s; check that the capsule is up and that no firewall drops its port",
        .after.as_secs_f32())]
    ConnectTimedOut {
        /// Whom.
        address: Address,
        /// How long was waited.
        after: Duration,
    },
    /// Somebody else answers there, or the capsule was made anew.
    #[error(
        "{address} shows another certificate than the pinned one. Pinned: {pinned}. Seen: {seen}. Either somebody \
         is in between, or the capsule was installed anew: compare with the fingerprint on its banner; if it is \
         right, remove the context and adopt again"
    )]
    PinMismatch {
        /// Whom.
        address: Address,
        /// From the context.
        pinned: Fingerprint,
        /// On the wire.
        seen: Fingerprint,
    },
    /// Something listens, but it is no capsule.
    #[error(
        "{address} does not speak TLS 1.3 as a capsule does: {reason}; is another program listening there?"
    )]
    Tls {
        /// Whom.
        address: Address,
        /// What went wrong.
        reason: String,
    },
    /// Something listens, and went away before it was known what it is.
    #[error(
        "{address} ended the connection before it was secured: {reason}; the capsule's agent may be starting or \
         stopping, so try again"
    )]
    HandshakeCut {
        /// Whom.
        address: Address,
        /// In the system's words.
        reason: String,
    },
    /// The connection ended during a call.
    #[error(
        "the connection to the capsule broke: {0}; what was asked may have been done, so look before repeating it"
    )]
    Broken(String),
    /// No answer in the time that the caller set.
    #[error("the capsule gave no answer within {} s (--timeout); it may still do what was asked", .0.as_secs_f32())]
    TimedOut(Duration),
    /// The capsule answered with an error, in its own words.
    #[error("{}", .0.message())]
    Status(Status),
    /// The capsule's answer makes no sense.
    #[error("the capsule's answer is not as expected: {0}")]
    Answer(String),
}

/// Classes of errors, stable in JSON output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// No connection, or it broke.
    Unreachable,
    /// No answer in time.
    TimedOut,
    /// The certificate is not the pinned one.
    PinMismatch,
    /// Not a capsule, or one that speaks otherwise.
    Protocol,
    /// Credentials were refused: key not enrolled, token stale or seen before.
    Unauthenticated,
    /// The key's role does not allow it, or too many calls were refused.
    Forbidden,
    /// No such thing.
    NotFound,
    /// The request makes no sense.
    Invalid,
    /// The request makes sense, but not in the present state.
    Conflict,
    /// Try again.
    Unavailable,
    /// The capsule's own fault.
    Internal,
}

impl ErrorKind {
    /// One word in kebab case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed-out",
            Self::PinMismatch => "pin-mismatch",
            Self::Protocol => "protocol",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not-found",
            Self::Invalid => "invalid",
            Self::Conflict => "conflict",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }
}

impl CallError {
    /// Its class.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unreachable { .. } | Self::HandshakeCut { .. } | Self::Broken(_) => ErrorKind::Unreachable,
            Self::ConnectTimedOut { .. } | Self::TimedOut(_) => ErrorKind::TimedOut,
            Self::PinMismatch { .. } => ErrorKind::PinMismatch,
            Self::Tls { .. } | Self::Answer(_) => ErrorKind::Protocol,
            Self::Status(status) => kind_of(status.code()),
        }
    }

    /// The capsule's own code, where it answered.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Status(status) => Some(status.code()),
            _ => None,
        }
    }
}

fn kind_of(code: Code) -> ErrorKind {
    match code {
        Code::Unauthenticated => ErrorKind::Unauthenticated,
        Code::PermissionDenied | Code::ResourceExhausted => ErrorKind::Forbidden,
        Code::NotFound => ErrorKind::NotFound,
        Code::InvalidArgument | Code::OutOfRange => ErrorKind::Invalid,
        Code::FailedPrecondition | Code::AlreadyExists | Code::Aborted => ErrorKind::Conflict,
        Code::DeadlineExceeded => ErrorKind::TimedOut,
        Code::Unavailable | Code::Cancelled => ErrorKind::Unavailable,
        Code::Unimplemented => ErrorKind::Protocol,
        _ => ErrorKind::Internal,
    }
}

/// Of a peer that was killed TLS has a page of manual to say, and its type is lost on the way here.
fn in_words(error: &dyn std::error::Error) -> String {
    let said = error.to_string();
    if said.contains("close_notify") { "it was cut off".to_owned() } else { said }
}

/// A status that this side made up hides its cause in its sources: the connector's own error, or
/// the transport's.
impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        let mut next = status.source();
        let mut transport = None;
        while let Some(error) = next {
            if let Some(error) = error.downcast_ref::<Self>() {
                return error.clone();
            }
            transport = Some(in_words(error));
            next = error.source();
        }
        transport.map_or(Self::Status(status), Self::Broken)
    }
}
