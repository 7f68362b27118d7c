//! The network of bridged workloads: bridge, addresses, ports, packet filter, names.
//!
//! - `reserve.rs`: addresses and ports, inside the caller's transaction; `table.rs` their rows;
//! - `subnet.rs`, `port.rs`, `layout.rs`: the arithmetic, pure;
//! - `plumbing.rs`: bridge and veths by netlink; `leg.rs`: by which links packets go on;
//! - `fabric/`: workloads' part in the fabric, a task of its own;
//! - `firewall/`: a task that owns the two nftables tables;
//! - `foreign.rs`: a task that looks for packet filters of others that stand in the way;
//! - `dns/`: tasks that answer on the gateway's addresses; `files.rs`: resolv.conf and the like.
//!
//! All of it follows from SQLite and from who runs: a killed agent leaves the kernel's part
//! working, and [`Network::start`] takes it over without a gap.

mod dns;
mod error;
mod fabric;
mod files;
mod firewall;
mod foreign;
mod layout;
mod leg;
mod plumbing;
mod port;
mod reserve;
#[cfg(test)]
mod root_tests;
mod subnet;
mod table;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    sync::Arc,
};

use capsule_fabric::map::Addresses;
use capsule_proto::{Name, v1};
use tokio::sync::watch;

pub use error::NetworkError;
pub use fabric::{Allowance, Consent, FabricState, FabricStates, Knock, Membership, Refused};
pub use layout::BRIDGE_PREFIX;
pub use leg::{Leg, Place};

use self::{
    dns::Names,
    fabric::{Part, Tools},
    firewall::{Change, Firewall, ruleset},
    foreign::Foreign,
    layout::{Layout, Member, bridge_name},
    plumbing::Bridge,
    subnet::{Subnet4, Subnet6},
};
use crate::{
    event::{Events, NewEvent},
    runtime::BindMount,
    store::Store,
    sys::{file, nft},
};

/// What the network must be told.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// UUID of the capsule; names and the bridge's hardware address follow from it.
    pub capsule_id: String,
    /// Files for workloads are written below its `network/`.
    pub state_dir: PathBuf,
    /// Where the bridge is to be, in CIDR form; used at the first start. Chosen when absent.
    pub bridge_subnet: Option<String>,
    /// The host's resolver configuration: `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// What the fabric says of this capsule.
    pub membership: Membership,
}

/// What a bridged workload has been given; it keeps it until it is deleted.
#[derive(Clone, Debug, PartialEq)]
pub struct Reservation {
    /// Its address.
    pub ipv4: Ipv4Addr,
    /// Its other address.
    pub ipv6: Ipv6Addr,
    /// Its published ports, with the host port that each has.
    pub ports: Vec<v1::Port>,
}

/// The capsule's network; cheap to clone.
#[derive(Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

struct Inner {
    config: NetworkConfig,
    store: Store,
    layout: Arc<Layout>,
    bridge: Bridge,
    firewall: Firewall,
    foreign: Foreign,
    fabric: Part,
    names: Names,
    /// The name service; it ends with the last handle.
    _dns: tokio::task::JoinSet<()>,
}

impl Network {
    /// Makes the bridge, sets the kernel's parameters, fills the packet filter with the workloads
    /// that are attached already and starts the name service. Needs root.
    pub async fn start(config: NetworkConfig, store: Store, events: Events) -> Result<Self, NetworkError> {
        let layout = Arc::new(settle_subnets(&config, &store, &events).await?);
        let made = layout.clone();
        let bridge = blocking(move || plumbing::ensure_bridge(&made)).await?;
        if !bridge.ipv6 {
            let text = "this kernel has no IPv6: workloads have IPv4 only";
            events.emit(NewEvent::new("node", "", "NoIpv6", text).warning());
        }
        if !bridge.hairpin {
            let text = "net.bridge.bridge-nf-call-iptables is on and the host has other bridges: workloads reach \
                        each other by name and address, but not published ports at the host's own addresses. Set \
                        it and bridge-nf-call-ip6tables to 0 if nothing else needs them";
            events.emit(NewEvent::new("node", "", "NoHairpin", text).warning());
        }
        let names = Names::default();
        let dns = dns::start(&layout, bridge.ipv6, names.clone(), config.resolv_conf.clone())?;
        let firewall = Firewall::start(layout.clone());
        let foreign = Foreign::watch(layout.bridge.clone(), events.clone());
        let (fabric, queue) = Part::new(config.membership.clone(), &store.read(fabric::rows).await?);
        let tools = Tools {
            layout: layout.clone(),
            bridge,
            store: store.clone(),
            firewall: firewall.clone(),
            names: names.clone(),
            events,
        };
        let inner = Inner { config, store, layout, bridge, firewall, foreign, fabric, names, _dns: dns };
        let network = Self { inner: Arc::new(inner) };
        network.replace_members(network.attached().await?).await?;
        network.inner.fabric.run(tools, queue);
        Ok(network)
    }

