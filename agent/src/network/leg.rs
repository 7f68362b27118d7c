//! How a packet goes on, as the kernel itself says where the packet is.

use std::{io, net::IpAddr};

use super::{Network, NetworkError, blocking};
use crate::sys::{
    link,
    netlink::{self, Netlink, netns_of},
    route,
};

/// How a packet goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg {
    /// Name of the link that it leaves by.
    pub link: String,
    /// Next hop; `None` where the link itself leads to its destination.
    pub gateway: Option<IpAddr>,
}

/// Where a packet is when its way is asked for.
#[derive(Clone, Debug)]
pub enum Place {
    /// In a workload, whose process this is.
    Inside(u32),
    /// It came to the capsule by this link.
    CameBy(String),
    /// The capsule itself sends it.
    Own,
}

impl Network {
    /// The bridge's name.
    pub fn bridge(&self) -> &str {
        &self.inner.layout.bridge
    }

    /// How a packet goes on from a place; `None` where it does not.
    pub async fn next(
        &self,
        place: Place,
        to: IpAddr,
        from: Option<IpAddr>,
    ) -> Result<Option<Leg>, NetworkError> {
        let attempt = NetworkError::kernel(format!("ask for the route to {to}"));
        blocking(move || leg(&place, to, from).map_err(attempt)).await
    }
}

fn leg(place: &Place, to: IpAddr, from: Option<IpAddr>) -> io::Result<Option<Leg>> {
    match place {
        Place::Inside(pid) => {
            netlink::in_netns(&netns_of(*pid), || onward(&mut Netlink::open()?, to, from, None))
        }
        Place::CameBy(name) => {
            let mut netlink = Netlink::open()?;
            let Some(link) = link::find(&mut netlink, name)? else { return Ok(None) };
            onward(&mut netlink, to, from, Some(link.index))
        }
        Place::Own => onward(&mut Netlink::open()?, to, from, None),
    }
}

fn onward(
    netlink: &mut Netlink,
    to: IpAddr,
    from: Option<IpAddr>,
    by: Option<u32>,
) -> io::Result<Option<Leg>> {
    let Some(next) = route::next(netlink, to, from, by)? else { return Ok(None) };
    let links = link::links(netlink)?;
    let link = links.into_iter().find(|link| link.index == next.link).map(|link| link.name);
    Ok(Some(Leg { link: link.unwrap_or_default(), gateway: next.gateway }))
}
