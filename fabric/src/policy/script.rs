//! Transactions for `nft -f`: from what the kernel has to what it shall have.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{Display, Write as _},
    net::IpAddr,
};

use super::{
    chains,
    compile::{Direction, Element, Family, Set},
    filter::{Filter, Who},
};

/// Most pairs and ports that are remembered of each direction and family.
const REFUSALS: u32 = 4096;
/// How long a refusal is remembered after it was last seen.
const REFUSAL_AGE: &str = "1h";

impl Filter {
    /// A transaction that replaces the table, whatever it is now.
    pub fn whole(&self) -> String {
        let table = &self.frame.table;
        let mut script = removal(table);
        let _ = write!(script, "table inet {table} {{\n{}{}}}\n", self.declarations(), self.chains());
        self.fill(&mut script, None);
        script
    }

    /// A transaction from `old`, which was applied before, to this; counters count on. Empty where
    /// both are the same; `None` where only [`Self::whole`] will do.
    pub fn since(&self, old: &Self) -> Option<String> {
        if self.frame != old.frame {
            return None;
        }
        let table = &self.frame.table;
        let mut script = String::new();
        if !self.sets.keys().eq(old.sets.keys()) {
            let _ = writeln!(script, "flush table inet {table}");
            for gone in old.sets.keys().filter(|set| !self.sets.contains_key(set)) {
                let _ = writeln!(script, "delete set inet {table} {gone}");
            }
            let _ = write!(script, "table inet {table} {{\n{}{}}}\n", self.declarations(), self.chains());
        }
        self.fill(&mut script, Some(old));
        Some(script)
    }

    fn chains(&self) -> String {
        chains::chains(&self.frame, self.sets.keys())
    }

    fn declarations(&self) -> String {
        let mut text = String::new();
        for counter in ["refused", "revoked", "stray", "malformed"] {
            let _ = writeln!(text, "  counter {counter} {{ }}");
        }
        for family in [Family::V4, Family::V6] {
            for (_, who) in Who::ALL {
                let _ = writeln!(text, "  set {who}{family} {{ type {}; }}", kind(family));
            }
            for way in ["out", "in"] {
                let _ = writeln!(
                    text,
                    "  set refused_{way}{family} {{ type {}; flags dynamic,timeout; size {REFUSALS}; timeout \
                     {REFUSAL_AGE}; counter; }}",
                    key(family)
                );
            }
        }
        for set in self.sets.keys() {
            let _ = writeln!(text, "  set {set} {{ type {}; counter; }}", key(set.family));
        }
        text
    }

    /// Elements that are not in `old`, after those that are only there.
    fn fill(&self, script: &mut String, old: Option<&Self>) {
        let nobody = BTreeMap::new();
        let nothing = BTreeMap::new();
        let (old_known, old_sets) = old.map_or((&nobody, &nothing), |old| (&old.known, &old.sets));
        for family in [Family::V4, Family::V6] {
            for (who, name) in Who::ALL {
                let name = format!("{name}{family}");
                self.change(
                    script,
                    &name,
                    self.known.get(&(who, family)),
                    old_known.get(&(who, family)),
                    IpAddr::to_string,
                );
            }
        }
        for (set, elements) in &self.sets {
            let text = |element: &Element| element.text(set);
            self.change(script, &set.to_string(), Some(elements), old_sets.get(set), text);
        }
    }

    fn change<T: Ord>(
        &self,
        script: &mut String,
        set: &dyn Display,
        new: Option<&BTreeSet<T>>,
        old: Option<&BTreeSet<T>>,
        text: impl Fn(&T) -> String,
    ) {
        let none = BTreeSet::new();
        let (new, old) = (new.unwrap_or(&none), old.unwrap_or(&none));
        for (verb, elements) in [("delete", old.difference(new)), ("add", new.difference(old))] {
            let elements: Vec<String> = elements.map(&text).collect();
            if !elements.is_empty() {
                let table = &self.frame.table;
                let _ = writeln!(script, "{verb} element inet {table} {set} {{ {} }}", elements.join(", "));
            }
        }
    }
}

impl Element {
    /// As nft reads it in this set.
    pub fn text(&self, set: &Set) -> String {
        let Self { own, peer, protocol, port } = self;
        let (asker, asked) = match set.direction {
            Direction::Out => (own, peer),
            Direction::In => (peer, own),
        };
        format!("{asker} . {asked} . {} . {port}", protocol.0)
    }
}

/// Removes the table, whether it is there or not.
pub fn removal(table: &str) -> String {
    format!("table inet {table}\ndelete table inet {table}\n")
}

fn kind(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4_addr",
        Family::V6 => "ipv6_addr",
    }
}

fn key(family: Family) -> String {
    let kind = kind(family);
    format!("{kind} . {kind} . inet_proto . inet_service")
}
