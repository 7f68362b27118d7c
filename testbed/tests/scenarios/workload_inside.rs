//! What a manifest asks for, seen from inside the container that has it.

use anyhow::{Result, ensure};
use testbed::scenario::{Capsule, FOREVER, Fleet, shell};

/// What a shell in the workload prints.
async fn sees(a: &Capsule<'_>, name: &str, script: &str) -> Result<String> {
    Ok(a.exec(name, &["sh", "-c", script]).await?.stdout.trim().to_owned())
}

/// Holds that a shell in the workload prints this.
async fn is(a: &Capsule<'_>, name: &str, script: &str, expected: &str) -> Result<()> {
    let found = sees(a, name, script).await?;
    ensure!(found == expected, "in {name}, `{script}` prints {found:?}, not {expected:?}");
    Ok(())
}

/// Its first process' capabilities, as `/proc` writes them.
async fn capabilities(a: &Capsule<'_>, name: &str, set: &str) -> Result<u64> {
    let text = sees(a, name, &format!("awk '/^{set}:/ {{print $2}}' /proc/1/status")).await?;
    Ok(u64::from_str_radix(&text, 16)?)
}

/// Numbers of capabilities(7).
const CHOWN: u64 = 1;
const NET_RAW: u64 = 1 << 13;
const SYS_ADMIN: u64 = 1 << 21;
const SYS_TIME: u64 = 1 << 25;
/// docker's and containerd's usual set.
const USUAL: u64 = 0xa804_25fb;

#[tokio::test]
async fn every_field_of_a_manifest_is_so_inside_the_container() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    let shared = fleet.dir().join("shared");
    std::fs::create_dir_all(&shared)?;
    std::fs::write(shared.join("from-host"), "hello")?;
    let at = shared.display();
    let manifests = [
        shell("plain", FOREVER, ""),
        shell(
            "dressed",
            FOREVER,
            "  env: { WHO: somebody, EMPTY: '' }\n  workingDir: /tmp\n  user: app\n  readOnlyRootfs: true\n",
        ),
        shell("numbers", FOREVER, "  user: '1234:5678'\n  env: [{ name: A, value: 'b c' }]\n"),
        shell("capable", FOREVER, "  capabilities: { add: [SYS_TIME], drop: [CAP_CHOWN, NET_RAW] }\n"),
        shell("bare", FOREVER, "  capabilities: { drop: [ALL] }\n"),
        shell("limited", FOREVER, "  resources: { cpuMillis: 200, memoryMib: 48M, pidsMax: 24 }\n"),
        shell("privileged", FOREVER, "  privileged: true\n"),
        shell("host", FOREVER, "  hostPid: true\n  hostIpc: true\n  hostMount: true\n  networkMode: host\n"),
        shell("alone", FOREVER, "  networkMode: none\n"),
        shell(
            "binds",
            FOREVER,
            &format!(
                "  hostBindPaths:\n    - {{ hostPath: {at}, mountPath: /rw }}\n    - {{ hostPath: {at}, mountPath: /ro, readOnly: true }}\n"
            ),
        ),
    ];
    a.apply(&manifests.join("---\n")).await?;

    closed_by_default(&a).await?;
    process(&a).await?;
    privileges(&a).await?;
    limits(&a).await?;
    host_modes(&a).await?;
    let binds =
        "cat /ro/from-host; echo; touch /ro/x 2>/dev/null || echo refused; echo back > /rw/from-inside";
    is(&a, "binds", binds, "hello\nrefused").await?;
    ensure!(std::fs::read_to_string(shared.join("from-inside"))? == "back\n");
    fleet.passed();
    Ok(())
}

/// What a workload may that asks for nothing.
async fn closed_by_default(a: &Capsule<'_>) -> Result<()> {
    ensure!(capabilities(a, "plain", "CapEff").await? == USUAL);
    is(a, "plain", "awk '/^(NoNewPrivs|Seccomp):/ {print $2}' /proc/1/status", "1\n2").await?;
    let masked = "for f in kcore keys timer_list; do test ! -e /proc/$f -o -c /proc/$f || echo $f; done";
    is(a, "plain", masked, "").await?;
    is(a, "plain", "echo 1 2>/dev/null > /proc/sysrq-trigger || echo refused", "refused").await?;
    is(a, "plain", "mount -t tmpfs x /tmp 2>/dev/null || echo refused", "refused").await?;
    is(a, "plain", "hostname; id -u; pwd; touch /x && echo written", "plain\n0\n/\nwritten").await?;
    is(a, "plain", "ps | grep -c '[c]apsuled'", "0").await
}

