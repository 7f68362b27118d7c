//! The network of workloads, seen from inside and outside: families, modes, names, filters.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use testbed::{
    fixtures,
    scenario::{Capsule, Fleet, Output, eventually, http_get, tcp_echo, udp_echo},
    sys::{self, netns},
};

const LIMIT: Duration = Duration::from_secs(20);

fn echo(name: &str, rest: &str) -> String {
    format!(
        "kind: Container\nname: {name}\ncontainer:\n  image: {}\n  stopGraceSeconds: 1\n{rest}---\n",
        fixtures::ECHO
    )
}

fn shell(name: &str, rest: &str) -> String {
    format!(
        "kind: Container\nname: {name}\ncontainer:\n  image: {}\n  command: [sleep, '1000']\n  \
         stopGraceSeconds: 1\n{rest}---\n",
        fixtures::BUSYBOX
    )
}

async fn off<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}

fn nft(capsule: &Capsule<'_>, words: &[&str]) -> Result<String> {
    sys::run(netns::command(&capsule.namespace(), "nft").args(words), "")
}

/// Packets that the counter of this name has seen.
fn counted(capsule: &Capsule<'_>, name: &str) -> Result<u64> {
    let text = nft(capsule, &["list", "counters"])?;
    let at = text.find(&format!("counter {name} ")).with_context(|| format!("no counter {name}: {text}"))?;
    let words: Vec<&str> = text[at..].split_whitespace().collect();
    let packets = words.iter().position(|word| *word == "packets").and_then(|at| words.get(at + 1));
    packets.and_then(|packets| packets.parse().ok()).with_context(|| format!("no packets: {text}"))
}

#[tokio::test]
async fn ports_of_both_families_and_modes_answer_where_they_should_and_nowhere_else() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    let ports = "  ports:
    - { containerPort: 8080, hostPort: 8080 }
    - { containerPort: 7000, hostPort: 7000 }
    - { containerPort: 7000, hostPort: 7000, protocol: udp }
    - { containerPort: 8080, hostPort: 9090, hostIp: 127.0.0.1 }
";
    let host = "  args: [serve, --http, '8181']\n  networkMode: host\n";
    let alone = "  networkMode: none\n";
    a.apply(&(echo("web", ports) + &echo("host", host) + &shell("alone", alone) + &echo("peer", ""))).await?;
    let peer =
        a.workload("peer").await?["status"]["ipv4"].as_str().context("no address")?.parse::<IpAddr>()?;
    let peer = SocketAddr::new(peer, 8080);

    let six = fleet.testbed().plan().node(0).1;
    let four = fleet.address("a", 0)?.ip();
    for ip in [four, IpAddr::V6(six)] {
        off(move || {
            http_get((ip, 8080).into(), "/")?;
            tcp_echo((ip, 7000).into(), b"hello")?;
            udp_echo((ip, 7000).into(), b"hello")
        })
        .await
        .with_context(|| format!("from outside at {ip}"))?;
    }
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 9090));
    fleet.from_capsule("a", move || http_get(loopback, "/")).await?;
    fleet.from_capsule("a", || http_get((Ipv4Addr::LOCALHOST, 8080).into(), "/")).await?;
    fleet.expect_unreachable("a", 9090).await?;
    fleet.expect_reachable("host@a", 8181).await?;

    let links = a.exec("alone", &["ip", "-o", "link"]).await?.ok()?.stdout;
    ensure!(links.lines().count() == 1 && links.contains(" lo:"), "{links}");
    ensure!(a.exec("alone", &["ping", "-c", "1", "-W", "1", &four.to_string()]).await?.code != 0);

    // A workload on the bridge: its peer's own address, both families, and the published ports.
    let web = a.workload("web").await?;
    let own = ["ipv4", "ipv6"].map(|family| web["status"][family].as_str().unwrap_or_default().to_owned());
    for address in own.into_iter().chain([four.to_string(), six.to_string()]) {
        let to = SocketAddr::new(address.parse()?, 8080);
        let said = fleet.from_capsule("a", move || http_get(peer, &format!("/get?{to}"))).await?;
        ensure!(said.contains("web answers"), "from a workload at {to}: {said}");
    }
    fleet.passed();
    Ok(())
}

