//! Faults of the network, made on the hub's bridge where no capsule can see or undo them.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use super::{Plan, Testbed};
use crate::sys::link;

/// Shares of packets lost, in percent, by node; both directions each.
#[derive(Clone, Debug, Default)]
pub struct Losses(BTreeMap<String, u8>);

impl Losses {
    /// Sets the loss of a node; 0 heals it, 100 cuts it off without a word to either side.
    pub fn set(&mut self, node: &str, percent: u8) -> Result<()> {
        match percent {
            0 => drop(self.0.remove(node)),
            1..=100 => drop(self.0.insert(node.to_owned(), percent)),
            _ => bail!("{percent} % of packets cannot be lost"),
        }
        Ok(())
    }

    /// The whole rule set; netem would do it too, but is not in every kernel.
    fn rules(&self) -> String {
        let (from, to) = (self.drops("iifname"), self.drops("oifname"));
        format!(
            "table bridge faults\ndelete table bridge faults\n\
             table bridge faults {{\n\
             chain forward {{ type filter hook forward priority 0; policy accept;\n{from}{to}}}\n\
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
        self.0.iter().map(rule).collect()
    }
}

impl Testbed {
    /// Puts the losses in place of whatever faults there were.
    pub fn set_losses(&self, losses: &Losses) -> Result<()> {
        link::nft_in(&self.plan().hub(), &losses.rules())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_healed_node_has_no_rule() {
        let mut losses = Losses::default();
        losses.set("a", 100).unwrap();
        losses.set("b", 30).unwrap();
        losses.set("a", 0).unwrap();
        let rules = losses.rules();
        assert!(rules.contains("oifname \"p-b\" numgen random mod 100 < 30"));
        assert!(!rules.contains("p-a"));
        assert!(losses.set("b", 101).is_err());
    }
}
