//! Queries about the rest of the world, passed to the host's resolvers byte for byte.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

/// For one resolver to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Largest datagram.
const MAX_DATAGRAM: usize = 65_535;

/// The first answer, asking one resolver after the other.
pub(super) async fn over_udp(query: &[u8], servers: &[SocketAddr]) -> Option<Vec<u8>> {
    for server in servers {
        match timeout(PATIENCE, ask_udp(query, *server)).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) => tracing::debug!(%server, %error, "a resolver did not answer"),
            Err(_) => tracing::debug!(%server, "a resolver did not answer in time"),
        }
    }
    None
}

/// A socket of its own for every query: a fresh source port is half of what protects an answer
/// from being forged, the id chosen by the client is the other.
async fn ask_udp(query: &[u8], server: SocketAddr) -> std::io::Result<Vec<u8>> {
    let local: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if length >= 12 && buffer[..2] == query[..2] {
            buffer.truncate(length);
            buffer.shrink_to_fit();
            return Ok(buffer);
        }
    }
}

/// The same over TCP.
pub(super) async fn over_tcp(query: &[u8], servers: &[SocketAddr]) -> Option<Vec<u8>> {
    for server in servers {
        let ask = async {
            let mut stream = TcpStream::connect(server).await?;
            write_message(&mut stream, query).await?;
            read_message(&mut stream).await
        };
        match timeout(PATIENCE, ask).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) => tracing::debug!(%server, %error, "a resolver did not answer"),
            Err(_) => tracing::debug!(%server, "a resolver did not answer in time"),
        }
    }
    None
}

/// Over TCP every message follows its length in two bytes (RFC 1035, section 4.2.2).
pub(super) async fn read_message(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// The other way.
pub(super) async fn write_message(stream: &mut TcpStream, message: &[u8]) -> std::io::Result<()> {
    let length = u16::try_from(message.len()).map_err(std::io::Error::other)?;
    let mut framed = Vec::with_capacity(message.len() + 2);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}
