//! Who gets in and who does not: whole agents over real TLS, with a runtime that runs nothing.

#![allow(clippy::unwrap_used)]

mod hostile;
mod idle;

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use capsule_client::{
    Address, CallError, Capsule, Connector, ErrorKind, Fleet, Home, OperatorKey, Target, adopt,
};
use capsule_proto::{
    Fingerprint,
    token::Claims,
    v1::{self, Role, node_client::NodeClient},
};
use capsuled::{agent::Agent, config::Config, identity::SENTINEL};
use tonic::{Code, Request, Status, transport::Channel};

const INFO: &str = "/capsule.v1.Node/GetInfo";

struct Bench {
    agent: Agent,
    dir: tempfile::TempDir,
}

impl Bench {
    async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    async fn start_in(dir: tempfile::TempDir) -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = Config { listen, ..Config::new(dir.path()) };
        let agent = Agent::builder(config).runtime(idle::runtime()).start().await.unwrap();
        Self { agent, dir }
    }

    async fn restart(self) -> Self {
        self.agent.stop().await;
        Self::start_in(self.dir).await
    }

    fn address(&self) -> Address {
        self.agent.address().to_string().parse().unwrap()
    }

    fn target(&self) -> Target {
        Target {
            name: "a".into(),
            address: self.address(),
            capsule_id: self.agent.identity().capsule_id().into(),
            fingerprint: self.agent.identity().fingerprint(),
        }
    }

    async fn adopt(&self, operator: &Connector) -> Result<adopt::Adopted, CallError> {
        let probe = adopt::probe(operator, &self.address()).await?;
        adopt::adopt(operator, &probe, "op@test").await
    }

    async fn adopted() -> (Self, Connector) {
        let (bench, operator) = (Self::start().await, operator());
        bench.adopt(&operator).await.unwrap();
        (bench, operator)
    }

    async fn channel(&self, operator: &Connector) -> Channel {
        operator.channel(&self.address(), Some(self.agent.identity().fingerprint())).await.unwrap()
    }

    /// Calls `GetInfo` with claims that differ from good ones by `change`.
    async fn info_with(&self, operator: &Connector, change: impl FnOnce(&mut Claims)) -> Result<(), Status> {
        let mut claims = operator.key().claims(self.agent.identity().capsule_id(), INFO);
        change(&mut claims);
        let token = operator.key().token(&claims);
        call_info(self.channel(operator).await, Some(&token)).await
    }
}

async fn call_info(channel: Channel, token: Option<&str>) -> Result<(), Status> {
    let mut request = Request::new(v1::GetInfoRequest {});
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    NodeClient::new(channel).get_info(request).await.map(drop)
}

fn operator() -> Connector {
    Connector::new(OperatorKey::generate().unwrap()).unwrap()
}

async fn info(capsule: &Capsule) -> Result<v1::NodeInfo, CallError> {
    Ok(capsule.node().get_info(v1::GetInfoRequest {}).await?.into_inner())
}

fn refused(result: Result<(), Status>, code: Code, words: &str) {
    let status = result.unwrap_err();
    assert_eq!(status.code(), code, "{status}");
    assert!(status.message().contains(words), "{status}");
}

#[tokio::test]
async fn an_operator_adopts_remembers_and_calls() {
    let (bench, operator) = Bench::adopted().await;
    let home = tempfile::tempdir().unwrap();
    let mut fleet = Fleet::open_in(Home::at(home.path())).unwrap();
    let again = bench.adopt(&operator).await.unwrap();
    fleet.update(|all| all.insert("a", again.context).map_err(capsule_client::ConfigError::from)).unwrap();
    let target = fleet.resolve(&Default::default()).unwrap().remove(0);
    let capsule = operator.connect(&target).await.unwrap();
    let found = info(&capsule).await.unwrap();
    assert_eq!(found.fingerprint, bench.agent.identity().fingerprint().to_string());
}

#[tokio::test]
async fn of_operators_who_race_exactly_one_adopts() {
    let bench = Bench::start().await;
    let operators: Vec<Connector> = (0..8).map(|_| operator()).collect();
    let results = futures_util::future::join_all(operators.iter().map(|op| bench.adopt(op))).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    let error = results.into_iter().find_map(Result::err).unwrap();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("adopted already, by key"), "{error}");
}

#[tokio::test]
async fn a_token_is_good_for_one_call_of_one_method_on_one_capsule_by_one_key() {
    let (bench, operator) = Bench::adopted().await;
    let token = operator.key().token(&operator.key().claims(bench.agent.identity().capsule_id(), INFO));
    let channel = bench.channel(&operator).await;
    call_info(channel.clone(), Some(&token)).await.unwrap();
    refused(call_info(channel.clone(), Some(&token)).await, Code::Unauthenticated, "used before");
    refused(call_info(channel.clone(), None).await, Code::Unauthenticated, "authorization");
    let result = bench.info_with(&operator, |claims| claims.aud = "another".into()).await;
    refused(result, Code::Unauthenticated, "is for capsule another");
    let result = bench.info_with(&operator, |claims| claims.method = "/capsule.v1.Node/Logs".into()).await;
    refused(result, Code::Unauthenticated, "is for method /capsule.v1.Node/Logs");
    let other = OperatorKey::generate().unwrap();
    let token = other.token(&other.claims(bench.agent.identity().capsule_id(), INFO));
    refused(call_info(channel, Some(&token)).await, Code::Unauthenticated, "not signed by the key");
}

