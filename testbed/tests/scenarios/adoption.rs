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
async fn adopting_again_is_the_answer_repeated() -> Result<()> {
    let fleet = Fleet::builder(1).unadopted().start().await?;
    let api = fleet.capsule("a").api()?.to_string();
    for was_enrolled in [false, true] {
        let words = ["adopt", &api, "--name", "a", "--yes", "-o", "json"];
        let adopted = fleet.fleetctl(&words).await?.ok()?.json()?;
        ensure!(adopted["result"]["wasEnrolled"] == was_enrolled, "{adopted}");
    }
    let again = fleet.fleetctl(&["adopt", &api, "--name", "a", "--yes"]).await?.ok()?.stdout;
    ensure!(again.contains("a: knew your key already"), "{again}");
    let events = fleet.capsule("a").fleetctl(&["events"]).await?.ok()?.stdout;
    ensure!(events.matches("adopted this capsule from").count() == 1, "{events}");
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
    ensure!(intruder.code != 0, "{intruder:?}");
    for words in ["has been adopted already", "by key", "fleetctl key add"] {
        ensure!(refusal.stderr.contains(words), "{words:?} is not in: {}", refusal.stderr);
    }
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
    ensure!(!adopted && said.contains("not confirmed: nothing was sent"), "{said}");
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

#[tokio::test]
async fn a_second_operator_joins_with_a_key_that_an_admin_adds() -> Result<()> {
    let fleet = Fleet::builder(1).unadopted().start().await?;
    let a = fleet.capsule("a");
    let api = a.api()?.to_string();
    let second = fleet.other_operator("second");
    let shown = second.run(&["key", "show"]).await?.ok()?;
    ensure!(
        shown.stdout.starts_with("capsule-ed25519 ") && shown.stderr.contains("made your key"),
        "{shown:?}"
    );
    let again = second.run(&["key", "show"]).await?.ok()?;
    ensure!(again.stdout == shown.stdout && !again.stderr.contains("made your key"), "{again:?}");

    let add = ["context", "add", &api, "--name", "nuc", "--yes"];
    second.run(&add).await?.expect_code(1)?;
    a.adopt().await?;
    let early = second.run(&add).await?.expect_code(1)?.stderr;
    ensure!(early.contains("not enrolled") && early.contains("fleetctl key add"), "{early}");
    ensure!(second.run(&["context", "list", "-o", "name"]).await?.ok()?.stdout.is_empty());

    for wrong in ["ssh-ed25519 AAAA x", "capsule-ed25519 AAAA x", "/no/such/file"] {
        let said = a.fleetctl_with(&["key", "add", "-", "--role", "viewer"], wrong.as_bytes()).await?;
        ensure!(said.expect_code(2)?.stderr.contains("`fleetctl key show` prints"), "{wrong}");
    }
    let missing = a.fleetctl(&["key", "add", "/no/such/file", "--role", "viewer"]).await?.expect_code(2)?;
    ensure!(missing.stderr.contains("`fleetctl key show` prints"), "{missing:?}");
    let unsaid = a.fleetctl(&["key", "add", "-"]).await?.expect_code(2)?.stderr;
    ensure!(unsaid.contains("viewer|operator|admin"), "{unsaid}");
    let added = a.fleetctl_with(&["key", "add", "-", "--role", "operator"], shown.stdout.as_bytes()).await?;
    let told = added.ok()?.stderr;
    let next = told.split('`').nth(1).unwrap_or_default().strip_prefix("fleetctl ").unwrap_or_default();
    ensure!(next.starts_with("context add ") && next.contains(" --fingerprint "), "{told}");

    let wrong = "00".repeat(32);
    let refused = second.run(&["context", "add", &api, "--fingerprint", &wrong]).await?.expect_code(1)?;
    ensure!(refused.stderr.contains("is not the capsule you mean"), "{refused:?}");
    let words: Vec<&str> = next.split(' ').chain(["--name", "nuc", "--label", "zone=attic"]).collect();
    second.run(&words).await?.ok()?;
    let whoami = second.run(&["-l", "zone=attic", "whoami"]).await?.ok()?.stdout;
    ensure!(whoami.contains("nuc ") && whoami.contains("operator"), "{whoami}");
    second.run(&["-c", "nuc", "ps"]).await?.ok()?;
    let refused = second.run(&["-c", "nuc", "key", "add", shown.stdout.trim(), "--role", "admin"]).await?;
    ensure!(refused.expect_code(1)?.stderr.contains("to enroll keys it needs role admin"));
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn the_name_of_a_context_is_settled_before_a_capsule_is_adopted() -> Result<()> {
    let fleet = Fleet::builder(2).unadopted().start().await?;
    let (a, b) = (fleet.capsule("a").api()?.to_string(), fleet.capsule("b").api()?.to_string());
    let adopt =
        async |api: &str, words: &[&str]| fleet.fleetctl(&[&["adopt", api, "--yes"], words].concat()).await;
    let bad = adopt(&a, &["--name", "a b"]).await?.expect_code(2)?.stderr;
    ensure!(bad.contains("cannot name a context"), "{bad}");
    let other = fleet.other_operator("other");
    other.run(&["adopt", &a, "--yes", "--name", "b"]).await?.ok()?;
    let taken = other.run(&["adopt", &b, "--yes", "--name", "b"]).await?.expect_code(2)?.stderr;
    ensure!(taken.contains("there is a context \"b\" already"), "{taken}");

    let renamed = other.run(&["adopt", &b, "--yes"]).await?.ok()?;
    ensure!(renamed.stdout.starts_with("capsule-"), "{renamed:?}");
    let why = ["there is a context b already", "fleetctl context rename capsule-"];
    ensure!(why.iter().all(|words| renamed.stderr.contains(words)), "{renamed:?}");
    other.run(&["adopt", &a, "--yes", "--name", "b"]).await?.ok()?;
    let moved = other.run(&["adopt", &a, "--yes", "--name", "attic"]).await?.ok()?;
    ensure!(moved.stderr.contains("was called b before"), "{moved:?}");
    fleet.passed();
    Ok(())
}
