//! What members show of the fabric, and what is left of it where one leaves.

use std::{
    fs::{self, File},
    io::Write as _,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::pty::openpty;
use serde_json::Value;
use testbed::{
    scenario::{Capsule, Fleet, Output, echo, eventually},
    sys::run,
};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::mesh::{addresses, device, enroll, fabric_of, mesh, place, reaches, status};

/// For probes and handshakes on a machine that has much else to do.
const LIMIT: Duration = Duration::from_mins(1);

#[tokio::test]
async fn status_shows_every_pair_once_or_again_and_again_and_who_does_not_answer() -> Result<()> {
    let fleet = mesh(3).await?;
    let table = eventually(LIMIT, async || {
        let shown = fleet.fleetctl(&["fabric", "status"]).await?.ok()?.stdout;
        ensure!(shown.matches(" direct ").count() == 6, "{shown}");
        Ok(shown)
    })
    .await?;
    let heading = table.lines().next().unwrap_or_default();
    let columns: Vec<&str> = heading.split_whitespace().collect();
    ensure!(
        columns
            == [
                "CAPSULE",
                "MAP",
                "ADDRESS",
                "PEER",
                "PATH",
                "RTT",
                "LOSS",
                "HANDSHAKE",
                "RECEIVED",
                "SENT",
                "ENDPOINT"
            ],
        "{heading}"
    );
    ensure!(table.lines().skip(1).all(|row| row.contains("ms ") && row.contains('%')), "{table}");
    let wide = fleet.fleetctl(&["fabric", "status", "a", "-o", "wide"]).await?.ok()?.stdout;
    ensure!(wide.contains(" cw-") && wide.contains(" 1420"), "{wide}");

    fleet.capsule("c").kill_agent()?;
    let words = ["--timeout", "2s", "-o", "json", "fabric", "status"];
    let json = fleet.fleetctl(&words).await?.expect_code(3)?.stdout;
    let rows = json.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    ensure!(rows.len() == 3, "{json}");
    for row in rows {
        let is_away = row["capsule"] == "c";
        ensure!(row["ok"] != is_away, "{row}");
        let peers = row["result"]["membership"]["peers"].as_array().map_or(0, Vec::len);
        ensure!(peers == if is_away { 0 } else { 2 }, "{row}");
    }

    let mut watch = fleet.operator().command(&["-o", "json", "fabric", "status", "a", "--watch"])?;
    let mut watch = watch.stdout(Stdio::piped()).stdin(Stdio::null()).spawn()?;
    let mut lines = BufReader::new(watch.stdout.take().context("no stdout")?).lines();
    for _ in 0..2 {
        let line = tokio::time::timeout(LIMIT, lines.next_line()).await.context("it stands still")??;
        let look: Value = serde_json::from_str(&line.context("it ended by itself")?)?;
        ensure!(look["capsule"] == "a" && look["ok"] == true, "{look}");
    }
    watch.kill().await?;
    fleet.passed();
    Ok(())
}

/// `fleetctl` on a terminal where somebody types this.
async fn typed(fleet: &Fleet, words: &[&str], answer: &str) -> Result<Output> {
    let pty = openpty(None, None)?;
    let mut command = fleet.operator().command(words)?;
    let child = command.stdin(pty.slave).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut keyboard = File::from(pty.master);
    keyboard.write_all(answer.as_bytes())?;
    let started = std::time::Instant::now();
    let output = tokio::time::timeout(LIMIT, child.wait_with_output()).await.context("it hangs")??;
    Ok(Output {
        command: words.join(" "),
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        elapsed: started.elapsed(),
    })
}

/// What the host of a capsule has of the fabric.
async fn traces(fleet: &Fleet, capsule: &Capsule<'_>) -> Result<Vec<String>> {
    let looks = [
        ("link", ["ip", "-o", "link", "show"], "cw-"),
        ("route", ["ip", "-4", "route", "show"], "100.64."),
        ("address", ["ip", "-o", "address", "show"], "100.64."),
        ("table", ["nft", "list", "tables", "inet"], "_fabric"),
    ];
    let shown = fleet.from_capsule(capsule.name(), move || {
        let show = |(what, words, sign): (&str, [&str; 4], &str)| {
            let text = run(Command::new(words[0]).args(&words[1..]), "")?;
            let found = text.lines().filter(|line| line.contains(sign));
            anyhow::Ok(found.map(|line| format!("{what} {line}")).collect::<Vec<_>>())
        };
        Ok(looks.into_iter().map(show).collect::<Result<Vec<_>>>()?.concat())
    });
    let mut found = shown.await?;
    found.extend(device(capsule)?.map(|device| format!("device {device:?}")));
    let files = fs::read_dir(capsule.state_dir().join("fabric"))?;
    let names = files.map(|file| Ok(file?.file_name().to_string_lossy().into_owned()));
    let names = names.collect::<Result<Vec<String>>>()?;
    found.extend(names.into_iter().filter(|name| name.contains("key")));
    Ok(found)
}

#[tokio::test]
async fn who_is_reset_keeps_nothing_of_the_fabric_and_may_come_back() -> Result<()> {
    let fleet = enroll(Fleet::netns(2).await?).await?;
    let (a, b) = (fleet.capsule("a"), fleet.capsule("b"));
    let published =
        "  ports: [{ containerPort: 8080, hostPort: 8080 }]\n  fabric: { allowFrom: ['host@a'] }\n";
    b.apply(&echo("web", published)).await?;
    let (own, web) = (addresses(&b).await?, place(&b, "web").await?);
    for address in web {
        reaches(&a, address).await?;
    }
    let before = traces(&fleet, &b).await?;
    for what in ["link", "route", "address", "table", "wireguard.key"] {
        ensure!(before.iter().any(|trace| trace.starts_with(what)), "no {what}: {before:?}");
    }

    let reset = ["fabric", "reset", "b"];
    let unasked = fleet.fleetctl(&reset).await?.expect_code(2)?;
    ensure!(unasked.stderr.contains("--yes"), "{}", unasked.stderr);
    let denied = typed(&fleet, &reset, "n\n").await?.expect_code(1)?;
    ensure!(denied.stderr.contains("[y/N]") && denied.stderr.contains("nothing was changed"), "{denied:?}");
    ensure!(traces(&fleet, &b).await? == before, "it has left all the same");
    let left = typed(&fleet, &reset, "y\n").await?.ok()?;
    ensure!(left.stderr.contains("fabric remove"), "{left:?}");
    ensure!(status(&b).await?["membership"].is_null(), "it is still a member");
    let after = traces(&fleet, &b).await?;
    ensure!(after.is_empty(), "left behind: {after:?}");

    // Its workload is where it was, but for the fabric.
    fleet.expect_reachable("web@b", 8080).await?;
    let inside = b.inside("web", || run(Command::new("ip").args(["-o", "address"]), "")).await?;
    ensure!(web.iter().all(|address| !inside.contains(&address.to_string())), "{inside}");
    let problem = fabric_of(&b, "web").await?["problem"].clone();
    ensure!(problem.as_str().is_some_and(|text| text.contains("in no fabric")), "{problem}");
    b.restart_agent().await?;
    ensure!(traces(&fleet, &b).await?.is_empty(), "the next agent brings it back");

    fleet.fleetctl(&["fabric", "enroll", "b", "--yes"]).await?.ok()?;
    ensure!(addresses(&b).await? == own, "it has come back elsewhere");
    eventually(LIMIT, async || {
        ensure!(place(&b, "web").await? == web, "its workload has come back elsewhere");
        Ok(())
    })
    .await?;
    for address in own.iter().chain(&web) {
        reaches(&a, *address).await?;
    }
    fleet.passed();
    Ok(())
}
