//! Who speaks for somebody else in the fabric is not heard.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use capsule_fabric::MEMBER_PORT;
use capsule_proto::member::v1::{
    Directory, LinkMessage, WorkloadAddress, link_message::Body, member_client::MemberClient,
};
use futures_util::stream;
use testbed::{
    scenario::{Capsule, FOREVER, Fleet, eventually, shell},
    sys::{netns, run},
};
use tokio::sync::{mpsc, oneshot};
use tonic::transport::Endpoint;

use crate::mesh::{addresses, enroll, fabric_of, number, peer, place};

/// For a first packet: handshake, link and policy on a machine that has much else to do.
const LIMIT: Duration = Duration::from_mins(1);
const PORT: u16 = 9000;
/// Of one lie, in bytes: by its size it is told from an honest word.
const LIE_BYTES: usize = 1000;

/// Hears datagrams inside a workload.
struct Ear(UdpSocket);

impl Ear {
    async fn new(capsule: &Capsule<'_>, workload: &str) -> Result<Self> {
        let socket = capsule.inside(workload, || Ok(UdpSocket::bind(("::", PORT))?)).await?;
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    /// What came since the last call.
    fn heard(&self) -> Vec<(IpAddr, usize)> {
        let mut buffer = [0; 2 * LIE_BYTES];
        std::iter::from_fn(|| self.0.recv_from(&mut buffer).ok())
            .map(|(bytes, from)| (from.ip().to_canonical(), bytes))
            .collect()
    }

    /// Waits for an honest word, said again by `say` until it comes; no lie may have come before it.
    async fn hears_only(&self, from: IpAddr, say: impl AsyncFn() -> Result<()>) -> Result<()> {
        let mut all = Vec::new();
        eventually(LIMIT, async || {
            say().await?;
            all.extend(self.heard());
            ensure!(all.iter().any(|(heard, _)| *heard == from), "{from} is not heard");
            Ok(())
        })
        .await?;
        all.retain(|(_, bytes)| *bytes == LIE_BYTES);
        ensure!(all.is_empty(), "lies were heard: {all:?}");
        Ok(())
    }
}

/// Takes these addresses beside its own, inside the namespace of the caller.
fn pretend(link: &str, sources: &[IpAddr]) -> Result<()> {
    for source in sources {
        let length = if source.is_ipv4() { "32" } else { "128" };
        let at = format!("{source}/{length}");
        let mut command = Command::new("ip");
        command.args(["address", "replace", &at, "dev", link]);
        if source.is_ipv6() {
            command.arg("nodad");
        }
        run(&mut command, "")?;
    }
    Ok(())
}

/// Sends a datagram from each of these addresses.
fn send(sources: &[IpAddr], to: &[IpAddr; 2], bytes: usize) -> Result<()> {
    for source in sources {
        let socket = UdpSocket::bind((*source, 0)).with_context(|| format!("cannot speak as {source}"))?;
        let to = to[usize::from(source.is_ipv6())];
        // Some are refused on the spot, which is as good as a drop.
        let _ = socket.send_to(&vec![0; bytes], SocketAddr::new(to, PORT));
    }
    Ok(())
}

/// Packets that this counter of the capsule's packet filter has seen.
async fn counted(fleet: &Fleet, capsule: &str, counter: &'static str) -> Result<u64> {
    let listed = fleet.from_capsule(capsule, || run(Command::new("nft").args(["list", "counters"]), ""));
    let text = listed.await?;
    let mut lines = text.lines().skip_while(|line| !line.contains(&format!("counter {counter} ")));
    let line = lines.nth(1).with_context(|| format!("no counter {counter}: {text}"))?;
    Ok(line.split_whitespace().nth(1).context("no count")?.parse()?)
}

#[tokio::test]
async fn neither_a_workload_nor_a_member_speaks_for_another() -> Result<()> {
    let fleet = enroll(Fleet::netns(3).await?).await?;
    let (a, b, c) = (fleet.capsule("a"), fleet.capsule("b"), fleet.capsule("c"));
    // As far as policies go, everybody may: what is not heard was not believed.
    let all = "'*@*:9000/udp', 'host@b:9000/udp', 'host@c:9000/udp'";
    a.apply(&shell("db", FOREVER, &format!("  fabric: {{ allowFrom: [{all}] }}\n"))).await?;
    for name in ["web", "thief"] {
        b.apply(&shell(name, FOREVER, "  fabric: { allowTo: ['db@a:9000/udp'] }\n")).await?;
    }
    let (db, web, thief) = (place(&a, "db").await?, place(&b, "web").await?, place(&b, "thief").await?);
    let (own_a, own_b, own_c) = (addresses(&a).await?, addresses(&b).await?, addresses(&c).await?);
    let ear = Ear::new(&a, "db").await?;

    // A workload: for its neighbour, for its capsule, for another member and one of its workloads,
    // and for its neighbour's local addresses.
    let local =
        b.inside("web", || run(Command::new("ip").args(["-o", "address", "show", "dev", "eth0"]), ""));
    let local = local_addresses(&local.await?, &web);
    ensure!(local.len() == 2, "web has {local:?} beside its addresses in the fabric");
    let beyond: [IpAddr; 2] = ["100.64.8.2".parse()?, next(own_c[1])];
    let lies = [&web[..], &own_b, &own_c, &beyond, &local].concat();
    let before = counted(&fleet, "b", "spoofed").await?;
    let told = lies.clone();
    b.inside("thief", move || {
        pretend("eth0", &told)?;
        send(&told, &db, LIE_BYTES)
    })
    .await?;
    for source in thief {
        let say = async || b.inside("thief", move || send(&[source], &db, 1)).await;
        ear.hears_only(source, say).await?;
    }
    let spoofed = counted(&fleet, "b", "spoofed").await? - before;
    ensure!(spoofed >= lies.len() as u64, "{spoofed} of {} lies were counted", lies.len());

    // A member: for a workload of another, for that other itself, for who is to hear it and his
    // capsule, and from an address that is not in the fabric at all.
    let outside = c.api()?.ip();
    let mut lies = [&web[..], &own_b, &own_a, &[next(db[0]), next(db[1])], &[outside]].concat();
    lies.dedup();
    let received = number(&peer(&a, "c").await?["rxBytes"])?;
    let told = lies.clone();
    fleet
        .from_capsule("c", move || {
            let foreign: Vec<IpAddr> = told.iter().copied().filter(|source| *source != outside).collect();
            pretend("lo", &foreign)?;
            send(&told, &db, LIE_BYTES)
        })
        .await?;
    for source in own_c {
        let say = async || fleet.from_capsule("c", move || send(&[source], &db, 1)).await;
        ear.hears_only(source, say).await?;
    }
    let received = number(&peer(&a, "c").await?["rxBytes"])? - received;
    ensure!(received >= (lies.len() * LIE_BYTES) as u64, "only {received} bytes of lies got to a");
    fleet.passed();
    Ok(())
}

/// Those of `ip -o address` that are not of the fabric, nor of the link alone.
fn local_addresses(shown: &str, fabric: &[IpAddr]) -> Vec<IpAddr> {
    let words = shown.lines().filter_map(|line| line.split_whitespace().nth(3)?.split('/').next());
    let all = words.filter_map(|word| word.parse::<IpAddr>().ok());
    all.filter(|address| !fabric.contains(address) && !address.to_string().starts_with("fe80:")).collect()
}

/// The address after this one.
fn next(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(four) => std::net::Ipv4Addr::from(four.to_bits() + 1).into(),
        IpAddr::V6(six) => std::net::Ipv6Addr::from(six.to_bits() + 1).into(),
    }
}

