//! The userspace WireGuard device, beside others' and on bad paths.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use testbed::{
    sys::{link, run},
    wireguard::{Family, Mesh, Node, PORT, device::Make, stream::Pair, underlay::WIRE},
};

mod client;
mod device;
mod kernel;
mod path;

use path::Path;

/// Enough for every offload to be at work.
const SOME: usize = 8 << 20;

fn v4(node: &Node) -> IpAddr {
    node.inside[0]
}

fn v6(node: &Node) -> IpAddr {
    node.inside[1]
}

/// Streams both ways at once over both families, begun by either side.
fn talk(a: &Node, b: &Node, bytes: usize) -> Result<()> {
    Pair::connect(a, b, v4(b))?.exchange(bytes, || Ok(()))?;
    Pair::connect(b, a, v6(a))?.exchange(bytes, || Ok(()))
}

/// UDP datagrams of many sizes, echoed.
fn echo_datagrams(a: &Node, b: &Node, address: IpAddr) -> Result<()> {
    let bind = |node: &Node, ip: IpAddr| node.within(move || std::net::UdpSocket::bind((ip, 0)));
    let here = if address.is_ipv4() { v4(a) } else { v6(a) };
    let (from, to) = (bind(a, here)??, bind(b, address)??);
    for socket in [&from, &to] {
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    }
    from.connect(to.local_addr()?)?;
    // Larger ones go as fragments.
    for size in [0, 1, 31, 1372, 1373, 4000, 60_000] {
        let sent: Vec<u8> = (0..size).map(|at: u32| at as u8).collect();
        from.send(&sent)?;
        let mut room = vec![0; 65_536];
        let (bytes, whence) =
            to.recv_from(&mut room).with_context(|| format!("{size} bytes did not come"))?;
        ensure!(room[..bytes] == sent, "{size} bytes came as others");
        to.send_to(&room[..bytes], whence)?;
        let bytes = from.recv(&mut room).with_context(|| format!("{size} bytes did not come back"))?;
        ensure!(room[..bytes] == sent, "{size} bytes came back as others");
    }
    Ok(())
}

#[test]
fn two_hundred_megabytes_arrive_as_they_were_sent() -> Result<()> {
    let mesh = Mesh::start(&[Make::ours(), Make::ours()], Family::V4)?;
    let (a, b) = (mesh.node(0), mesh.node(1));
    Pair::connect(a, b, v4(b))?.send(200 << 20)?;
    talk(a, b, SOME)
}

#[test]
fn it_speaks_over_ipv6_outside() -> Result<()> {
    let mesh = Mesh::start(&[Make::ours(), Make::ours()], Family::V6)?;
    talk(mesh.node(0), mesh.node(1), SOME)?;
    echo_datagrams(mesh.node(0), mesh.node(1), v6(mesh.node(1)))
}

#[test]
fn every_offload_can_be_missing() -> Result<()> {
    let all = "--without=vnet-header,udp-gso,udp-gro";
    for without in [
        all,
        "--without=vnet-header",
        "--without=tso",
        "--without=uso",
        "--without=udp-gso",
        "--without=udp-gro",
    ] {
        let less = || Make::Ours(vec![without]);
        let mesh = Mesh::start(&[less(), Make::ours()], Family::V4)?;
        let (a, b) = (mesh.node(0), mesh.node(1));
        talk(a, b, SOME / 4).context(without)?;
        echo_datagrams(a, b, v4(b)).context(without)?;
    }
    Ok(())
}

#[test]
fn it_interoperates_with_wireguard_go() -> Result<()> {
    for go in [Some(Make::wireguard_go()), Make::newer_wireguard_go()].into_iter().flatten() {
        interoperate(&[Make::ours(), go], Family::V4, SOME)?;
    }
    Ok(())
}

fn interoperate(makes: &[Make; 2], outside: Family, bytes: usize) -> Result<()> {
    let mesh = Mesh::start(makes, outside)?;
    let (a, b) = (mesh.node(0), mesh.node(1));
    talk(a, b, bytes)?;
    echo_datagrams(a, b, v4(b))?;
    echo_datagrams(b, a, v6(a))
}

#[test]
fn eight_reach_each_other_among_two_hundred_peers() -> Result<()> {
    let mesh = Mesh::start(&vec![Make::ours(); 8], Family::V4)?;
    let mut crowd = mesh.configuration(mesh.node(0), Family::V4);
    for at in 0..200 {
        let key = run(Command::new("wg").arg("genkey"), "")?;
        let key = run(Command::new("wg").arg("pubkey"), &key)?;
        let _ = write!(
            crowd,
            "[Peer]\nPublicKey = {key}\nAllowedIPs = 10.78.{at}.0/24, 10.0.0.0/{}\n",
            8 + at % 8
        );
    }
    mesh.node(0).configure(&crowd)?;
    for (at, a) in mesh.nodes.iter().enumerate() {
        for b in &mesh.nodes[at + 1..] {
            Pair::connect(a, b, v4(b))?.exchange(64 << 10, || Ok(()))?;
        }
    }
    ensure!(mesh.node(0).wg(&["show", "peers"])?.lines().count() == 207);
    Ok(())
}

