//! The device as a process, its API, and whom it believes.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, UdpSocket},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use testbed::{
    sys::{self, netns, run},
    wireguard::{
        Family, Mesh, Node,
        device::{Device, Make},
        stream::Pair,
    },
};

use super::client::{COOKIE, Client, RESPONSE};

/// Far beyond what is taken from everybody each second without a cookie.
const FLOOD: usize = 250;
/// Floods until one is noticed.
const TRIES: usize = 20;

fn has_link(node: &Node) -> bool {
    run(Command::new("ip").args(["-n", &node.namespace, "link", "show", &node.interface]), "").is_ok()
}

/// Says something to the API and hangs up; all it answers.
fn ask(node: &Node, words: &[u8]) -> Result<String> {
    let mut stream = UnixStream::connect(node.device.socket())?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    // One that is hung up on has its answer all the same.
    let _ = stream.write_all(words);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    Ok(String::from_utf8(answer)?)
}

#[test]
fn one_device_has_a_name_and_leaves_nothing_behind() -> Result<()> {
    let mut mesh = Mesh::start(&[Make::ours(), Make::ours()], Family::V4)?;
    let node = &mut mesh.nodes[0];
    let socket = node.device.socket().to_owned();
    ensure!(socket.metadata()?.permissions().mode() & 0o777 == 0o600);
    let mut second = netns::command(&node.namespace, sys::program("capsuled")?);
    let refused = second.args(["wg", "--interface", &node.interface]).output()?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(refused.status.code() == Some(1), "{said}");
    ensure!(said.contains(&format!("PID {}", node.device.process()?.pid)), "{said}");
    ensure!(has_link(node), "the refusal harmed the first");

    ensure!(node.device.end(Signal::SIGTERM)?.success());
    ensure!(!has_link(node) && !socket.exists(), "something stayed");

    node.device = Device::start(&Make::ours(), &node.namespace, &node.interface)?;
    node.device.end(Signal::SIGKILL)?;
    ensure!(socket.exists(), "nobody was there to remove it");
    node.device = Device::start(&Make::ours(), &node.namespace, &node.interface)?;

    std::fs::remove_file(&socket)?;
    ensure!(node.device.wait()?.success(), "it goes with its socket");
    ensure!(!has_link(node));
    Ok(())
}

#[test]
fn a_device_ends_with_its_interface() -> Result<()> {
    let mut mesh = Mesh::start(&[Make::ours(), Make::ours()], Family::V4)?;
    let node = &mut mesh.nodes[0];
    run(Command::new("ip").args(["-n", &node.namespace, "link", "delete", &node.interface]), "")?;
    ensure!(node.device.wait()?.success());
    ensure!(!node.device.socket().exists());
    Ok(())
}

#[test]
fn a_peer_that_stays_as_it_is_notices_no_change() -> Result<()> {
    let mesh = Mesh::start(&[Make::ours(), Make::ours(), Make::ours()], Family::V4)?;
    let (a, b, c) = (mesh.node(0), mesh.node(1), mesh.node(2));
    let alone = a.own_section() + &b.as_peer(Family::V4);
    a.configure(&alone)?;
    Pair::connect(a, b, b.inside[0])?.exchange(1 << 20, || {
        let before = (a.shown("latest-handshakes", b)?, b.shown("latest-handshakes", a)?);
        for _ in 0..5 {
            a.configure(&(alone.clone() + &c.as_peer(Family::V4)))?;
            a.configure(&alone)?;
            a.wg(&["set", "peer", &b.public_key, "persistent-keepalive", "5"])?;
        }
        let after = (a.shown("latest-handshakes", b)?, b.shown("latest-handshakes", a)?);
        ensure!(before == after && before.0 != "0", "{before:?} became {after:?}");
        Ok(())
    })?;
    let transfer = a.shown("transfer", b)?;
    let bytes: Vec<u64> = transfer.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    ensure!(bytes.iter().all(|bytes| *bytes > 1 << 20), "the counters began anew: {transfer}");
    Ok(())
}

#[test]
fn what_wg_sets_wg_shows() -> Result<()> {
    let mesh = Mesh::start(&[Make::ours(), Make::ours()], Family::V4)?;
    let (a, b) = (mesh.node(0), mesh.node(1));
    let key = &b.public_key;
    a.wg(&["set", "fwmark", "0x51", "peer", key, "allowed-ips", "10.1.0.0/16,10.2.0.0/16,fd01::/64"])?;
    ensure!(a.wg(&["show", "fwmark"])?.trim() == "0x51");
    ensure!(a.shown("allowed-ips", b)? == "10.1.0.0/16 10.2.0.0/16 fd01::/64");
    let hex = ask(a, b"get=1\n\n")?;
    let hex = hex.lines().find_map(|line| line.strip_prefix("public_key=")).context("no peer")?;
    let change =
        format!("set=1\npublic_key={hex}\nupdate_only=true\nallowed_ip=-10.1.0.0/16\nallowed_ip=::1/128\n\n");
    ensure!(ask(a, change.as_bytes())? == "errno=0\n\n");
    ensure!(a.shown("allowed-ips", b)? == "10.2.0.0/16 ::1/128 fd01::/64");
    a.wg(&["set", "peer", key, "endpoint", "[fd09::2]:77", "persistent-keepalive", "25"])?;
    ensure!(a.shown("endpoints", b)? == "[fd09::2]:77" && a.shown("persistent-keepalive", b)? == "25");
    a.wg(&["set", "peer", key, "remove"])?;
    ensure!(a.wg(&["show", "peers"])?.is_empty());
    Ok(())
}

