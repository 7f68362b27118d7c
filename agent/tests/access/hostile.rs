//! Those who are no operators, and operators while those are around.

use std::time::Instant;

use capsule_client::{FanOut, fan_out};
use futures_util::StreamExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;

/// A ClientHello that knows TLS 1.2 and nothing later (RFC 5246, section 7.4.1.2).
fn hello_of_tls12() -> Vec<u8> {
    let extensions = [&[0, 10, 0, 4, 0, 2, 0, 23][..], &[0, 13, 0, 4, 0, 2, 4, 3]].concat();
    let mut body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0xc0, 0x2b, 1, 0]].concat();
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut record = vec![22, 3, 1];
    record.extend((body.len() as u16 + 4).to_be_bytes());
    record.extend([1, 0]);
    record.extend((body.len() as u16).to_be_bytes());
    record.extend(body);
    record
}

/// What the agent answers to these bytes before it hangs up.
async fn answer_to(bench: &Bench, bytes: &[u8]) -> Vec<u8> {
    let mut tcp = TcpStream::connect(bench.agent.address()).await.unwrap();
    tcp.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), tcp.read_to_end(&mut answer)).await;
    let _ = read.expect("the agent holds the connection");
    answer
}

#[tokio::test]
async fn nothing_but_tls_1_3_is_spoken() {
    const ALERT: u8 = 21;
    const PROTOCOL_VERSION: u8 = 70;
    let bench = Bench::start().await;
    let answer = answer_to(&bench, &hello_of_tls12()).await;
    assert_eq!((answer.first(), answer.last()), (Some(&ALERT), Some(&PROTOCOL_VERSION)), "{answer:?}");
    for garbage in [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], &[0; 100], &[0xff; 5000]] {
        assert!(answer_to(&bench, garbage).await.len() < 20);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_silent_connections_keep_no_operator_waiting() {
    let (bench, operator) = Bench::adopted().await;
    let mut silent = Vec::new();
    for at in 0..400 {
        let mut tcp = TcpStream::connect(bench.agent.address()).await.unwrap();
        // Half of them stop in the middle of a handshake.
        if at % 2 == 0 {
            tcp.write_all(&[22, 3, 1, 2, 0]).await.unwrap();
        }
        silent.push(tcp);
    }
    let start = Instant::now();
    info(&operator.connect(&bench.target()).await.unwrap()).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_message_larger_than_any_call_needs_is_refused() {
    let (bench, operator) = Bench::adopted().await;
    let capsule = operator.connect(&bench.target()).await.unwrap();
    let request =
        v1::AddKeyRequest { name: "x".repeat(100 << 10), role: Role::Viewer as i32, ..Default::default() };
    let refusal = capsule.identity().add_key(request).await.unwrap_err();
    assert_eq!(refusal.code(), Code::OutOfRange, "{refusal}");
    info(&capsule).await.unwrap();
}

#[tokio::test]
async fn a_stranger_without_a_certificate_reaches_nothing() {
    let (bench, operator) = Bench::adopted().await;
    let channel = bare_channel(&bench).await;
    refused(call_info(channel.clone(), None).await, Code::Unauthenticated, "proves no operator key");
    let stolen = operator.key().token(&operator.key().claims(bench.agent.identity().capsule_id(), INFO));
    refused(call_info(channel.clone(), Some(&stolen)).await, Code::Unauthenticated, "proves no operator key");
    let public_key = operator.key().public_key().to_vec();
    let adopt = v1::AdoptRequest { public_key, key_name: String::new(), to_install: false };
    let refusal = v1::identity_client::IdentityClient::new(channel).adopt(adopt).await.unwrap_err();
    assert!(refusal.message().contains("proves no operator key"), "{refusal}");
}

/// TLS to the agent without a client certificate, trusting anyone.
async fn bare_channel(bench: &Bench) -> Channel {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = std::sync::Arc::new(Anyone(provider.clone()));
    let config = rustls::ClientConfig::builder_with_provider(provider);
    let config = config.with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
    let mut config = config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = TcpStream::connect(bench.agent.address()).await.unwrap();
    let tls = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let mut stream = Some(tls.connect("capsule".try_into().unwrap(), tcp).await.unwrap());
    let connect = tower::service_fn(move |_| {
        let stream = stream.take().ok_or(std::io::Error::from(std::io::ErrorKind::NotConnected));
        async { stream.map(hyper_util::rt::TokioIo::new) }
    });
    tonic::transport::Endpoint::from_static("http://a").connect_with_connector(connect).await.unwrap()
}

#[derive(Debug)]
struct Anyone(std::sync::Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::HandshakeNotComplete)
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn a_capsule_that_nobody_adopted_in_time_is_closed_until_its_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..Config::new(dir.path()) };
    let agent = Agent::builder(config).runtime(idle::runtime()).claim_window(Duration::ZERO);
    let bench = Bench { agent: agent.start().await.unwrap(), dir };
    let refusal = bench.adopt(&operator()).await.unwrap_err().to_string();
    assert!(refusal.contains("claim window closed") && refusal.contains("restart capsuled"), "{refusal}");
    let bench = bench.restart().await;
    bench.adopt(&operator()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn more_dead_capsules_than_calls_at_once_delay_no_live_one() {
    let (bench, operator) = Bench::adopted().await;
    // Takes connections and says nothing.
    let tar_pit = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: Address = tar_pit.local_addr().unwrap().to_string().parse().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok(connection) = tar_pit.accept().await {
            held.push(connection);
        }
    });
    let dead = |at| Target { name: format!("dead-{at}"), address: address.clone(), ..bench.target() };
    let mut targets: Vec<Target> = (0..150).map(dead).collect();
    targets.push(bench.target());
    let connector = operator.with_timeout(Duration::from_secs(5));
    let start = Instant::now();
    let options = FanOut { limit: 4, timeout: None };
    let mut answers = fan_out(&connector, targets, options, async |capsule| info(&capsule).await);
    let (target, answer) = answers.next().await.unwrap();
    assert!(answer.is_ok() && target.name == "a", "{answer:?}");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    let rest: Vec<_> = answers.collect().await;
    assert_eq!(rest.iter().filter(|(_, answer)| answer.is_err()).count(), 150);
    assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
}
