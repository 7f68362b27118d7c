//! Who announces what is not so, on the bridge where the capsules are.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use capsule_proto::{
    discovery::{Announcement, SERVICE},
    v1::Mode,
};
use hickory_proto::{
    op::{Message, OpCode},
    rr::{
        Name, RData, Record,
        rdata::{A, PTR, SRV, TXT},
    },
};
use mdns_sd::{MDNS_PORT, ServiceDaemon, ServiceInfo};
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use socket2::{Domain, Socket, Type};
use testbed::{scenario::Fleet, sys::netns};
use tokio_rustls::TlsAcceptor;

const GROUP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 251), MDNS_PORT);

/// What a capsule of this id would say.
pub(super) fn announcement(capsule_id: &str) -> Announcement {
    Announcement {
        capsule_id: capsule_id.into(),
        hostname: "nuc\u{202e}-666".into(),
        adopted: false,
        version: "9.9.9".into(),
        mode: Mode::Hosted,
    }
}

/// Announces a capsule of this id at an address, as long as it lives, by the very names that the
/// capsule itself has.
pub(super) struct Liar(ServiceDaemon);

impl Liar {
    pub(super) fn start(fleet: &Fleet, capsule_id: &str, at: SocketAddr) -> Result<Self> {
        let said = announcement(capsule_id);
        let (name, properties) = (said.short_id(), said.to_txt());
        let host = format!("{name}.local.");
        let address: &[IpAddr] = &[at.ip()];
        let mut info = ServiceInfo::new(SERVICE, &name, &host, address, at.port(), properties.as_slice())?;
        info.set_requires_probe(false);
        let hub = fleet.testbed().plan().hub();
        // Its thread lives where it is made.
        let daemon = netns::inside(&hub, ServiceDaemon::new)??;
        daemon.register(info)?;
        Ok(Self(daemon))
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        let _ = self.0.shutdown();
    }
}

/// Answers TLS on the hub with a certificate of its own, which names this capsule.
pub(super) fn impostor(fleet: &Fleet, capsule_id: &str) -> Result<SocketAddr> {
    let pair = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, capsule_id);
    let certificate = params.self_signed(&pair)?.der().clone();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], PrivatePkcs8KeyDer::from(pair.serialize_der()).into())?;
    let plan = fleet.testbed().plan();
    let listener = netns::inside(&plan.hub(), || TcpListener::bind((plan.hub_address().0, 0)))??;
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let (listener, acceptor) =
        (tokio::net::TcpListener::from_std(listener)?, TlsAcceptor::from(Arc::new(config)));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move { acceptor.accept(stream).await.map(drop) });
        }
    });
    Ok(address)
}

/// Says all of it, one packet after the other.
pub(super) fn shout(fleet: &Fleet, packets: impl Iterator<Item = Result<Vec<u8>>> + Send) -> Result<()> {
    let plan = fleet.testbed().plan();
    netns::inside(&plan.hub(), || {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_multicast_if_v4(&plan.hub_address().0)?;
        socket.bind(&SocketAddr::from((plan.hub_address().0, MDNS_PORT)).into())?;
        let socket = UdpSocket::from(socket);
        for packet in packets {
            socket.send_to(&packet?, GROUP).context("cannot shout")?;
        }
        Ok(())
    })?
}

/// The announcement of a capsule that is not there.
pub(super) fn ghost(number: u32) -> Result<Vec<u8>> {
    let said = announcement(&format!("{number:08x}-0000-4000-8000-000000000000"));
    let (service, instance, host) = (
        Name::from_ascii(SERVICE)?,
        Name::from_ascii(format!("ghost-{number}.{SERVICE}"))?,
        Name::from_ascii(format!("ghost-{number}.local."))?,
    );
    let text = said.to_txt().into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    let address = A(Ipv4Addr::from(0x0a00_0000 | number));
    let mut message = Message::response(0, OpCode::Query);
    message.metadata.authoritative = true;
    let mut record = |of: &Name, data| message.answers.push(Record::from_rdata(of.clone(), 4500, data));
    record(&service, RData::PTR(PTR(instance.clone())));
    record(&instance, RData::SRV(SRV::new(0, 0, 50000, host.clone())));
    record(&instance, RData::TXT(TXT::new(text)));
    record(&host, RData::A(address));
    Ok(message.to_vec()?)
}

/// An address that nobody has asked for.
pub(super) fn chatter(number: u32) -> Result<Vec<u8>> {
    let host = Name::from_ascii(format!("chatter-{number}.local."))?;
    let mut message = Message::response(0, OpCode::Query);
    message.metadata.authoritative = true;
    message.answers.push(Record::from_rdata(host, 4500, RData::A(A(Ipv4Addr::from(0x0a00_0000 | number)))));
    Ok(message.to_vec()?)
}