#[test]
fn what_is_wrong_changes_nothing_and_harms_nobody() -> Result<()> {
    let mesh = Mesh::start(&[Make::ours(), Make::ours()], Family::V4)?;
    let (a, b) = (mesh.node(0), mesh.node(1));
    let configured = || -> Result<Vec<String>> {
        let shown = ask(a, b"get=1\n\n")?;
        let settled = |line: &&str| !line.contains("bytes=") && !line.contains("handshake");
        Ok(shown.lines().filter(settled).map(str::to_owned).collect())
    };
    let before = configured()?;
    let key = "ab".repeat(32);
    let wrong = [
        "set=1\nlisten_port=70000\n\n".to_owned(),
        "set=1\nprivate_key=xyz\n\n".to_owned(),
        format!("set=1\nprivate_key={key}\nfwmark=-1\n\n"),
        format!("set=1\nreplace_peers=true\npublic_key={key}\nendpoint=nowhere\n\n"),
        format!("set=1\npublic_key={key}\nprotocol_version=2\n\n"),
        format!("set=1\npublic_key={key}\nallowed_ip=10.0.0.0/33\n\n"),
        "set=1\nnonsense=1\n\n".to_owned(),
        "get=2\n\n".to_owned(),
        "\n".to_owned(),
        format!("set=1\nprivate_key={}\n\n", "a".repeat(5000)),
        "\u{0}\u{1}\n\n".to_owned(),
    ];
    for words in wrong {
        let answer = ask(a, words.as_bytes())?;
        ensure!(answer.starts_with("errno=") && !answer.starts_with("errno=0"), "{words:?} got {answer:?}");
    }
    // Half a request is none.
    ensure!(ask(a, format!("set=1\nreplace_peers=true\npublic_key={key}\n").as_bytes())?.is_empty());
    ensure!(ask(a, &vec![b'x'; 100_000])?.starts_with("errno="));
    let crowd: Vec<UnixStream> =
        (0..100).filter_map(|_| UnixStream::connect(a.device.socket()).ok()).collect();
    ensure!(configured()? == before, "{:?} is not {before:?}", configured()?);
    drop(crowd);
    Pair::connect(a, b, b.inside[0])?.exchange(1 << 20, || Ok(()))?;
    ensure!(Path::new("/proc").join(a.device.process()?.pid.to_string()).exists());
    Ok(())
}

#[test]
fn a_flood_of_handshakes_is_asked_for_cookies_and_a_peer_with_one_gets_in() -> Result<()> {
    let mesh = Mesh::start(&[Make::ours(), Make::ours()], Family::V4)?;
    let (a, b) = (mesh.node(0), mesh.node(1));
    let mut client = Client::new(a, b)?;
    b.wg(&["set", "peer", &client.public_key(), "allowed-ips", "10.77.0.9/32"])?;
    let stranger = Client::new(a, b)?.initiation()?;
    let mut flooded = || -> Result<Vec<u8>> {
        for _ in 0..FLOOD {
            client.send(&stranger)?;
        }
        let answer = client.ask()?;
        client.take(&answer)?;
        Ok(answer)
    };
    // A second may end, and its count with it, between the flood and the question.
    let asked = (0..TRIES)
        .map(|_| flooded())
        .find(|answer| answer.as_ref().map_or(true, |answer| answer[0] == COOKIE));
    asked.context("nobody was asked for a cookie")??;
    ensure!(flooded()?[0] == RESPONSE, "a cookie did not help");
    Pair::connect(a, b, b.inside[0])?.exchange(1 << 10, || Ok(()))
}

#[test]
fn a_peer_cannot_use_an_address_that_is_not_its_own() -> Result<()> {
    let mesh = Mesh::start(&[Make::ours(), Make::ours()], Family::V4)?;
    let (a, b) = (mesh.node(0), mesh.node(1));
    let mut client = Client::new(a, b)?;
    b.wg(&["set", "peer", &client.public_key(), "allowed-ips", "10.77.0.9/32"])?;
    let here = b.inside[0];
    let inside = b.within(move || UdpSocket::bind((here, 9000)))??;
    inside.set_read_timeout(Some(Duration::from_secs(20)))?;
    let to = SocketAddr::new(here, 9000);
    client.shake_hands()?;
    for spoofed in ["10.77.0.1", "10.77.0.8", "10.9.0.1", "127.0.0.1"] {
        client.send_inside(spoofed.parse()?, to, b"spoofed")?;
    }
    client.send_inside("10.77.0.9".parse()?, to, b"honest")?;
    let mut room = [0; 64];
    let (bytes, from) = inside.recv_from(&mut room).context("the honest one did not come either")?;
    ensure!(&room[..bytes] == b"honest", "one from {from} got through");
    Ok(())
}
