//! The first meeting with a capsule: see its fingerprint, have the operator's key enrolled,
//! remember the capsule.

use capsule_proto::{
    Fingerprint, KeyId,
    v1::{AdoptRequest, WhoAmIRequest, identity_client::IdentityClient},
};
use tonic::Code;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{Address, CallError, Capsule, Connector, Context, Target};

/// What a capsule shows to anyone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Where it was met.
    pub address: Address,
    /// SHA-256 of its certificate, as seen on the wire.
    pub fingerprint: Fingerprint,
    /// UUID, from the certificate.
    pub capsule_id: String,
}

/// A capsule that knows the operator's key.
#[derive(Clone, Debug)]
pub struct Adopted {
    /// `capsule-a3f2`.
    pub short_id: String,
    /// The host's name.
    pub hostname: String,
    /// As the capsule named it.
    pub key_id: KeyId,
    /// What to remember.
    pub context: Context,
    /// Whether the key was enrolled before this call.
    pub was_enrolled: bool,
}

/// Looks at a capsule without trusting it.
pub async fn probe(connector: &Connector, address: &Address) -> Result<Probe, CallError> {
    let stream = connector.dial(address, None).await?;
    let no_capsule = |reason: &str| CallError::Tls { address: address.clone(), reason: reason.into() };
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let der = chain.first().ok_or_else(|| no_capsule("it shows no certificate"))?;
    let (_, certificate) = X509Certificate::from_der(der).map_err(|e| no_capsule(&e.to_string()))?;
    let name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    let capsule_id = name.filter(|name| uuid::Uuid::try_parse(name).is_ok());
    let capsule_id = capsule_id.ok_or_else(|| no_capsule("its certificate names no capsule"))?.to_owned();
    Ok(Probe { address: address.clone(), fingerprint: Fingerprint::of(der), capsule_id })
}

/// Enrolls the connector's key, whatever the operator calls it, at the capsule that was probed.
/// A key that is enrolled already (an answer was lost; another operator added it) is no error.
pub async fn adopt(connector: &Connector, probe: &Probe, key_name: &str) -> Result<Adopted, CallError> {
    claim(connector, probe, key_name, false).await
}

/// The same at an installer: what it installs is then the connector's key's.
pub async fn claim_installer(
    connector: &Connector,
    probe: &Probe,
    key_name: &str,
) -> Result<Adopted, CallError> {
    claim(connector, probe, key_name, true).await
}

async fn claim(
    connector: &Connector,
    probe: &Probe,
    key_name: &str,
    to_install: bool,
) -> Result<Adopted, CallError> {
    let channel = connector.channel(&probe.address, Some(probe.fingerprint)).await?;
    let public_key = connector.key().public_key().to_vec();
    let request = AdoptRequest { public_key, key_name: key_name.into(), to_install };
    let answer = match IdentityClient::new(channel.clone()).adopt(request).await {
        Ok(answer) => answer.into_inner(),
        Err(refusal) if refusal.code() == Code::FailedPrecondition => {
            // Where credentials do not work either, the refusal of the adoption counts.
            return enrolled(connector, probe, channel).await.map_err(|_| refusal.into());
        }
        Err(refusal) => return Err(refusal.into()),
    };
    let same = answer.fingerprint == probe.fingerprint.to_string() && answer.capsule_id == probe.capsule_id;
    if !same {
        return Err(CallError::Answer(format!(
            "the capsule says that its fingerprint is {} and its id {}, but the wire showed {} and {}; somebody may \
             be in between",
            answer.fingerprint, answer.capsule_id, probe.fingerprint, probe.capsule_id
        )));
    }
    Ok(Adopted {
        short_id: answer.short_id,
        hostname: answer.hostname,
        key_id: connector.key().key_id().clone(),
        context: context(probe),
        was_enrolled: answer.was_enrolled,
    })
}

/// Meets a capsule on which an admin has enrolled the connector's key. Never claims one.
pub async fn join(connector: &Connector, probe: &Probe) -> Result<Adopted, CallError> {
    let channel = connector.channel(&probe.address, Some(probe.fingerprint)).await?;
    enrolled(connector, probe, channel).await
}

/// Asks with credentials.
async fn enrolled(
    connector: &Connector,
    probe: &Probe,
    channel: tonic::transport::Channel,
) -> Result<Adopted, CallError> {
    let target = Target {
        name: probe.address.to_string(),
        address: probe.address.clone(),
        capsule_id: probe.capsule_id.clone(),
        fingerprint: probe.fingerprint,
    };
    let capsule = Capsule::new(target, channel, connector.key().clone());
    let answer = capsule.identity().who_am_i(WhoAmIRequest {}).await?.into_inner();
    Ok(Adopted {
        short_id: answer.short_id,
        hostname: answer.hostname,
        key_id: connector.key().key_id().clone(),
        context: context(probe),
        was_enrolled: true,
    })
}

impl Adopted {
    /// As a target, under this name.
    pub fn target(&self, name: &str) -> Target {
        let Context { address, capsule_id, fingerprint, .. } = self.context.clone();
        Target { name: name.into(), address, capsule_id, fingerprint }
    }
}

fn context(probe: &Probe) -> Context {
    Context {
        address: probe.address.clone(),
        capsule_id: probe.capsule_id.clone(),
        fingerprint: probe.fingerprint,
        groups: Default::default(),
        labels: Default::default(),
    }
}