/// Environment, directory and user.
async fn process(a: &Capsule<'_>) -> Result<()> {
    let dressed = "echo $WHO-$EMPTY-; pwd; id -un; touch /tmp/x 2>/dev/null || echo refused";
    is(a, "dressed", dressed, "somebody--\n/tmp\napp\nrefused").await?;
    is(a, "dressed", "stat -c %u:%g /proc/1", "1000:1000").await?;
    is(a, "dressed", "readlink /proc/self/cwd", "/tmp").await?;
    ensure!(capabilities(a, "dressed", "CapEff").await? == 0, "not root, and yet capable");
    is(a, "numbers", "echo \"$A\"; id -u; id -g", "b c\n1234\n5678").await?;
    Ok(())
}

/// Capabilities that were added and dropped, and all of them.
async fn privileges(a: &Capsule<'_>) -> Result<()> {
    let capable = capabilities(a, "capable", "CapEff").await?;
    ensure!(capable == (USUAL | SYS_TIME) & !(CHOWN | NET_RAW), "{capable:x}");
    ensure!(capabilities(a, "bare", "CapBnd").await? == 0);
    let privileged = capabilities(a, "privileged", "CapEff").await?;
    ensure!(privileged & SYS_ADMIN != 0 && privileged.count_ones() > 30, "{privileged:x}");
    ensure!(
        sees(
            a,
            "privileged",
            "awk '/^Seccomp:/ {print $2}' /proc/1/status; ls /dev | grep -c '^loop-control$'"
        )
        .await?
            == "0\n1"
    );
    is(a, "privileged", "mount -t tmpfs x /tmp && echo mounted", "mounted").await?;
    Ok(())
}

/// Namespaces of the host, for who asks for them alone.
async fn host_modes(a: &Capsule<'_>) -> Result<()> {
    let namespaces = |name: &'static str, kind: &'static str| async move {
        sees(a, name, &format!("readlink /proc/self/ns/{kind}")).await
    };
    let host =
        |kind: &str| anyhow::Ok(std::fs::read_link(format!("/proc/self/ns/{kind}"))?.display().to_string());
    for kind in ["pid", "ipc"] {
        ensure!(namespaces("host", kind).await? == host(kind)?, "host{kind} is not the host's");
        ensure!(namespaces("plain", kind).await? != host(kind)?, "the host's {kind} without asking");
    }
    ensure!(sees(a, "host", "ps | grep -c '[c]apsuled'").await? != "0", "hostPid does not show the agent");
    is(a, "host", "test -d /host/proc && touch /host/x 2>/dev/null || echo refused", "refused").await?;
    is(a, "host", "ip -o link | grep -c ': cap-[0-9a-f]*:'", "1").await?;
    is(a, "alone", "ip -o link | wc -l", "1").await?;
    Ok(())
}

/// Limits are seen by what they stop, on hosts of either version of control groups.
async fn limits(a: &Capsule<'_>) -> Result<()> {
    let forks = "for i in $(seq 60); do sleep 3 & done 2>&1 | grep -c \"can't fork\"; true";
    let refused = sees(a, "limited", forks).await?;
    ensure!(refused.parse::<u32>()? > 0, "60 processes where 24 may be: {refused}");
    a.wait_running("limited").await?;
    let eat = a.exec("limited", &["sh", "-c", "head -c 100m /dev/zero | tail -n 1 > /dev/null"]).await?;
    ensure!(eat.code != 0, "100 MiB where 48 may be");
    let spin =
        "t() { awk '{print $14+$15}' /proc/$1/stat; }; while :; do :; done & p=$!; sleep 2; t $p; kill $p";
    let ticks: u32 = sees(a, "limited", spin).await?.parse()?;
    ensure!((10..80).contains(&ticks), "{ticks} hundredths of a second of CPU in two seconds of 200 m");
    Ok(())
}