#[tokio::test]
async fn a_member_that_claims_the_addresses_of_another_is_not_believed() -> Result<()> {
    let fleet = enroll(Fleet::netns(3).await?).await?;
    let (a, b, c) = (fleet.capsule("a"), fleet.capsule("b"), fleet.capsule("c"));
    let wanted = "'mine@c:9000/udp', 'yours@c:9000/udp', 'theirs@c:9000/udp'";
    a.apply(&shell("web", FOREVER, &format!("  fabric: {{ allowTo: [{wanted}] }}\n"))).await?;
    let (own_a, own_b, own_c) = (addresses(&a).await?, addresses(&b).await?, addresses(&c).await?);
    let web = place(&a, "web").await?;
    let claim = |name: &str, [ipv4, ipv6]: [IpAddr; 2]| WorkloadAddress {
        name: name.to_owned(),
        ipv4: ipv4.to_string(),
        ipv6: ipv6.to_string(),
    };
    let workloads =
        vec![claim("yours", web), claim("theirs", own_b.map(next)), claim("mine", own_c.map(next))];
    // Its own agent says nothing meanwhile.
    c.pause()?;
    let link = speak(c.namespace(), own_c[0], own_a[0], Directory { workloads });
    let waiting = eventually(LIMIT, async || {
        let waiting = fabric_of(&a, "web").await?["waiting"].to_string();
        ensure!(!waiting.contains("mine@c"), "what is its own is not believed: {waiting}");
        Ok(waiting)
    });
    let waiting = waiting.await?;
    ensure!(waiting.contains("yours@c") && waiting.contains("theirs@c"), "a lie is believed: {waiting}");
    drop(link);
    c.resume()?;
    fleet.passed();
    Ok(())
}

/// Says this to a member, over a link as the member at `from` has it, until the answer is dropped.
fn speak(namespace: String, from: IpAddr, to: IpAddr, directory: Directory) -> oneshot::Sender<()> {
    let (end, ended) = oneshot::channel();
    std::thread::spawn(move || {
        let told = netns::inside(&namespace, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(talk(from, to, directory, ended))
        });
        if let Err(error) = told.and_then(std::convert::identity) {
            eprintln!("the link ended: {error:#}");
        }
    });
    end
}

async fn talk(from: IpAddr, to: IpAddr, directory: Directory, ended: oneshot::Receiver<()>) -> Result<()> {
    let endpoint = Endpoint::from_shared(format!("http://{to}:{MEMBER_PORT}"))?.local_address(Some(from));
    let channel = eventually(LIMIT, async || Ok(endpoint.connect().await?)).await?;
    let (say, words) = mpsc::channel(1);
    say.send(LinkMessage { body: Some(Body::Directory(directory)) }).await?;
    let words = stream::unfold(words, async |mut words| Some((words.recv().await?, words)));
    let mut heard = MemberClient::new(channel).link(words).await?.into_inner();
    let listen = async { while let Ok(Some(_)) = heard.message().await {} };
    tokio::select! {
        () = listen => bail!("the other side ended it"),
        _ = ended => {
            drop(say);
            Ok(())
        }
    }
}