/// Answers every question for A with 192.0.2.7 and all else with nothing, until the test ends.
fn fake_resolver(address: Ipv4Addr) -> Result<()> {
    let socket = UdpSocket::bind((address, 53)).context("cannot answer for a resolver")?;
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut query) {
            let mut end = 12;
            while end < length && query[end] != 0 {
                end += usize::from(query[end]) + 1;
            }
            let is_a = query.get(end + 1..end + 3) == Some(&[0, 1]);
            let mut answer = query[..length.min(end + 5)].to_vec();
            answer[2..4].copy_from_slice(&[0x81, 0x80]);
            answer[6..12].copy_from_slice(&[0, u8::from(is_a), 0, 0, 0, 0]);
            if is_a {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
            }
            let _ = socket.send_to(&answer, client);
        }
    });
    Ok(())
}

#[tokio::test]
async fn names_of_workloads_and_of_the_world_resolve_in_both_families() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    fake_resolver(fleet.operator_address())?;
    let conf = fleet.dir().join("resolv.conf");
    std::fs::write(&conf, format!("nameserver {}\n", fleet.operator_address()))?;
    a.restart_agent_with(&["--resolv-conf", &conf.display().to_string()]).await?;
    a.wait_healthy().await?;
    a.apply(&(echo("web", "") + &shell("peer", ""))).await?;
    let look = async |name: &str| a.exec("peer", &["nslookup", name]).await;

    let web = a.workload("web").await?;
    let own = look("web").await?.ok()?.stdout;
    for family in ["ipv4", "ipv6"] {
        let address = web["status"][family].as_str().context("no address")?;
        ensure!(own.contains(address), "{address} is not in {own}");
    }
    ensure!(
        look("www.example.org").await?.stdout.contains("192.0.2.7"),
        "{:?}",
        look("www.example.org").await?
    );
    let nowhere = look("nowhere").await?;
    ensure!(!nowhere.stdout.contains("192.0.2.7"), "a name without dots went out: {nowhere:?}");

    a.fleetctl(&["workload", "stop", "web"]).await?.ok()?;
    a.wait_phase("web", "PHASE_STOPPED").await?;
    let gone = look("web").await?;
    ensure!(gone.code != 0, "a stopped workload still has a name: {gone:?}");
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_workload_that_poses_as_another_is_dropped_and_counted_and_only_the_uplink_masquerades()
-> Result<()> {
    let fleet = Fleet::netns(2).await?;
    let (a, b) = (fleet.capsule("a"), fleet.capsule("b"));
    a.apply(
        &(echo("web", "")
            + &echo("third", "")
            + &shell("liar", "  capabilities: { add: [NET_ADMIN, NET_RAW] }\n")),
    )
    .await?;
    b.apply(&echo("far", "  ports: [{ containerPort: 8080, hostPort: 8080 }]\n")).await?;

    let third =
        a.workload("third").await?["status"]["ipv4"].as_str().context("no address")?.parse::<IpAddr>()?;
    let third = SocketAddr::new(third, 8080);
    let web = a.workload("web").await?["status"]["ipv4"].as_str().context("no address")?.to_owned();
    let (inside, far) = (SocketAddr::new(web.parse()?, 8080), fleet.address("b", 8080)?);
    let near = fleet.from_capsule("a", move || http_get(third, &format!("/get?{inside}"))).await?;
    ensure!(near.contains(&third.ip().to_string()), "a neighbour sees another address than {third}: {near}");
    let far = fleet.from_capsule("a", move || http_get(third, &format!("/get?{far}"))).await?;
    ensure!(far.contains(&fleet.address("a", 0)?.ip().to_string()), "the uplink does not masquerade: {far}");

    let before = counted(&a, "spoofed")?;
    let false_address = web.rsplit_once('.').map(|(net, _)| format!("{net}.77")).context("no address")?;
    a.exec("liar", &["ip", "address", "add", &format!("{false_address}/32"), "dev", "eth0"]).await?.ok()?;
    for address in [&false_address, &web] {
        a.exec("liar", &["ip", "address", "replace", &format!("{address}/32"), "dev", "eth0"]).await?.ok()?;
        let gateway = web.rsplit_once('.').map(|(net, _)| format!("{net}.1")).context("no address")?;
        let ping = a.exec("liar", &["ping", "-c", "2", "-W", "1", "-I", address, &gateway]).await?;
        ensure!(ping.code != 0, "{address} was believed: {ping:?}");
    }
    let after = counted(&a, "spoofed")?;
    ensure!(after >= before + 4, "{before} packets were counted before, {after} after");
    // Counters survive changes of the rule set.
    a.apply(&echo("fourth", "")).await?;
    ensure!(counted(&a, "spoofed")? >= after, "a new workload reset the counters");
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_foreign_filter_that_drops_what_is_forwarded_is_told_with_its_remedy() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    a.apply(&echo("web", "  ports: [{ containerPort: 8080, hostPort: 8080 }]\n")).await?;
    nft(
        &a,
        &[
            "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }",
        ],
    )?;
    fleet.expect_unreachable("web@a", 8080).await?;
    a.restart_agent().await?;
    a.wait_healthy().await?;
    let warning = eventually(LIMIT, async || {
        let info = a.fleetctl(&["capsule", "info", "-o", "json"]).await?.ok()?.stdout;
        let warning = info.lines().find(|line| line.contains("nft insert rule"));
        warning.map(str::to_owned).with_context(|| format!("no warning: {info}"))
    })
    .await?;
    let told = a.fleetctl(&["capsule", "info"]).await?.ok()?;
    ensure!(told.stderr.contains("warning: a: chain FORWARD of table ip filter"), "{told:?}");
    ensure!(a.events().await?.contains("ForwardingBlocked"));
    let remedy = warning
        .split_once("to let it pass: ")
        .and_then(|(_, rest)| rest.split_once(" ("))
        .context("no remedy")?
        .0;
    for rule in remedy.split("; ") {
        let words: Vec<&str> = rule.split(' ').skip(1).collect();
        nft(&a, &words)?;
    }
    fleet.expect_reachable("web@a", 8080).await?;
    a.restart_agent().await?;
    a.wait_healthy().await?;
    let info = a.fleetctl(&["capsule", "info", "-o", "json"]).await?.ok()?.stdout;
    ensure!(!info.contains("nft insert rule"), "it still warns: {info}");
    fleet.passed();
    Ok(())
}