#[test]
fn a_peer_is_followed_to_another_address_and_port_without_a_lost_connection() -> Result<()> {
    follow(&[Make::ours(), Make::ours()], 2 * SOME)
}

/// The second moves, and `bytes` come each way before and after. It has something to say all the time:
/// one that has not is not found before it greets again, and streams wait long by then.
fn follow(makes: &[Make; 2], bytes: usize) -> Result<()> {
    let mesh = Mesh::start(makes, Family::V4)?;
    let (a, b) = (mesh.node(0), mesh.node(1));
    let flow = Pair::connect(a, b, v4(b))?.flow()?;
    flow.wait_for_more(bytes)?;
    for port in [40_000, 40_001] {
        b.wg(&["set", "listen-port", &port.to_string()])?;
    }
    link::batch_in(
        &b.namespace,
        &format!("address del 10.9.0.2/24 dev {WIRE}\naddress add 10.9.0.200/24 dev {WIRE}\n"),
    )?;
    flow.wait_for_more(bytes).context("after the move")?;
    flow.finish()?;
    // A small one more: what was seen last is where it is now.
    Pair::connect(b, a, v4(a))?.exchange(1 << 10, || Ok(()))?;
    ensure!(a.shown("endpoints", b)? == "10.9.0.200:40001", "{}", a.shown("endpoints", b)?);
    Ok(())
}

#[test]
fn loss_reordering_and_duplicates_cost_time_and_no_byte() -> Result<()> {
    let mesh = Mesh::start(&[Make::ours(), Make::ours()], Family::V4)?;
    let (a, b) = (mesh.node(0), mesh.node(1));
    let path = Path::start(b, SocketAddr::new(b.outside[0], PORT))?;
    a.configure(&(a.own_section() + &b.as_peer_at(&path.address().to_string())))?;
    b.configure(&(b.own_section() + &a.as_peer(Family::V4).replace("Endpoint", "#")))?;
    Pair::connect(a, b, v4(b))?.exchange(SOME / 2, || Ok(()))?;
    Pair::connect(a, b, v6(b))?.exchange(SOME / 4, || Ok(()))?;
    let (lost, swapped, doubled) = path.harm();
    ensure!(lost > 20 && swapped > 20 && doubled > 20, "the path was too good: {lost} {swapped} {doubled}");
    Ok(())
}

#[test]
fn a_connection_outlives_new_keys_and_a_killed_peer() -> Result<()> {
    outlive(Make::ours(), SOME)
}

/// The peer of this one is killed.
fn outlive(make: Make, bytes: usize) -> Result<()> {
    let mut mesh = Mesh::start(&[make, Make::ours()], Family::V4)?;
    let configuration = mesh.configuration(mesh.node(1), Family::V4);
    let secret = tempfile::NamedTempFile::new()?;
    std::fs::write(secret.path(), run(Command::new("wg").arg("genpsk"), "")?)?;
    let (a, b) = (mesh.node(0), mesh.node(1));
    let set = |at: &Node, peer: &Node| {
        let path = secret.path().to_string_lossy().into_owned();
        at.wg(&["set", "peer", &peer.public_key, "preshared-key", &path])
    };
    let pair = Pair::connect(a, b, v4(b))?;
    let kept = Pair { from: pair.from.try_clone()?, to: pair.to.try_clone()? };
    pair.exchange(bytes, || {
        set(a, b)?;
        set(b, a).map(drop)
    })?;
    let node = &mut mesh.nodes[1];
    node.device.end(nix::sys::signal::Signal::SIGKILL)?;
    node.device = testbed::wireguard::device::Device::start(&Make::ours(), &node.namespace, &node.interface)?;
    let (a, b) = (mesh.node(0), mesh.node(1));
    b.configure(&configuration)?;
    b.bring_up()?;
    set(b, a)?;
    kept.exchange(bytes, || Ok(()))
}

#[test]
fn a_narrower_path_outside_is_crossed_in_fragments() -> Result<()> {
    let mesh = Mesh::start(&[Make::ours(), Make::ours()], Family::V4)?;
    let (a, b) = (mesh.node(0), mesh.node(1));
    for node in [a, b] {
        link::batch_in(&node.namespace, &format!("link set {WIRE} mtu 1300\n"))?;
    }
    talk(a, b, SOME / 4)?;
    echo_datagrams(a, b, v4(b))
}

#[test]
fn answers_leave_from_the_address_that_was_asked() -> Result<()> {
    let mesh = Mesh::start(&[Make::ours(), Make::ours()], Family::V4)?;
    let (a, b) = (mesh.node(0), mesh.node(1));
    link::batch_in(&b.namespace, &format!("address add 10.9.0.77/24 dev {WIRE}\n"))?;
    // Only the second address may be heard: an answer from the first would be lost.
    let rules = "table inet t {\n chain c {\n type filter hook input priority 0; policy accept;\n \
                 ip saddr 10.9.0.2 udp sport 51820 drop\n }\n}\n";
    link::nft_in(&a.namespace, rules)?;
    a.configure(&(a.own_section() + &b.as_peer_at(&format!("10.9.0.77:{PORT}"))))?;
    b.configure(&(b.own_section() + &a.as_peer(Family::V4).replace("Endpoint", "#")))?;
    Pair::connect(a, b, v4(b))?.exchange(SOME / 8, || Ok(()))
}
