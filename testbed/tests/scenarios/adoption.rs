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

/// `fleetctl adopt` on a terminal of its own, where `answer` is typed.
fn adopt_typing(operator: &testbed::scenario::Operator, api: &str, answer: &str) -> Result<(bool, String)> {
    let typed = format!("{} adopt {api} --name a", testbed::sys::program("fleetctl")?.display());
    let mut command = std::process::Command::new("script");
    command.args(["-qec", &typed, "/dev/null"]).env("FLEETCTL_CONFIG", operator.config());
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.spawn()?;
    let mut keyboard = child.stdin.take();
    if let Some(keyboard) = &mut keyboard {
        std::io::Write::write_all(keyboard, answer.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    Ok((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()))
}

#[tokio::test]
async fn adopting_by_hand_shows_the_fingerprint_and_asks() -> Result<()> {
    let fleet = Fleet::builder(1).unadopted().start().await?;
    let a = fleet.capsule("a");
    let api = a.api()?.to_string();
    let operator = fleet.operator();
    let unasked = fleet.fleetctl(&["adopt", &api, "--name", "a"]).await?.expect_code(2)?;
    ensure!(unasked.stderr.contains("--fingerprint"), "{}", unasked.stderr);
    let (adopted, said) = adopt_typing(operator, &api, "n\n")?;
    ensure!(!adopted && said.contains("not adopted: nothing was sent"), "{said}");
    let (adopted, said) = adopt_typing(operator, &api, "y\n")?;
    ensure!(adopted, "{said}");
    let info = a.fleetctl(&["capsule", "info", "-o", "json"]).await?.ok()?.json()?;
    let fingerprint = info["result"]["fingerprint"].as_str().unwrap_or_default();
    ensure!(!fingerprint.is_empty() && said.contains(fingerprint), "{fingerprint} was not shown: {said}");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(operator.config().join("key.pem"))?.permissions(),
    );
    ensure!(mode & 0o777 == 0o600, "the key has mode {mode:o}");
    fleet.passed();
    Ok(())
}