/// A second agent in the namespace of a capsule, and the operator of it.
struct Neighbour<'a> {
    fleet: &'a Fleet,
    dir: String,
}

impl Neighbour<'_> {
    fn capsuled(&self, words: &[&str]) -> Result<Command> {
        let mut command = netns::command(&self.fleet.capsule("a").namespace(), sys::program("capsuled")?);
        command.args(words).args([
            "--state-dir",
            &self.dir,
            "--listen",
            "[::]:50001",
            "--hostname",
            "neighbour",
        ]);
        Ok(command)
    }

    fn start(&self) -> Result<()> {
        let mut command = self.capsuled(&["agent"])?;
        self.fleet.testbed().spawn(&mut command, "neighbour").map(drop)
    }

    fn down(&self) -> Result<()> {
        sys::run(&mut self.capsuled(&["down"])?, "").map(drop)
    }

    async fn fleetctl(&self, words: &[&str], stdin: &str) -> Result<Output> {
        let words = [&["-c", "neighbour"], words].concat();
        self.fleet.operator().run_with(&words, stdin.as_bytes()).await
    }
}

/// Links, tables and routes of a namespace, loop devices, mounts and control groups below names
/// that hold `mark`.
fn traces(capsule: &Capsule<'_>, short: &str, dir: &Path) -> Result<Vec<String>> {
    let namespace = capsule.namespace();
    let mut found = Vec::new();
    let links = sys::run(Command::new("ip").args(["-n", &namespace, "-o", "link"]), "")?;
    let tables = nft(capsule, &["list", "tables"])?;
    found.extend(links.lines().chain(tables.lines()).filter(|line| line.contains(short)).map(String::from));
    found.extend(sys::disk::mounts_below(dir)?.iter().map(|mount| format!("mount {}", mount.display())));
    for entry in std::fs::read_dir("/sys/block")?.flatten() {
        let file = std::fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        found
            .extend(file.starts_with(&dir.display().to_string()).then(|| format!("loop device over {file}")));
    }
    let groups = sys::run(
        Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-path", &format!("*/capsule-{short}*")]),
        "",
    )?;
    for group in groups.lines() {
        let within = std::fs::read_to_string(Path::new(group).join("cgroup.procs")).unwrap_or_default();
        found.push(format!("control group {group} with processes {within:?}"));
    }
    let needle = dir.display().to_string();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        found.extend(line.contains(&needle).then(|| format!("process {line}")));
    }
    Ok(found)
}

