//! containerd's gRPC API: the connection, the namespace header, errors.

use std::{error::Error as _, path::PathBuf};

use hyper_util::rt::TokioIo;
use prost_types::Any;
use tokio::net::UnixStream;
use tonic::{
    Code, Request, Status,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};

use crate::{image::NAMESPACE, runtime::RuntimeError};

/// containerd's own limit of a message, in bytes.
pub(super) const MESSAGE_MAX: usize = 16 * 1024 * 1024;

/// A connection to `socket` that is made when used and made again when lost.
pub(super) fn connect_lazy(socket: PathBuf) -> Channel {
    let connect = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    // The URI is not looked at, but there must be one.
    Endpoint::from_static("http://containerd").connect_with_connector_lazy(connect)
}

/// A request in our namespace.
pub(super) fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
    request
}

/// A value that Go's typeurl finds by `type_url`.
pub(super) fn any(type_url: &str, value: Vec<u8>) -> Any {
    Any { type_url: type_url.to_owned(), value }
}

/// Whether containerd could not be asked, as opposed to having answered with an error.
pub(super) fn is_unreachable(status: &Status) -> bool {
    // Errors of the transport carry their cause; those that the server sent do not.
    status.code() == Code::Unavailable || status.source().is_some()
}

/// The error of a call that was to do `attempt`.
pub(super) fn failed(attempt: impl Into<String>, status: Status) -> RuntimeError {
    if is_unreachable(&status) {
        return RuntimeError::Unavailable(Box::new(status));
    }
    RuntimeError::Engine { attempt: attempt.into(), message: status.message().to_owned() }
}

/// `Ok(None)` for what containerd does not know.
pub(super) fn found<T>(
    answer: Result<tonic::Response<T>, Status>,
    attempt: impl Into<String>,
) -> Result<Option<T>, RuntimeError> {
    match answer {
        Ok(response) => Ok(Some(response.into_inner())),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(failed(attempt, status)),
    }
}
