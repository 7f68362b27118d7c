//! Images: from registries, from archives, and what becomes of them.

use std::{fs, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use testbed::{
    fixtures::{self, Image, Layer},
    registry::{Access, CREDENTIALS},
    scenario::{Capsule, Fleet, Output, eventually},
};

const MIB: u64 = 1 << 20;

pub(crate) fn container(name: &str, image: &str) -> String {
    format!("kind: Container\nname: {name}\ncontainer:\n  image: '{image}'\n  stopGraceSeconds: 1\n")
}

/// The echo image with so much of noise on top.
pub(crate) fn large(reference: &str, bytes: u64, seed: u64) -> Result<Image> {
    let mut layer = Layer::builder();
    layer.file("noise", 0o644, &fixtures::noise(bytes as usize, seed))?;
    Ok(fixtures::echo()?.layer(layer.finish()?).named(reference))
}

async fn images(capsule: &Capsule<'_>) -> Result<Vec<String>> {
    let listed = capsule.fleetctl(&["image", "list", "-o", "name"]).await?.ok()?;
    Ok(listed.stdout.lines().map(String::from).collect())
}

pub(crate) fn refused(output: Output, words: &[&str]) -> Result<()> {
    ensure!(output.code != 0, "it was not refused: {output:?}");
    let missing: Vec<_> = words.iter().filter(|word| !output.stderr.contains(**word)).collect();
    ensure!(missing.is_empty(), "{missing:?} are not in: {}", output.stderr);
    Ok(())
}

#[tokio::test]
async fn a_registry_that_wants_a_password_gets_it_from_the_call_or_from_the_capsule() -> Result<()> {
    let fleet = Fleet::builder(1).without_images().start().await?;
    let a = fleet.capsule("a");
    // Nothing was ever stored here.
    a.fleetctl(&["image", "prune"]).await?.ok()?;
    let registry = fleet.registry(Access::Password)?;
    let reference = registry.push(&fixtures::echo()?, "team/echo", "1")?;
    let (user, password) = CREDENTIALS;

    let pull = ["image", "pull", reference.as_str()];
    refused(a.fleetctl(&pull).await?, &["team/echo", "registries.json", &registry.host()])?;
    let with = ["image", "pull", reference.as_str(), "--username", user, "--password-file", "-"];
    refused(a.fleetctl_with(&with, b"wrong\n").await?, &["team/echo", "credentials"])?;
    let said = a.fleetctl_with(&with, format!("{password}\n").as_bytes()).await?.ok()?;
    ensure!(said.stdout.contains(&format!("pulled {reference}")), "{said:?}");
    a.fleetctl(&["image", "remove", &reference]).await?.ok()?;
    // As an argument it would be seen by everybody on the host.
    let argument = [&pull[..], &["--username", user, "--password", password]].concat();
    a.fleetctl(&argument).await?.expect_code(2)?;
    refused(a.fleetctl(&pull).await?, &["credentials"])?;

    let kept =
        serde_json::json!({ "auths": { registry.host(): { "username": user, "password": password } } });
    let path = a.state_dir().join("registries.json");
    fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?
        .write_all(kept.to_string().as_bytes())?;
    a.apply(&container("w", &reference)).await?;
    let unknown = reference.replace(":1", ":nine");
    refused(
        a.fleetctl(&["image", "pull", &unknown]).await?,
        &["nine", "team/echo", &registry.host(), "no such tag"],
    )?;
    let events = a.events().await?;
    ensure!(events.contains("Pulled") && events.contains("PullFailed"), "{events}");
    ensure!(!events.contains(password), "the password is told: {events}");
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_pull_that_kill_9_cut_off_goes_on_where_it_stopped() -> Result<()> {
    const SIZE: u64 = 48 * MIB;
    let fleet = Fleet::builder(1).without_images().start().await?;
    let a = fleet.capsule("a");
    let registry = fleet.registry(Access::Open)?;
    let pushed = registry.push(&large("large", SIZE, 1)?, "team/large", "1")?;
    let relay = fleet.relay(&registry.host(), 24 * MIB)?;
    let reference = pushed.replace(&registry.host(), &relay.host());

    let plain = a.fleetctl(&["image", "pull", &reference]).await?;
    refused(plain, &["--insecure-registry", &relay.host()])?;
    a.restart_agent_with(&["--insecure-registry", &relay.host()]).await?;
    a.wait_healthy().await?;

    let manifest = container("w", &reference);
    a.fleetctl_with(&["apply", "-f", "-"], manifest.as_bytes()).await?.ok()?;
    eventually(Duration::from_secs(20), async || {
        ensure!(relay.passed() > SIZE / 3, "only {} bytes have passed", relay.passed());
        Ok(())
    })
    .await?;
    let shown = a.workload("w").await?;
    ensure!(shown["status"]["phase"] == "PHASE_PULLING", "{shown}");
    a.restart_agent().await?;
    a.wait_running("w").await?;
    let passed = relay.passed();
    ensure!(passed < SIZE + SIZE / 4, "{passed} bytes were fetched of an image of {SIZE}");
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_mirror_is_asked_first_and_a_moved_tag_is_taken_when_it_is_pulled() -> Result<()> {
    let fleet = Fleet::builder(1).without_images().start().await?;
    let a = fleet.capsule("a");
    let registry = fleet.registry(Access::Open)?;
    registry.push(&fixtures::echo()?, "library/echo", "1")?;
    let mirror = format!("docker.io=http://{}", registry.host());
    a.restart_agent_with(&["--mirror", &mirror]).await?;
    a.wait_healthy().await?;
    let pulled = a.fleetctl(&["image", "pull", "echo:1"]).await?.ok()?;
    ensure!(pulled.stdout.contains("pulled docker.io/library/echo:1"), "{pulled:?}");
    a.apply(&container("w", "echo:1")).await?;
    let (pid, first) = (a.pid("w").await?, a.workload("w").await?["status"]["imageDigest"].clone());

    registry.push(&large("echo", MIB, 2)?, "library/echo", "1")?;
    a.apply(&container("w", "echo:1")).await?;
    ensure!(a.pid("w").await? == pid, "a tag that moved elsewhere restarted the workload");
    a.fleetctl(&["workload", "restart", "w"]).await?.ok()?;
    ensure!(a.wait_running("w").await?["status"]["imageDigest"] == first, "a restart asked the registry");
    a.fleetctl(&["image", "pull", "echo:1"]).await?.ok()?;
    ensure!(a.workload("w").await?["status"]["imageDigest"] == first, "a pull changed what runs");
    a.fleetctl(&["workload", "restart", "w"]).await?.ok()?;
    ensure!(a.wait_running("w").await?["status"]["imageDigest"] == first, "a restart took another image");
    a.delete("w").await?;
    a.apply(&container("w", "echo:1")).await?;
    ensure!(a.workload("w").await?["status"]["imageDigest"] != first, "what was pulled is not what runs");
    fleet.passed();
    Ok(())
}

fn gzip(path: &Path) -> Result<()> {
    let done = std::process::Command::new("gzip").args(["-1", "-k"]).arg(path).status()?;
    ensure!(done.success(), "gzip failed");
    Ok(())
}

#[tokio::test]
async fn archives_of_every_kind_are_taken_listed_kept_while_used_and_pruned() -> Result<()> {
    let fleet = Fleet::builder(1).without_images().start().await?;
    let (a, dir) = (fleet.capsule("a"), fleet.dir());
    let path = |name: &str| dir.join(name).display().to_string();
    let named = |name: &str| fixtures::echo().map(|image| image.named(name));
    named("localhost/oci:1")?.write_oci(Path::new(&path("oci.tar")))?;
    named("localhost/docker:1")?.write_docker(Path::new(&path("docker.tar")))?;
    named("localhost/zipped:1")?.write_docker(Path::new(&path("zipped.tar")))?;
    gzip(Path::new(&path("zipped.tar")))?;

    let said = a.fleetctl(&["image", "push", &path("oci.tar")]).await?.ok()?;
    ensure!(said.stdout.contains("pushed localhost/oci:1"), "{said:?}");
    let archive = fs::read(path("docker.tar"))?;
    a.fleetctl_with(&["image", "push", "-"], &archive).await?.ok()?;
    a.fleetctl_with(&["image", "push", "-", "--name", "localhost/other:2"], &archive).await?.ok()?;
    a.fleetctl(&["image", "push", &path("zipped.tar.gz")]).await?.ok()?;
    let all = ["docker:1", "oci:1", "other:2", "zipped:1"].map(|name| format!("localhost/{name}"));
    ensure!(images(&a).await? == all, "{:?}", images(&a).await?);

    let cut = a.fleetctl_with(&["image", "push", "-"], &archive[..archive.len() / 2]).await?;
    refused(cut, &["archive", "ends"])?;
    let mut spoilt = fs::read(path("oci.tar"))?;
    let middle = spoilt.len() / 2;
    spoilt[middle..middle + 64].fill(b'X');
    a.fleetctl(&["image", "prune"]).await?.ok()?;
    refused(a.fleetctl_with(&["image", "push", "-"], &spoilt).await?, &["does not match its digest"])?;
    refused(a.fleetctl_with(&["image", "push", "-"], b"no tar at all").await?, &["archive"])?;
    ensure!(images(&a).await?.is_empty(), "{:?}", images(&a).await?);

    a.fleetctl(&["image", "push", &path("oci.tar")]).await?.ok()?;
    a.fleetctl(&["image", "push", &path("docker.tar")]).await?.ok()?;
    a.apply(&container("w", "localhost/oci:1")).await?;
    refused(a.fleetctl(&["image", "remove", "localhost/oci:1"]).await?, &["workload w", "localhost/oci:1"])?;
    refused(a.fleetctl(&["image", "remove", "localhost/nowhere:1"]).await?, &["localhost/nowhere:1"])?;
    let pruned = a.fleetctl(&["image", "prune"]).await?.ok()?;
    ensure!(pruned.stdout.contains("removed localhost/docker:1"), "{pruned:?}");
    ensure!(images(&a).await? == ["localhost/oci:1"], "{:?}", images(&a).await?);
    a.fleetctl(&["workload", "restart", "w"]).await?.ok()?;
    a.wait_running("w").await?;
    a.delete("w").await?;
    a.fleetctl(&["image", "remove", "localhost/oci:1"]).await?.ok()?;
    ensure!(images(&a).await?.is_empty());
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_large_push_is_never_whole_in_the_agent_s_memory() -> Result<()> {
    let fleet = Fleet::builder(1).without_images().start().await?;
    let (a, archive) = (fleet.capsule("a"), fleet.dir().join("large.tar"));
    write_sparse_archive(&archive, 300 * MIB)?;
    let archive = archive.display().to_string();
    let small = fleet.dir().join("echo.tar");
    fixtures::echo()?.write_oci(&small)?;
    a.fleetctl(&["image", "push", &small.display().to_string()]).await?.ok()?;
    let agent = a.agent()?;
    agent.forget_peak()?;
    let before = agent.peak_bytes()?;
    let mut push = fleet.operator().command(&["-c", "a", "image", "push", &archive])?;
    let pushed = push.output().await?;
    ensure!(pushed.status.success(), "{}", String::from_utf8_lossy(&pushed.stderr));
    let grown = agent.peak_bytes()?.saturating_sub(before);
    ensure!(grown < 16 * MIB, "the agent grew by {} MiB during the push", grown / MIB);
    ensure!(images(&a).await?.contains(&"localhost/large:1".to_owned()));
    fleet.passed();
    Ok(())
}

/// A `docker save` of one layer of zeros: nothing of it is kept in this program's memory either.
fn write_sparse_archive(path: &Path, bytes: u64) -> Result<()> {
    let dir = path.parent().context("an archive has a directory")?;
    let script = "set -e; cd \"$1\"; mkdir -p large/root; truncate -s \"$2\" large/root/zeros; \
        tar -C large/root -cf large/layer.tar zeros; sum=$(sha256sum large/layer.tar | cut -d' ' -f1); \
        printf '{\"architecture\":\"%s\",\"os\":\"linux\",\"config\":{},\"rootfs\":{\"type\":\"layers\",\
        \"diff_ids\":[\"sha256:%s\"]}}' \"$3\" $sum > large/config.json; \
        config=$(sha256sum large/config.json | cut -d' ' -f1).json; mv large/config.json large/$config; \
        printf '[{\"Config\":\"%s\",\"RepoTags\":[\"localhost/large:1\"],\"Layers\":[\"layer.tar\"]}]' $config \
        > large/manifest.json; tar -C large -cf \"$4\" layer.tar $config manifest.json; rm -r large";
    let (dir, size) = (dir.display().to_string(), bytes.to_string());
    let made = std::process::Command::new("sh")
        .args(["-c", script, "sh", &dir, &size, fixtures::image::architecture()])
        .arg(path)
        .output()?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Ok(())
}

fn free_bytes(path: &Path) -> Result<u64> {
    let stat = nix::sys::statvfs::statvfs(path)?;
    Ok(stat.blocks_available() * stat.fragment_size())
}

#[tokio::test]
async fn a_push_onto_a_full_disk_is_refused_and_leaves_all_as_it_was() -> Result<()> {
    let fleet = Fleet::builder(1).disk("a", 192 * MIB).start().await?;
    let a = fleet.capsule("a");
    a.apply(&container("w", fixtures::ECHO)).await?;
    let pid = a.pid("w").await?;
    let path = fleet.dir().join("large.tar");
    large("localhost/large:1", 32 * MIB, 3)?.write_oci(&path)?;
    let archive = path.display().to_string();
    // First room for a part of the archive, then for the archive but not for what it unpacks to.
    for room in [12 * MIB, 44 * MIB] {
        a.fill_disk(room)?;
        let before = free_bytes(&a.state_dir())?;
        refused(a.fleetctl(&["image", "push", &archive]).await?, &["disk is full", "image prune"])?;
        let after = free_bytes(&a.state_dir())?;
        ensure!(after + MIB > before, "{before} bytes were free, {after} are now");
        ensure!(!images(&a).await?.contains(&"localhost/large:1".to_owned()));
        ensure!(a.pid("w").await? == pid, "the workload was disturbed");
        a.free_disk()?;
    }
    a.fleetctl(&["image", "push", &archive]).await?.ok()?;
    a.apply(&container("x", "localhost/large:1")).await?;
    fleet.passed();
    Ok(())
}
