//! Registries that ask for tokens, and registries that speak TLS.

use std::{fs, os::unix::fs::PermissionsExt as _};

use anyhow::{Result, ensure};
use testbed::{
    fixtures::{self, archive::Compression},
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

#[tokio::test]
async fn layers_and_archives_in_zstd_are_pushed_pulled_and_run() -> Result<()> {
    let fleet = Fleet::builder(1).without_images().start().await?;
    let a = fleet.capsule("a");
    let image = fixtures::echo()?.named("localhost/zstd:1");
    let layers = fleet.dir().join("layers.tar");
    image.write_oci_of(&layers, Compression::Zstd)?;
    a.fleetctl(&["image", "push", &layers.display().to_string()]).await?.ok()?;
    a.apply(&container("pushed", "localhost/zstd:1")).await?;
    a.delete("pushed").await?;
    a.fleetctl(&["image", "prune"]).await?.ok()?;

    let registry = fleet.registry(Access::Open)?;
    let reference = registry.push_blobs(image.blobs(Compression::Zstd)?, "team/zstd", "1")?;
    a.apply(&container("pulled", &reference)).await?;
    a.delete("pulled").await?;
    a.fleetctl(&["image", "prune"]).await?.ok()?;

    let plain = fleet.dir().join("plain.tar");
    image.write_oci(&plain)?;
    let whole = zstd::encode_all(fs::read(&plain)?.as_slice(), 1)?;
    a.fleetctl_with(&["image", "push", "-"], &whole).await?.ok()?;
    a.apply(&container("whole", "localhost/zstd:1")).await?;
    let cut = a.fleetctl_with(&["image", "push", "-"], &whole[..whole.len() / 2]).await?;
    refused(cut, &["archive"])?;
    fleet.passed();
    Ok(())
}
