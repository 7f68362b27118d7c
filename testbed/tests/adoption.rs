//! Who may talk to a capsule.

use anyhow::{Result, ensure};
use testbed::scenario::Fleet;

#[tokio::test]
async fn an_operator_adopts_a_capsule_and_is_known_to_it() -> Result<()> {
    let fleet = Fleet::builder(1).unadopted().start().await?;
    let a = fleet.capsule("a");
    let before = fleet.fleetctl(&["-c", &a.api()?.to_string(), "capsule", "info"]).await?;
    ensure!(before.code != 0, "an unadopted capsule answered: {}", before.stdout);
    a.adopt().await?;
    let whoami = a.fleetctl(&["whoami"]).await?.ok()?;
    ensure!(whoami.stdout.contains("admin"), "{}", whoami.stdout);
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn of_two_operators_who_race_exactly_one_adopts() -> Result<()> {
    let fleet = Fleet::builder(1).unadopted().start().await?;
    let api = fleet.capsule("a").api()?.to_string();
    let words = ["adopt", &api, "--name", "a", "--yes"];
    let (first, second) = (fleet.other_operator("first"), fleet.other_operator("second"));
    let (one, two) = tokio::join!(first.run(&words), second.run(&words));
    let (one, two) = (one?, two?);
    ensure!((one.code == 0) != (two.code == 0), "{one:?}\n{two:?}");
    let (winner, loser, refusal) = if one.code == 0 { (first, second, two) } else { (second, first, one) };
    winner.run(&["-c", "a", "whoami"]).await?.ok()?;
    let intruder = loser.run(&["-c", &api, "whoami"]).await?;
    ensure!(intruder.code != 0 && !refusal.stderr.is_empty(), "{intruder:?}");
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn adoption_outlives_the_agent_and_the_claim_window_stays_closed() -> Result<()> {
    let fleet = Fleet::builder(1).unadopted().start().await?;
    let a = fleet.capsule("a");
    a.adopt().await?;
    a.restart_agent().await?;
    a.wait_healthy().await?;
    let api = a.api()?.to_string();
    let late = fleet.other_operator("late").run(&["adopt", &api, "--name", "a", "--yes"]).await?;
    ensure!(late.code != 0, "a second operator adopted an adopted capsule: {}", late.stdout);
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_wrong_fingerprint_adopts_nothing() -> Result<()> {
    let fleet = Fleet::builder(1).unadopted().start().await?;
    let a = fleet.capsule("a");
    let api = a.api()?.to_string();
    let wrong = "00".repeat(32);
    let refused = fleet.fleetctl(&["adopt", &api, "--name", "a", "--fingerprint", &wrong]).await?;
    ensure!(refused.code != 0, "{}", refused.stdout);
    a.adopt().await?;
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn the_recovery_file_reopens_the_claim_window_once() -> Result<()> {
    let fleet = Fleet::builder(1).unadopted().start().await?;
    let a = fleet.capsule("a");
    a.adopt().await?;
    a.stop_agent()?;
    let sentinel = a.state_dir().join("reopen-claim-window");
    std::fs::write(&sentinel, "")?;
    a.start_agent().await?;
    ensure!(!sentinel.exists(), "the recovery file was not consumed");
    let api = a.api()?.to_string();
    let heir = fleet.other_operator("heir");
    heir.run(&["adopt", &api, "--name", "a", "--yes"]).await?.ok()?;
    heir.run(&["-c", "a", "whoami"]).await?.ok()?;
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_second_agent_on_the_same_state_directory_names_the_first() -> Result<()> {
    let fleet = Fleet::builder(1).unadopted().start().await?;
    let a = fleet.capsule("a");
    let agent = a.agent()?;
    let second = std::process::Command::new(testbed::sys::program("capsuled")?)
        .arg("--state-dir")
        .arg(a.state_dir())
        .args(["--listen", "127.0.0.1:0"])
        .output()?;
    let said = String::from_utf8_lossy(&second.stderr);
    ensure!(!second.status.success(), "two agents share a state directory");
    ensure!(said.contains(&agent.pid.to_string()), "the first agent ({}) is not named: {said}", agent.pid);
    ensure!(agent.is_alive(), "the first agent ended");
    fleet.passed();
    Ok(())
}
