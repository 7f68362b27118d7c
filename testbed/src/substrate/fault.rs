//! Faults of the network, made on the hub's bridge where no capsule can see or undo them.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use super::{Plan, Testbed, wire::NODE_LINK};
use crate::sys::link;

/// What is wrong with the network.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Shares of packets lost, in percent, by node; both directions each.
    losses: BTreeMap<String, u8>,
    /// Groups of nodes that hear nothing of each other.
    groups: Vec<Vec<String>>,
}

impl Faults {
    /// Sets the loss of a node; 0 heals it, 100 cuts it off without a word to either side.
    pub fn lose(&mut self, node: &str, percent: u8) -> Result<()> {
        match percent {
            0 => drop(self.losses.remove(node)),
            1..=100 => drop(self.losses.insert(node.to_owned(), percent)),
            _ => bail!("{percent} % of packets cannot be lost"),
        }
        Ok(())
    }

    /// Splits the network: packets pass within each of these groups, and to whoever is in none, but
    /// not from one to another. No groups heal it.
    pub fn split(&mut self, groups: &[&[&str]]) {
        self.groups = groups.iter().map(|group| group.iter().map(ToString::to_string).collect()).collect();
    }

    /// The whole rule set; netem would do it too, but is not in every kernel.
    fn rules(&self) -> String {
        let (from, to, across) = (self.drops("iifname"), self.drops("oifname"), self.split_drops());
        format!(
            "table bridge faults\ndelete table bridge faults\n\
             table bridge faults {{\n\
             chain forward {{ type filter hook forward priority 0; policy accept;\n{from}{to}{across}}}\n\
             chain input {{ type filter hook input priority 0; policy accept;\n{from}}}\n\
             chain output {{ type filter hook output priority 0; policy accept;\n{to}}}\n\
             }}\n"
        )
    }

    fn drops(&self, direction: &str) -> String {
        let rule = |(node, percent): (&String, &u8)| {
            let dice = match percent {
                100 => String::new(),
                some => format!("numgen random mod 100 < {some} "),
            };
            format!("{direction} \"{}\" {dice}counter drop\n", Plan::port(node))
        };
        self.losses.iter().map(rule).collect()
    }

    fn split_drops(&self) -> String {
        let ports = |group: &[String]| {
            let quoted = |node: &String| format!("\"{}\"", Plan::port(node));
            group.iter().map(quoted).collect::<Vec<_>>().join(", ")
        };
        let rule = |(at, group): (usize, &Vec<String>)| {
            let others = [&self.groups[..at], &self.groups[at + 1..]].concat().concat();
            format!("iifname {{ {} }} oifname {{ {} }} counter drop\n", ports(group), ports(&others))
        };
        self.groups.iter().enumerate().map(rule).collect()
    }
}

impl Testbed {
    /// Puts these in place of whatever faults there were.
    pub fn set_faults(&self, faults: &Faults) -> Result<()> {
        link::nft_in(&self.plan().hub(), &faults.rules())
    }

    /// Takes away what a power failure would take of a node's network: links and rules that its
    /// agent made.
    pub fn lose_network(&self, node: &str) -> Result<()> {
        let namespace = self.plan().namespace(node);
        for link in link::names_in(&namespace)? {
            if !["lo", NODE_LINK].contains(&link.as_str()) {
                link::remove_in(&namespace, &link)?;
            }
        }
        link::nft_in(&namespace, "flush ruleset\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_healed_node_has_no_rule() {
        let mut faults = Faults::default();
        faults.lose("a", 100).unwrap();
        faults.lose("b", 30).unwrap();
        faults.lose("a", 0).unwrap();
        let rules = faults.rules();
        assert!(rules.contains("oifname \"p-b\" numgen random mod 100 < 30"));
        assert!(!rules.contains("p-a"));
        assert!(faults.lose("b", 101).is_err());
    }

    #[test]
    fn what_is_split_hears_nothing_of_the_other_groups() {
        let mut faults = Faults::default();
        faults.split(&[&["a", "b"], &["c"]]);
        let rules = faults.rules();
        assert!(rules.contains(r#"iifname { "p-a", "p-b" } oifname { "p-c" } counter drop"#), "{rules}");
        assert!(rules.contains(r#"iifname { "p-c" } oifname { "p-a", "p-b" } counter drop"#), "{rules}");
        faults.split(&[]);
        assert!(!faults.rules().contains("p-a"));
    }
}
