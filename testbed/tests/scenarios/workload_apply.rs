//! What apply changes, what it leaves alone, what it refuses.

use std::net::TcpListener;

use anyhow::{Result, ensure};
use testbed::scenario::{Capsule, FOREVER, Fleet, Output, echo, labelled, shell};

const NEVER: &str = "  restartPolicy: never\n";

async fn with(a: &Capsule<'_>, words: &[&str], manifests: &str) -> Result<Output> {
    a.fleetctl_with(words, manifests.as_bytes()).await
}

#[tokio::test]
async fn apply_changes_what_changed_and_leaves_the_rest_alone() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    ensure!(a.apply(&shell("w", FOREVER, "")).await?.stdout.contains("created w"));
    let first = a.pid("w").await?;

    let changed = shell("w", FOREVER, "  env: { NEW: 'yes' }\n");
    let foreseen = with(&a, &["apply", "-f", "-", "--dry-run"], &changed).await?.ok()?.stdout;
    ensure!(foreseen.contains("would recreate w"), "{foreseen}");
    let diff = with(&a, &["diff", "-f", "-", "--exit-code"], &changed).await?.expect_code(4)?.stdout;
    let steps = [&*format!("> ask PID {first} of w to end"), "> remove the sandbox of w", "> start w"];
    let fields =
        ["would recreate w", "+ container.env[0].name: \"NEW\"", "+ container.env[0].value: \"yes\""];
    for expected in fields.iter().chain(&steps) {
        ensure!(diff.contains(expected), "diff does not say {expected:?}:\n{diff}");
    }
    ensure!(a.pid("w").await? == first, "a dry run or a diff touched the workload");

    let same = shell("w", FOREVER, "  restartPolicy: always\n  networkMode: bridge\n");
    ensure!(with(&a, &["diff", "-f", "-", "--exit-code"], &same).await?.ok()?.stdout.is_empty());
    ensure!(a.apply(&same).await?.stdout.contains("unchanged w"), "a default written out is no change");
    ensure!(a.apply(&labelled("{ app: site }", &same)).await?.stdout.contains("updated w"));
    ensure!(a.workload("w").await?["manifest"]["labels"]["app"] == "site");
    ensure!(a.pid("w").await? == first, "nothing that runs changed, and yet it was restarted");

    let changed = labelled("{ app: site }", &changed);
    ensure!(a.apply(&changed).await?.stdout.contains("recreated w"));
    ensure!(a.pid("w").await? != first, "a changed manifest did not recreate the workload");
    ensure!(a.exec("w", &["sh", "-c", "echo $NEW"]).await?.ok()?.stdout == "yes\n");

    let old = labelled("{ app: site }", &shell("old", FOREVER, ""));
    a.apply(&format!("{old}---\n{}", shell("other", FOREVER, ""))).await?;
    let prune = ["apply", "-f", "-", "--prune", "app=site"];
    let foreseen = with(&a, &[&prune[..], &["--dry-run"]].concat(), &changed).await?.ok()?.stdout;
    ensure!(foreseen.contains("would delete old"), "{foreseen}");
    a.wait_running("old").await?;
    let pruned = with(&a, &prune, &changed).await?.ok()?.stdout;
    let names = a.fleetctl(&["ps", "-o", "name"]).await?.ok()?.stdout;
    ensure!(pruned == "unchanged w\ndeleted old\n", "{pruned}");
    ensure!(names == "other\nw\n", "deleted means gone: {names}");
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn deleted_is_said_of_what_is_gone() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    let stubborn = "trap '' TERM; while :; do sleep 1; done";
    let old = |name: &str, grace: &str| {
        labelled("{ app: site }", &shell(name, stubborn, &format!("  stopGraceSeconds: {grace}\n")))
    };
    let new = labelled("{ app: site }", &shell("new", FOREVER, ""));
    a.apply(&format!("{}---\n{}---\n{new}", old("slow", "60"), old("other", "60"))).await?;
    let asked = a.fleetctl(&["workload", "delete", "other", "--no-wait"]).await?.ok()?.stdout;
    ensure!(asked == "deleting other\n", "{asked}");
    let prune = ["apply", "-f", "-", "--prune", "app=site"];
    let asked = with(&a, &[&prune[..], &["--no-wait"]].concat(), &new).await?.ok()?.stdout;
    ensure!(asked == "unchanged new\ndeleting slow\n", "{asked}");
    a.apply(&old("late", "60")).await?;
    let waited = with(&a, &[&prune[..], &["--timeout", "1s"]].concat(), &new).await?.expect_code(1)?;
    ensure!(waited.stdout == "unchanged new\ndeleting late\n", "{waited:?}");
    ensure!(waited.stderr.contains("workload late is not gone"), "{waited:?}");
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn apply_leaves_stopped_what_an_operator_stopped_and_says_so() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    a.apply(&shell("w", FOREVER, "")).await?;
    a.fleetctl(&["workload", "stop", "w"]).await?.ok()?;
    let next = "(stays stopped; `fleetctl workload start w` starts it)";
    let changed = shell("w", FOREVER, "  env: { NEW: 'yes' }\n");
    let foreseen = with(&a, &["apply", "-f", "-", "--dry-run"], &changed).await?.ok()?.stdout;
    ensure!(foreseen == format!("would recreate w {next}\n"), "{foreseen}");
    let applied = with(&a, &["apply", "-f", "-"], &changed).await?.ok()?.stdout;
    ensure!(applied == format!("recreated w {next}\n"), "{applied}");
    let waited = with(&a, &["apply", "-f", "-", "--wait"], &changed).await?.expect_code(1)?;
    ensure!(waited.stdout == format!("unchanged w {next}\n"), "{waited:?}");
    ensure!(waited.stderr.contains("w is not ready: it stays stopped"), "{waited:?}");
    ensure!(a.phase("w").await? == "PHASE_STOPPED");
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn apply_waits_for_ready_and_says_what_is_in_its_way() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    let wait = ["apply", "-f", "-", "--wait", "--timeout", "3s"];
    // Without the probe it would count as ready in the instant before it ends.
    let probed = format!("{NEVER}  readiness: {{ tcp: {{ port: 80 }} }}\n");
    let fails = shell("fails", "echo cannot read my settings >&2; exit 3", &probed);
    let failed = with(&a, &wait, &fails).await?.expect_code(1)?.stderr;
    ensure!(failed.contains("exit code 3") && failed.contains("cannot read my settings"), "{failed}");
    let unready = echo("unready", "  readiness: { http: { port: 8080, path: /nowhere } }\n");
    let failed = with(&a, &wait, &unready).await?.expect_code(1)?.stderr;
    ensure!(failed.contains("answered status 404") && failed.contains("/nowhere"), "{failed}");
    let missing = "kind: Container\nname: missing\ncontainer: { image: '127.0.0.1:1/none:1' }\n";
    let failed = with(&a, &wait, missing).await?.expect_code(1)?.stderr;
    ensure!(failed.contains("127.0.0.1:1/none:1"), "{failed}");

    let good = shell("good", FOREVER, "");
    let all = format!("{good}---\n{unready}---\n{missing}");
    let wait = [&wait[..4], &["--timeout", "1s"]].concat();
    let both = with(&a, &wait, &all).await?.expect_code(1)?;
    ensure!(both.stdout == "created good\nunchanged unready\nunchanged missing\n", "{both:?}");
    let of =
        |name: &str| both.stderr.lines().any(|line| line.contains(&format!("workload {name} is not ready")));
    ensure!(of("unready") && of("missing") && !of("good"), "{}", both.stderr);
    let told = with(&a, &[&wait[..], &["-o", "json"]].concat(), &all).await?.expect_code(1)?.json()?;
    ensure!(
        told["ok"] == false && told["result"]["results"].as_array().is_some_and(|r| r.len() == 3),
        "{told}"
    );
    ensure!(told["error"]["message"].as_str().is_some_and(|text| text.lines().count() >= 2), "{told}");
    a.apply(&echo("ready", "  readiness: { http: { port: 8080, path: /healthz } }\n")).await?;
    ensure!(a.workload("ready").await?["status"]["ready"] == true);
    fleet.passed();
    Ok(())
}

