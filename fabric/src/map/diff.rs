//! What a map changes for one of its members: its peers, each with what it had and has.

use std::collections::BTreeSet;

use super::{CapsuleId, Member, MemberMap, Prefix};

/// Peers of a member, by what became of them; others are as they were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// New ones.
    pub added: Vec<Member>,
    /// Those that are gone.
    pub removed: Vec<Member>,
    /// Those that are different, as they were and are.
    pub changed: Vec<(Member, Member)>,
}

impl Diff {
    /// Whether every peer is as it was.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

/// From `old` to `new`, as the capsule `of` sees it; without an old map every peer is new.
pub fn diff(old: Option<&MemberMap>, new: &MemberMap, of: CapsuleId) -> Diff {
    let mut diff = Diff::default();
    let before = |capsule| old.and_then(|old| Some((old, old.of_capsule(capsule)?)));
    for member in new.members().iter().filter(|member| member.capsule != of) {
        match before(member.capsule) {
            None => diff.added.push(member.clone()),
            Some((old, was)) if was != member || allowed(old, was) != allowed(new, member) => {
                diff.changed.push((was.clone(), member.clone()));
            }
            Some(_) => {}
        }
    }
    let gone = old.map(MemberMap::members).unwrap_or_default().iter().filter(|was| was.capsule != of);
    diff.removed = gone.filter(|was| new.of_capsule(was.capsule).is_none()).cloned().collect();
    diff
}

fn allowed(map: &MemberMap, member: &Member) -> BTreeSet<Prefix> {
    map.allowed_ips(member).into_iter().collect()
}