    /// Joins the process' network namespace to the bridge. Resolves when addresses, ports and the
    /// name work.
    pub async fn attach(&self, name: &Name, pid: u32, reservation: &Reservation) -> Result<(), NetworkError> {
        let member = self.member(name, reservation);
        let (layout, bridge, joining) = (self.inner.layout.clone(), self.inner.bridge, member.clone());
        let attempt = NetworkError::kernel(format!("join workload {name} (process {pid}) to the bridge"));
        let join = blocking(move || plumbing::join(&layout, bridge, &joining, pid).map_err(attempt));
        let filter = self.inner.firewall.change(Change::Add(name.clone(), member.clone()));
        let (joined, filtered) = tokio::join!(join, filter);
        joined.and(filtered)?;
        self.inner.names.add(name, member.ipv4, member.ipv6);
        self.inner.fabric.attach(name, pid, member).await
    }

    /// Undoes [`Network::attach`]; the addresses stay reserved.
    pub async fn detach(&self, name: &Name) -> Result<(), NetworkError> {
        self.inner.names.remove(name);
        self.inner.fabric.detach(name).await;
        let veth = self.veth_of(name).await?;
        if let Some(veth) = veth {
            let attempt = NetworkError::kernel(format!("remove the link {veth} of workload {name}"));
            blocking(move || plumbing::leave(&veth).map_err(attempt)).await?;
        }
        self.inner.firewall.change(Change::Remove(name.clone())).await
    }

    async fn veth_of(&self, name: &Name) -> Result<Option<String>, NetworkError> {
        let name = name.clone();
        let find = move |db: &rusqlite::Connection| Ok(table::host_part(db, &name)?);
        let host = self.inner.store.read::<_, NetworkError, _>(find).await?;
        Ok(host.map(|host| self.inner.layout.veth(host)))
    }

    /// After the agent's start, with the workloads that run and their processes: joins those that
    /// are not joined, removes what nobody uses.
    pub async fn restore(&self, running: &[(Name, u32)]) -> Result<(), NetworkError> {
        let mut members = BTreeMap::new();
        let mut places = BTreeMap::new();
        for (name, pid) in running {
            let (this, found) = (self.clone(), name.clone());
            let find = move |db: &rusqlite::Connection| this.reservation(db, &found);
            let Some(reservation) = self.inner.store.read(find).await? else { continue };
            let member = self.member(name, &reservation);
            members.insert(name.clone(), member.clone());
            places.insert(name.clone(), (*pid, member.clone()));
            let (layout, bridge, pid) = (self.inner.layout.clone(), self.inner.bridge, *pid);
            let joined = blocking(move || {
                plumbing::join(&layout, bridge, &member, pid).map_err(NetworkError::kernel("join"))
            });
            // One that ended meanwhile must not keep the others from their network.
            if let Err(error) = joined.await {
                tracing::warn!(%error, workload = %name, "not joined to the bridge again");
            }
        }
        let used: Vec<String> = members.values().map(|member| member.veth.clone()).collect();
        self.replace_members(members).await?;
        let layout = self.inner.layout.clone();
        blocking(move || remove_veths(&layout, &used)).await?;
        // The task tries again by itself, and nobody's local network depends on it.
        if let Err(error) = self.inner.fabric.restore(places).await {
            tracing::warn!(%error, "workloads are not all in the fabric again");
        }
        Ok(())
    }

    fn member(&self, name: &Name, reservation: &Reservation) -> Member {
        Member::new(&self.inner.layout, reservation, self.inner.fabric.addresses(name))
    }

    async fn replace_members(&self, members: BTreeMap<Name, Member>) -> Result<(), NetworkError> {
        self.inner.names.replace(&members);
        let map = self.inner.config.membership.map.borrow().clone();
        let ranges = map.map(|map| [map.plan().range(), map.plan().ipv6()]);
        let (all, fabric) = (Change::Replace(members), Change::Fabric(ranges));
        let (replaced, led) =
            tokio::join!(self.inner.firewall.change(all), self.inner.firewall.change(fabric));
        replaced.and(led)
    }

    /// Who is attached, by the veths that are there.
    async fn attached(&self) -> Result<BTreeMap<Name, Member>, NetworkError> {
        let layout = self.inner.layout.clone();
        let list = move || plumbing::veths(&layout).map_err(NetworkError::kernel("list the host's links"));
        let veths = blocking(list).await?;
        let this = self.clone();
        let find = move |db: &rusqlite::Connection| {
            let mut members = BTreeMap::new();
            for (workload, _) in table::host_parts(db)? {
                let Ok(name) = workload.parse::<Name>() else { continue };
                let Some(reservation) = this.reservation(db, &name)? else { continue };
                let member = this.member(&name, &reservation);
                if veths.contains(&member.veth) {
                    members.insert(name, member);
                }
            }
            Ok::<_, NetworkError>(members)
        };
        self.inner.store.read(find).await
    }

