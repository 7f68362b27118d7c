//! Registries that ask for tokens, and registries that speak TLS.

use std::{fs, os::unix::fs::PermissionsExt as _};

use anyhow::{Result, ensure};
use testbed::{
    fixtures,
    registry::{Access, CREDENTIALS, authority::Authority},
    scenario::Fleet,
};

use crate::images::{container, refused};

#[tokio::test]
async fn a_registry_that_wants_tokens_gets_those_that_its_service_gives() -> Result<()> {
    let fleet = Fleet::builder(1).without_images().start().await?;
    let a = fleet.capsule("a");
    let mut registry = fleet.registry(Access::Open)?;
    let reference = registry.push(&fixtures::echo()?, "team/echo", "1")?;
    let service = fleet.token_service()?;
    registry.serve(&mut fleet.testbed(), service.access())?;
    let (user, password) = CREDENTIALS;

    let pull = ["image", "pull", reference.as_str()];
    refused(a.fleetctl(&pull).await?, &["team/echo", "asked without credentials", "registries.json"])?;
    let with = ["image", "pull", reference.as_str(), "--username", user, "--password-file", "-"];
    let words = ["asked as user \"operator\"", "wrong user or password"];
    refused(a.fleetctl_with(&with, b"wrong\n").await?, &words)?;
    a.fleetctl_with(&with, password.as_bytes()).await?.ok()?;

    let kept = a.state_dir().join("registries.json");
    let keep = |entry: serde_json::Value| {
        fs::write(&kept, serde_json::json!({"auths": {registry.host(): entry}}).to_string())?;
        fs::set_permissions(&kept, fs::Permissions::from_mode(0o600))
    };
    keep(serde_json::json!({"registrytoken": "made-up"}))?;
    refused(a.fleetctl(&pull).await?, &["team/echo", "asked with a kept token"])?;
    keep(serde_json::json!({"username": user, "password": password}))?;
    a.fleetctl(&["image", "remove", &reference]).await?.ok()?;
    a.apply(&container("w", &reference)).await?;

    let host = service.host();
    drop(service);
    refused(a.fleetctl(&pull).await?, &[&registry.host(), "token service", &host, "refused"])?;
    ensure!(!a.events().await?.contains(password), "the password is told");
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_registry_with_a_certificate_is_pulled_from_where_its_authority_is_trusted() -> Result<()> {
    let fleet = Fleet::builder(1).without_images().start().await?;
    let a = fleet.capsule("a");
    let mut registry = fleet.registry(Access::Open)?;
    registry.push(&fixtures::echo()?, "team/echo", "1")?;
    let (lab, other) =
        (Authority::new(&fleet.dir().join("lab"))?, Authority::new(&fleet.dir().join("other"))?);
    registry.serve(&mut fleet.testbed(), lab.issue(registry.address().ip())?)?;
    let (host, reference) = (registry.host(), format!("{}/team/echo:1", registry.host()));
    let pull = ["image", "pull", reference.as_str()];

    let option = format!("--registry-ca {host}=FILE");
    refused(a.fleetctl(&pull).await?, &[&host, "issued its certificate", &option])?;
    let file = fleet.dir().join("trusted.crt");
    let trusted = format!("{host}={}", file.display());
    a.restart_agent_with(&["--registry-ca", &trusted]).await?;
    a.wait_healthy().await?;
    refused(a.fleetctl(&pull).await?, &["--registry-ca", "trusted.crt", "No such file"])?;
    // Read at every pull: nothing is restarted from here on.
    fs::copy(other.certificate(), &file)?;
    refused(a.fleetctl(&pull).await?, &[&host, "issued its certificate"])?;
    fs::copy(lab.certificate(), &file)?;
    a.fleetctl(&pull).await?.ok()?;
    a.apply(&container("w", &reference)).await?;

    // A certificate that is issued for somebody else is not good for this one.
    registry.serve(&mut fleet.testbed(), lab.issue("192.0.2.1".parse()?)?)?;
    refused(a.fleetctl(&pull).await?, &[&host, "not valid for name"])?;
    fleet.passed();
    Ok(())
}
