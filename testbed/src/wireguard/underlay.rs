//! Namespaces joined by wires and a switch, as the capsules of a fleet are.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::Result;

use crate::sys::{link, netns};

/// The interface of each namespace that leads to the others.
pub const WIRE: &str = "wire";

/// So that one program may have several at a time.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// Namespaces that go when it is dropped.
pub struct Underlay {
    tag: String,
    members: usize,
}

impl Underlay {
    /// Makes `members` namespaces with an address of either family each.
    pub fn new(members: usize) -> Result<Self> {
        let tag = format!("w{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let this = Self { tag, members };
        for at in 0..members {
            netns::ensure(&this.namespace(at))?;
        }
        this.join()?;
        for at in 0..members {
            let [v4, v6] = this.addresses(at);
            let commands = format!(
                "link set lo up\nlink set {WIRE} up\naddress add {v4}/24 dev {WIRE}\naddress add {v6}/64 dev {WIRE} nodad\n"
            );
            link::batch_in(&this.namespace(at), &commands)?;
        }
        Ok(this)
    }

    /// Name of a member's namespace.
    pub fn namespace(&self, at: usize) -> String {
        format!("{}-{at}", self.tag)
    }

    /// Name for a device in it; no other device of this host has it.
    pub fn interface(&self, at: usize) -> String {
        self.namespace(at)
    }

    /// A member's addresses, IPv4 first.
    pub fn addresses(&self, at: usize) -> [IpAddr; 2] {
        let host = at as u8 + 1;
        [Ipv4Addr::new(10, 9, 0, host).into(), Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, host.into()).into()]
    }

    fn join(&self) -> Result<()> {
        let hub = self.hub();
        netns::ensure(&hub)?;
        let mut commands = String::from("link add switch type bridge\nlink set switch up\n");
        for at in 0..self.members {
            let member = self.namespace(at);
            let _ = write!(
                commands,
                "link add port{at} type veth peer name {WIRE} netns {member}\nlink set port{at} master switch up\n"
            );
        }
        link::batch_in(&hub, &commands)
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.tag)
    }
}

impl Drop for Underlay {
    fn drop(&mut self) {
        for name in (0..self.members).map(|at| self.namespace(at)).chain([self.hub()]) {
            if let Err(error) = netns::remove(&name) {
                eprintln!("network namespace {name} stays: {error:#}");
            }
        }
    }
}
