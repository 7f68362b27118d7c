//! `ip`: interfaces, addresses and routes, many commands in one process.

use std::process::Command;

use anyhow::Result;

use super::{netns, run};

/// Longest name of an interface, in bytes (IFNAMSIZ less its NUL).
pub const MAX_NAME: usize = 15;

/// Runs `ip` commands, one a line, in this process' own namespace.
pub fn batch(commands: &str) -> Result<()> {
    run(Command::new("ip").args(["-batch", "-"]), commands).map(drop)
}

/// Runs them in the namespace called `name`.
pub fn batch_in(name: &str, commands: &str) -> Result<()> {
    run(Command::new("ip").args(["-n", name, "-batch", "-"]), commands).map(drop)
}

/// Whether this process' own namespace has the interface.
pub fn exists(interface: &str) -> bool {
    std::path::Path::new("/sys/class/net").join(interface).exists()
}

/// Removes it, where it is.
pub fn remove(interface: &str) -> Result<()> {
    if !exists(interface) {
        return Ok(());
    }
    run(Command::new("ip").args(["link", "delete", interface]), "").map(drop)
}

/// Interfaces in the namespace called `name`.
pub fn names_in(name: &str) -> Result<Vec<String>> {
    let shown = run(Command::new("ip").args(["-n", name, "-o", "link", "show"]), "")?;
    // "3: veth1@if4: <BROADCAST,…"
    let names = shown.lines().filter_map(|line| {
        line.split([' ', ':', '@']).find(|word| !word.is_empty() && word.parse::<u32>().is_err())
    });
    Ok(names.map(str::to_owned).collect())
}

/// Removes one of them, where it is; with a veth goes its other end.
pub fn remove_in(name: &str, interface: &str) -> Result<()> {
    if !names_in(name)?.iter().any(|known| known == interface) {
        return Ok(());
    }
    run(Command::new("ip").args(["-n", name, "link", "delete", interface]), "").map(drop)
}

/// Whether an interface in the namespace carries the address.
pub fn has_address(name: &str, interface: &str, address: &str) -> bool {
    let shown = run(Command::new("ip").args(["-n", name, "-o", "address", "show", "dev", interface]), "");
    shown.is_ok_and(|text| text.contains(&format!(" {address}/")))
}

/// Destinations that this process' own namespace has a route to, IPv4.
pub fn routed() -> Result<Vec<String>> {
    let routes = run(Command::new("ip").args(["-4", "route", "show", "table", "all"]), "")?;
    Ok(routes
        .lines()
        .filter_map(|line| line.split(' ').find(|word| word.contains('.')))
        .map(String::from)
        .collect())
}

/// Replaces the nftables rules named in `rules` inside the namespace, in one transaction.
pub fn nft_in(name: &str, rules: &str) -> Result<()> {
    run(netns::command(name, "nft").args(["-f", "-"]), rules).map(drop)
}
