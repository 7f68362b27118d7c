//! resolv.conf(5).

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Mutex,
    time::SystemTime,
};

/// Of DNS.
const PORT: u16 = 53;

/// What is needed of a resolv.conf.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResolvConf {
    pub(crate) servers: Vec<SocketAddr>,
    pub(crate) search: Vec<String>,
}

impl ResolvConf {
    pub(crate) fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => conf.servers.extend(words.next().and_then(server)),
                Some("search" | "domain") => conf.search = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
        conf
    }
}

/// `fe80::1%eth0` is a nameserver, too.
fn server(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(SocketAddr::new(address, PORT));
    }
    let (address, zone) = text.split_once('%')?;
    let scope = zone.parse().or_else(|_| nix::net::if_::if_nametoindex(zone)).ok()?;
    Some(std::net::SocketAddrV6::new(address.parse().ok()?, PORT, 0, scope).into())
}

/// The host's resolvers, read again when their file changed.
pub(super) struct Upstreams {
    path: PathBuf,
    /// Asking ourselves would never end.
    never: Vec<IpAddr>,
    known: Mutex<(Option<SystemTime>, Vec<SocketAddr>)>,
}

impl Upstreams {
    pub(super) fn new(path: PathBuf, never: Vec<IpAddr>) -> Self {
        Self { path, never, known: Mutex::default() }
    }

    pub(super) fn get(&self) -> Vec<SocketAddr> {
        let modified = std::fs::metadata(&self.path).and_then(|meta| meta.modified()).ok();
        let mut known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if known.0 != modified || modified.is_none() {
            let text = std::fs::read_to_string(&self.path).unwrap_or_default();
            let mut servers = ResolvConf::parse(&text).servers;
            servers.retain(|server| !self.never.contains(&server.ip()));
            *known = (modified, servers);
        }
        known.1.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_search_are_read_and_the_rest_is_skipped() {
        let text = "# c\nnameserver 10.0.0.53\nnameserver fd00::53\nnameserver bad\ndomain old\nsearch a.example b.example\noptions ndots:2\n";
        let conf = ResolvConf::parse(text);
        assert_eq!(conf.servers, ["10.0.0.53:53".parse().unwrap(), "[fd00::53]:53".parse().unwrap()]);
        assert_eq!(conf.search, ["a.example", "b.example"]);
    }

    #[test]
    fn the_file_is_read_again_when_it_changed_and_we_are_never_our_own_upstream() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let upstreams = Upstreams::new(file.path().to_owned(), vec!["10.88.0.1".parse().unwrap()]);
        assert!(upstreams.get().is_empty());
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::fs::write(file.path(), "nameserver 10.88.0.1\nnameserver 10.0.0.1\n").unwrap();
        assert_eq!(upstreams.get(), ["10.0.0.1:53".parse().unwrap()]);
    }
}