#[tokio::test]
async fn a_token_from_another_time_is_refused_with_both_clocks() {
    let (bench, operator) = Bench::adopted().await;
    let expired = |claims: &mut Claims| (claims.iat, claims.exp) = (claims.iat - 100, claims.iat - 70);
    refused(bench.info_with(&operator, expired).await, Code::Unauthenticated, "expired 70 s ago");
    let future = |claims: &mut Claims| (claims.iat, claims.exp) = (claims.iat + 90, claims.iat + 120);
    refused(bench.info_with(&operator, future).await, Code::Unauthenticated, "the clocks differ by");
    let long = |claims: &mut Claims| claims.exp = claims.iat + 61;
    refused(bench.info_with(&operator, long).await, Code::Unauthenticated, "at most 60 s");
}

#[tokio::test]
async fn strangers_and_wrong_servers_are_refused_on_either_side() {
    let (bench, operator) = Bench::adopted().await;
    let stranger = self::operator();
    let error = info(&stranger.connect(&bench.target()).await.unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
    assert!(error.to_string().contains(stranger.key().key_id().as_str()), "{error}");
    let target = Target { fingerprint: Fingerprint::of(b"another"), ..bench.target() };
    let error = operator.connect(&target).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::PinMismatch);
    assert!(error.to_string().contains(&bench.target().fingerprint.to_string()), "{error}");
}

#[tokio::test]
async fn who_is_refused_often_is_limited_but_good_calls_from_there_go_through() {
    let (bench, operator) = Bench::adopted().await;
    let stranger = self::operator().connect(&bench.target()).await.unwrap();
    let mut limited = 0;
    for _ in 0..30 {
        limited += u32::from(info(&stranger).await.unwrap_err().code() == Some(Code::ResourceExhausted));
    }
    assert!((8..=10).contains(&limited), "{limited}");
    let found = info(&operator.connect(&bench.target()).await.unwrap()).await.unwrap();
    assert_eq!(found.refused_calls, 30);
}

#[tokio::test]
async fn roles_bound_what_a_key_may_do_and_a_removed_key_is_out_at_once() {
    let (bench, admin) = Bench::adopted().await;
    let viewer = operator();
    let add = |role: Role| v1::AddKeyRequest {
        public_key: viewer.key().public_key().to_vec(),
        name: "v".into(),
        role: role as i32,
    };
    let capsule = admin.connect(&bench.target()).await.unwrap();
    capsule.identity().add_key(add(Role::Viewer)).await.unwrap();
    let theirs = viewer.connect(&bench.target()).await.unwrap();
    info(&theirs).await.unwrap();
    let refusal = theirs.identity().add_key(add(Role::Admin)).await.unwrap_err();
    assert_eq!(refusal.code(), Code::PermissionDenied);
    assert!(refusal.message().contains("has role viewer"), "{refusal}");
    let key_id = viewer.key().key_id().to_string();
    capsule.identity().remove_key(v1::RemoveKeyRequest { key_id }).await.unwrap();
    assert_eq!(info(&theirs).await.unwrap_err().kind(), ErrorKind::Unauthenticated);
    let key_id = admin.key().key_id().to_string();
    let refusal = capsule.identity().remove_key(v1::RemoveKeyRequest { key_id }).await.unwrap_err();
    assert!(refusal.message().contains("last admin"), "{refusal}");
}

#[tokio::test]
async fn a_key_is_rotated_with_proof_of_the_new_one() {
    let (bench, old) = Bench::adopted().await;
    let new = operator();
    let capsule = old.connect(&bench.target()).await.unwrap();
    let request = |proof| v1::RotateKeyRequest { new_public_key: new.key().public_key().to_vec(), proof };
    let refusal = capsule.identity().rotate_key(request(vec![0; 64])).await.unwrap_err();
    assert_eq!(refusal.code(), Code::InvalidArgument);
    let proof = new.key().rotation_proof(bench.agent.identity().capsule_id(), old.key().key_id());
    capsule.identity().rotate_key(request(proof)).await.unwrap();
    assert_eq!(info(&capsule).await.unwrap_err().kind(), ErrorKind::Unauthenticated);
    info(&new.connect(&bench.target()).await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_fresh_sentinel_lets_one_more_operator_in_and_a_stale_one_nobody() {
    let (bench, first) = Bench::adopted().await;
    let sentinel = bench.dir.path().join(SENTINEL);
    std::fs::write(&sentinel, "").unwrap();
    let bench = bench.restart().await;
    assert!(!sentinel.exists());
    let second = operator();
    bench.adopt(&second).await.unwrap();
    assert!(bench.adopt(&operator()).await.is_err());
    info(&first.connect(&bench.target()).await.unwrap()).await.unwrap();
    let file = std::fs::File::create(&sentinel).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(601)).unwrap();
    let bench = bench.restart().await;
    assert!(sentinel.exists());
    assert!(bench.adopt(&operator()).await.is_err());
}