    /// Writes resolv.conf, hosts and hostname of a workload and says where to mount them. Without
    /// a reservation the workload has the host's network and gets the host's resolvers.
    pub fn resolver_files(
        &self,
        name: &Name,
        reservation: Option<&Reservation>,
    ) -> Result<Vec<BindMount>, NetworkError> {
        let NetworkConfig { state_dir, resolv_conf, .. } = &self.inner.config;
        files::write(&state_dir.join("network"), resolv_conf, &self.inner.layout, name, reservation)
    }

    /// Removes what [`Network::resolver_files`] wrote for workloads that are not to be kept.
    pub fn retain_files(&self, keep: &dyn Fn(&str) -> bool) {
        file::retain_dirs(&self.inner.config.state_dir.join("network"), keep);
    }

    /// The bridge's prefixes, in CIDR form.
    pub fn subnets(&self) -> (String, String) {
        (self.inner.layout.subnet4.to_string(), self.inner.layout.subnet6.to_string())
    }

    /// What on this host keeps traffic from workloads, each with its remedy.
    pub fn warnings(&self) -> Vec<String> {
        self.inner.foreign.warnings()
    }

    /// After a commit that gave or took addresses in the fabric, or changed a policy. Resolves when it
    /// is in force.
    pub async fn refresh(&self) -> Result<(), NetworkError> {
        self.inner.fabric.refresh().await
    }

    /// Every workload's part in the fabric, now and from now on.
    pub fn fabric_states(&self) -> watch::Receiver<Arc<FabricStates>> {
        self.inner.fabric.states()
    }

    /// What the fabric's policies refused here of late, the latest first.
    pub async fn drops(&self) -> Result<Vec<v1::FabricDrop>, NetworkError> {
        self.inner.fabric.drops(&self.inner.layout).await
    }

    /// Where this capsule's workloads are in the fabric, for other members, now and from now on.
    pub fn locations(&self) -> watch::Receiver<BTreeMap<Name, Addresses>> {
        self.inner.fabric.locations()
    }

    /// Removes bridge, veths and tables; `start` makes them again.
    pub async fn teardown(&self) -> Result<(), NetworkError> {
        let failed = |error| NetworkError::Firewall(Arc::new(error));
        let removal = ruleset::removal(&self.inner.layout) + &fabric::removal(&self.inner.layout);
        nft::apply(&removal).await.map_err(failed)?;
        let layout = self.inner.layout.clone();
        blocking(move || {
            remove_veths(&layout, &[])?;
            plumbing::leave(&layout.bridge).map_err(NetworkError::kernel("remove the bridge"))
        })
        .await
    }
}

fn remove_veths(layout: &Layout, except: &[String]) -> Result<(), NetworkError> {
    let attempt = || NetworkError::kernel("remove links that no workload uses");
    let all = plumbing::veths(layout).map_err(attempt())?;
    all.iter()
        .filter(|veth| !except.contains(veth))
        .try_for_each(|veth| plumbing::leave(veth))
        .map_err(attempt())
}

/// The stored subnets, or at the first start new ones that are stored.
async fn settle_subnets(
    config: &NetworkConfig,
    store: &Store,
    events: &Events,
) -> Result<Layout, NetworkError> {
    let bridge = bridge_name(&config.capsule_id);
    let list = move || plumbing::taken(&bridge).map_err(NetworkError::kernel("list the host's routes"));
    let taken = blocking(list).await?;
    let stored = store.read(|db| Ok::<_, NetworkError>(table::subnets(db)?)).await?;
    let asked = config.bridge_subnet.as_deref().map(str::parse::<Subnet4>).transpose()?;
    let (four, six) = match stored {
        Some((four, six)) => (four.parse()?, six.parse()?),
        None => store_subnets(asked, &taken, store).await?,
    };
    if let Some((address, prefix)) = conflict(four, &taken) {
        let text = format!(
            "the bridge's subnet {four} overlaps {address}/{prefix} of this host: some hosts cannot be reached from workloads"
        );
        events.emit(NewEvent::new("node", "", "SubnetConflict", text).warning());
    }
    if asked.is_some_and(|asked| asked != four) {
        let text = format!("--bridge-subnet is not used: the capsule has had {four} since its first start");
        events.emit(NewEvent::new("node", "", "SubnetKept", text).warning());
    }
    Ok(Layout::new(&config.capsule_id, four, six))
}

async fn store_subnets(
    asked: Option<Subnet4>,
    taken: &[(IpAddr, u8)],
    store: &Store,
) -> Result<(Subnet4, Subnet6), NetworkError> {
    let four = asked.or_else(|| Subnet4::choose(taken)).ok_or(NetworkError::NoSubnet)?;
    let six = Subnet6::from_global_id(rand::random());
    let work = move |tx: &rusqlite::Transaction<'_>| {
        Ok::<_, NetworkError>(table::set_subnets(tx, &four.to_string(), &six.to_string())?)
    };
    store.write(work).await?;
    Ok((four, six))
}

fn conflict(subnet: Subnet4, taken: &[(IpAddr, u8)]) -> Option<(IpAddr, u8)> {
    taken.iter().copied().find(|(address, prefix)| *prefix > 0 && subnet.overlaps(*address, *prefix))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(NetworkError::Closed))
}