/// All that an apply could change, as text.
async fn everything(a: &Capsule<'_>) -> Result<String> {
    let mut shown = a.fleetctl(&["ps", "-o", "json"]).await?.ok()?.stdout;
    shown += &a.fleetctl(&["volume", "list", "-o", "name"]).await?.ok()?.stdout;
    Ok(shown)
}

fn mounts(volume: &str) -> String {
    format!("  mounts: [{{ volumeName: {volume}, mountPath: /data }}]\n")
}

fn publishes(port: u16) -> String {
    format!("  ports: [{{ containerPort: 80, hostPort: {port} }}]\n")
}

#[tokio::test]
async fn a_manifest_that_cannot_work_is_refused_before_anything_changes() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    let data = "kind: Volume\nname: data\nsize: 16M\n";
    let taken = format!("{}{}", publishes(8080), mounts("data"));
    a.apply(&format!("{data}---\n{}", shell("first", FOREVER, &taken))).await?;
    let foreign = fleet.from_capsule("a", || Ok(TcpListener::bind("0.0.0.0:9000")?)).await?;
    let before = everything(&a).await?;

    let good = shell("good", FOREVER, "");
    let one = |rest: &str| shell("second", FOREVER, rest);
    let two =
        |rest: &str| format!("{}---\n{}", shell("second", FOREVER, rest), shell("third", FOREVER, rest));
    let shared = format!("kind: Volume\nname: shared\nsize: 16M\n---\n{}", two(&mounts("shared")));
    let image = |image: &str| format!("kind: Container\nname: second\ncontainer: {{ image: '{image}' }}\n");
    let vm = "kind: MicroVM\nname: second\nmicroVm: { image: alpine:3 }\n";
    let this = format!("(PID {})", std::process::id());
    let cases: [(String, &[&str]); 12] = [
        (one(&publishes(8080)), &["host port 8080/tcp", "workload first has it", "second"]),
        (one(&publishes(9000)), &["host port 9000/tcp", "0.0.0.0", &this, "has it"]),
        (one(&mounts("data")), &["volume data is used by workload first", "read-write"]),
        (one(&mounts("nowhere")), &["there is no volume nowhere", "fleetctl volume create nowhere SIZE"]),
        (image("Not//AnImage"), &["Not//AnImage", "image"]),
        (vm.into(), &["second", "this capsule has no microVM runtime"]),
        (two(&publishes(9100)), &["host port 9100/tcp"]),
        (shared, &["volume shared is used by workload", "read-write"]),
        (
            format!("{}---\n{}", one(""), one(&publishes(9200))),
            &["Container second is already described in line 2"],
        ),
        (format!("{good}---\n{}", one(&publishes(8080))), &["host port 8080/tcp"]),
        (format!("{good}---\n{}", one("  imagee: x\n")), &["12:3", "imagee", "image"]),
        (one("  env: { A: '1', A: '2' }\n"), &["6:18", "the key \"A\" is already set"]),
    ];
    for (manifests, expected) in &cases {
        let refusal = a.apply_err(manifests).await?;
        for words in *expected {
            ensure!(
                refusal.contains(words),
                "the refusal of\n{manifests}\ndoes not say {words:?}:\n{refusal}"
            );
        }
        let dry = with(&a, &["apply", "-f", "-", "--dry-run"], manifests).await?;
        ensure!(dry.code != 0, "a dry run promises what is refused: {}", dry.stdout);
    }
    let after = everything(&a).await?;
    ensure!(after == before, "a refused apply changed something:\n{before}\n{after}");
    let events = a.fleetctl(&["events", "--subject", "second"]).await?.ok()?.stdout;
    ensure!(events.contains("ApplyRefused") && events.contains("workload first has it"), "{events}");

    drop(foreign);
    a.apply(&one(&publishes(9000))).await?;
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn errors_in_files_name_file_line_and_column() -> Result<()> {
    let fleet = Fleet::builder(1).without_images().start().await?;
    let a = fleet.capsule("a");
    let site = fleet.dir().join("site");
    std::fs::create_dir_all(&site)?;
    let web = site.join("web.yaml");
    std::fs::write(site.join("a.json"), r#"{"kind":"Volume","name":"a","size":"16M"}"#)?;
    let cases = [
        ("kind: Container\nname: w\ncontainer:\n  imagee: x\n", "web.yaml:4:3", "image"),
        ("kind: Container\nname: w\ncontainer:\n  image: [x]\n", "web.yaml:4:10", "image"),
        ("kind: Container\nname: w\nname: v\n", "web.yaml:3:1", "name"),
        ("kind: Volume\nname: v\nsize: 12Q\n", "web.yaml:3:7", "12Q"),
        ("kind: Volume\nname: v\nsize: 16M\n---\nkind: Pod\nname: x\n", "web.yaml:5:7", "Container"),
    ];
    for (text, position, hint) in cases {
        std::fs::write(&web, text)?;
        let refusal = a.fleetctl(&["apply", "-f", &site.display().to_string()]).await?.expect_code(2)?.stderr;
        ensure!(refusal.contains(position) && refusal.contains(hint), "{position} {hint}:\n{refusal}");
    }
    ensure!(a.fleetctl(&["volume", "list", "-o", "name"]).await?.ok()?.stdout.is_empty());
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn two_workloads_swap_a_port_and_a_volume_in_one_apply() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    let volumes = "kind: Volume\nname: v1\nsize: 16M\n---\nkind: Volume\nname: v2\nsize: 16M\n";
    let both = |one: (u16, &str), two: (u16, &str)| {
        let rest = |(port, volume): (u16, &str)| {
            format!(
                "  ports: [{{ containerPort: 8080, hostPort: {port} }}, {{ containerPort: 7000, hostPort: 0 }}]\n{}",
                mounts(volume)
            )
        };
        format!("{volumes}---\n{}---\n{}", echo("one", &rest(one)), echo("two", &rest(two)))
    };
    a.apply(&both((8081, "v1"), (8082, "v2"))).await?;
    ensure!(fleet.expect_reachable("one@a", 8081).await?.contains("one answers"));
    let picked = |workload: &serde_json::Value| workload["status"]["ports"][0]["hostPort"].clone();
    let before = a.workload("one").await?;
    a.apply(&both((8082, "v2"), (8081, "v1"))).await?;
    ensure!(fleet.expect_reachable("one@a", 8082).await?.contains("one answers"));
    ensure!(fleet.expect_reachable("two@a", 8081).await?.contains("two answers"));
    let after = a.workload("one").await?;
    ensure!(picked(&after) == picked(&before), "the picked port did not stay:\n{before}\n{after}");
    ensure!(after["status"]["ipv4"] == before["status"]["ipv4"], "the address did not stay");
    let events = a.events().await?;
    ensure!(!events.contains("BackOff"), "the swap went by way of a failure:\n{events}");
    fleet.passed();
    Ok(())
}