fn short_id(output: Output) -> Result<String> {
    let id = output.ok()?.stdout.trim().to_owned();
    Ok(id.trim_start_matches("capsule-").to_owned())
}

#[tokio::test]
async fn two_agents_in_one_namespace_keep_apart_and_down_takes_all_of_one() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    let web = echo("web", "  ports: [{ containerPort: 8080, hostPort: 8080 }]\n");
    a.apply(&web).await?;
    let pid = a.pid("web").await?;

    let dir = fleet.dir().join("neighbour");
    let neighbour = Neighbour { fleet: &fleet, dir: dir.display().to_string() };
    neighbour.start()?;
    let api = SocketAddr::new(fleet.address("a", 0)?.ip(), 50001).to_string();
    eventually(LIMIT, async || {
        fleet.fleetctl(&["adopt", &api, "--name", "neighbour", "--yes"]).await?.ok().map(drop)
    })
    .await?;
    let archive = fleet.dir().join("again.tar");
    fixtures::echo()?.write_oci(&archive)?;
    neighbour.fleetctl(&["image", "push", &archive.display().to_string()], "").await?.ok()?;
    let other = "kind: Volume\nname: data\nsize: 32M\n---\n".to_owned()
        + &echo(
            "web",
            "  ports: [{ containerPort: 8080, hostPort: 8081 }]\n  mounts: [{ volumeName: data, mountPath: /data }]\n",
        );
    neighbour.fleetctl(&["apply", "-f", "-", "--wait"], &other).await?.ok()?;
    fleet.expect_reachable("web@a", 8080).await?;
    fleet.expect_reachable("web@a", 8081).await?;
    let taken = neighbour.fleetctl(&["apply", "-f", "-"], &web).await?;
    ensure!(
        taken.code != 0 && taken.stderr.contains("8080") && taken.stderr.contains("capsule-"),
        "{taken:?}"
    );

    let short = short_id(neighbour.fleetctl(&["capsule", "info", "-o", "name"], "").await?)?;
    ensure!(traces(&a, &short, &dir)?.len() > 8, "this test looks for the wrong traces");
    neighbour.down()?;
    let left = traces(&a, &short, &dir)?;
    ensure!(left.is_empty(), "`capsuled down` left: {left:#?}");
    fleet.expect_unreachable("web@a", 8081).await?;
    fleet.expect_reachable("web@a", 8080).await?;
    ensure!(a.pid("web").await? == pid, "the other capsule was disturbed");

    neighbour.start()?;
    eventually(LIMIT, async || {
        neighbour.fleetctl(&["--timeout", "5s", "workload", "wait", "web"], "").await?.ok().map(drop)
    })
    .await?;
    fleet.expect_reachable("web@a", 8081).await?;
    fleet.passed();
    Ok(())
}
