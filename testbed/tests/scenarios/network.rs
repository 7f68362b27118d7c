//! Ports, names and who reaches whom.

use anyhow::{Result, ensure};
use testbed::{
    fixtures,
    registry::Access,
    scenario::{Fleet, http_get, tcp_echo, udp_echo},
};

fn echo(name: &str, rest: &str) -> String {
    format!("kind: Container\nname: {name}\ncontainer:\n  image: {}\n{rest}", fixtures::ECHO)
}

const PORTS: &str = "  ports:
    - { containerPort: 8080, hostPort: 8080 }
    - { containerPort: 7000, hostPort: 7000 }
    - { containerPort: 7000, hostPort: 7000, protocol: udp }
";

#[tokio::test]
async fn published_ports_answer_everybody_and_are_gone_with_their_workload() -> Result<()> {
    let fleet = Fleet::netns(2).await?;
    let a = fleet.capsule("a");
    a.apply(&echo("web", PORTS)).await?;
    ensure!(fleet.expect_reachable("web@a", 8080).await?.contains("web"));
    let raw = fleet.address("web@a", 7000)?;
    tokio::task::spawn_blocking(move || tcp_echo(raw, b"hello").and_then(|()| udp_echo(raw, b"hello")))
        .await??;
    let web = fleet.address("web@a", 8080)?;
    for capsule in ["a", "b"] {
        fleet.from_capsule(capsule, move || http_get(web, "/")).await?;
    }
    a.delete("web").await?;
    fleet.expect_unreachable("web@a", 8080).await?;
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn workloads_find_each_other_by_name_and_themselves_through_their_port() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    let address = fleet.address("a", 8080)?;
    a.apply(&echo("web", PORTS)).await?;
    let shell = format!(
        "kind: Container\nname: shell\ncontainer:\n  image: {}\n  command: [sleep, '1000']\n  stopGraceSeconds: 1\n",
        fixtures::BUSYBOX
    );
    a.apply(&shell).await?;
    let get = |url: String| {
        let a = a.clone();
        async move { a.exec("shell", &["wget", "-q", "-O", "-", &url]).await?.ok() }
    };
    ensure!(get("http://web:8080/".into()).await?.stdout.contains("web answers"));
    ensure!(get(format!("http://{address}/")).await?.stdout.contains("web answers"));
    let hairpin = get(format!("http://web:8080/get?{address}")).await?;
    ensure!(hairpin.stdout.contains("web answers"), "{}", hairpin.stdout);
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_picked_port_is_shown_and_kept_over_a_restart() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    a.apply(&echo("web", "  ports: [{ containerPort: 8080, hostPort: 0 }]\n")).await?;
    let port = |workload: &serde_json::Value| workload["status"]["ports"][0]["hostPort"].as_u64();
    let before = a.workload("web").await?;
    let picked = port(&before).filter(|port| *port > 0);
    ensure!(picked.is_some(), "no port was picked: {before}");
    fleet.expect_reachable("web@a", picked.unwrap_or_default() as u16).await?;
    a.fleetctl(&["workload", "restart", "web"]).await?.ok()?;
    let after = a.wait_running("web").await?;
    ensure!(port(&after) == picked && after["status"]["ipv4"] == before["status"]["ipv4"], "{after}");
    fleet.expect_reachable("web@a", picked.unwrap_or_default() as u16).await?;
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn ports_answer_while_the_agent_is_dead() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    a.apply(&echo("web", PORTS)).await?;
    a.kill_agent()?;
    fleet.expect_reachable("web@a", 8080).await?;
    a.start_agent().await?;
    a.wait_healthy().await?;
    fleet.expect_reachable("web@a", 8080).await?;
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_capsule_that_is_cut_off_is_a_row_with_its_error() -> Result<()> {
    let fleet = Fleet::builder(3).without_images().start().await?;
    fleet.capsule("b").partition()?;
    let some =
        fleet.fleetctl(&["--all", "--connect-timeout", "2s", "capsule", "info"]).await?.expect_code(3)?;
    ensure!(
        ["a ", "b ", "c "].iter().all(|name| some.stdout.lines().any(|line| line.starts_with(name))),
        "{some:?}"
    );
    let none = fleet.fleetctl(&["-c", "b", "--connect-timeout", "2s", "capsule", "info"]).await?;
    ensure!(none.code == 1, "{none:?}");
    fleet.capsule("b").heal()?;
    fleet.capsule("b").wait_healthy().await?;
    fleet.fleetctl(&["--all", "capsule", "info"]).await?.ok()?;
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn an_image_pulled_once_needs_its_registry_no_more() -> Result<()> {
    let fleet = Fleet::builder(1).without_images().start().await?;
    let a = fleet.capsule("a");
    let mut registry = fleet.registry(Access::Open)?;
    let reference = registry.push(&fixtures::echo()?, "team/echo", "1")?;
    let manifest = format!("kind: Container\nname: w\ncontainer: {{ image: '{reference}' }}\n");
    a.apply(&manifest).await?;
    registry.stop();
    a.fleetctl(&["workload", "restart", "w"]).await?.ok()?;
    a.wait_running("w").await?;
    fleet.passed();
    Ok(())
}
