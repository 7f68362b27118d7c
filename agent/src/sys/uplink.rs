//! Whether the machine has a way to others: a route by a link that is hardware and has carrier.

use std::{collections::BTreeSet, fs, path::Path};

/// proc_net_route(5): a header, then the link's name in the first column.
const ROUTES: &str = "/proc/net/route";
/// The same of IPv6: no header, the destination first and the link last.
const ROUTES6: &str = "/proc/net/ipv6_route";
/// Link-local and multicast, which every link has.
const NOWHERE: [&str; 2] = ["fe80", "ff00"];

/// Links by which packets may leave the machine now.
pub fn links() -> BTreeSet<String> {
    let text = |path| fs::read_to_string(path).unwrap_or_default();
    let mut links = routed(&text(ROUTES), &text(ROUTES6));
    links.retain(|link| {
        let link = Path::new("/sys/class/net").join(link);
        let has_carrier = fs::read_to_string(link.join("carrier")).is_ok_and(|carrier| carrier.trim() == "1");
        has_carrier && link.join("device").exists()
    });
    links
}

fn routed(routes: &str, routes6: &str) -> BTreeSet<String> {
    let v4 = routes.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    let leads = |line: &&str| !NOWHERE.iter().any(|prefix| line.starts_with(prefix));
    let v6 = routes6.lines().filter(leads).filter_map(|line| line.split_whitespace().last());
    v4.chain(v6).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_those_with_a_route_beyond_themselves() {
        let routes = "Iface\tDestination\tGateway\neth0\t00000000\t010200C0\nbr0\t000200C0\t00000000\n";
        let routes6 = "fd00 40 0 00 0 1 2 3 eth1\nfe80 40 0 00 0 1 2 3 eth2\nff00 08 0 00 0 1 2 3 eth3\n";
        let names: Vec<_> = routed(routes, routes6).into_iter().collect();
        assert_eq!(names, ["br0", "eth0", "eth1"]);
        assert!(routed("", "").is_empty());
    }
}
