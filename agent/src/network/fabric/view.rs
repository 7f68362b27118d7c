//! What follows from the map, the places and what other members say: pure.

use std::collections::{BTreeMap, BTreeSet};

use capsule_fabric::{
    map::{Addresses, CapsuleId, Member, MemberMap, Prefix},
    policy::{Compiled, Directory, Filter, Frame, Subject, World, compile, is_theirs},
};
use capsule_proto::{Name, reference::Reference};

use super::{FabricState, FabricStates, table::Row};

/// Places that a capsule which is in no fabric yet may give: those of the usual slice.
const USUAL: std::ops::Range<u32> = 2..1023;

/// Offsets that workloads may be given.
pub(super) struct Hosts {
    pub(super) range: std::ops::Range<u32>,
    /// Those whose addresses moved away with their workloads.
    pub(super) moved: BTreeSet<u32>,
}

impl Hosts {
    pub(super) fn new(map: Option<&MemberMap>, capsule: CapsuleId) -> Self {
        let range = map.map_or(USUAL, |map| map.plan().workload_offsets());
        let own = map.and_then(|map| map.of_capsule(capsule)).map(|me| me.slot);
        let moved = map
            .into_iter()
            .flat_map(MemberMap::overrides)
            .filter_map(|moved| map?.plan().place(moved.addresses.ipv4.into()))
            .filter_map(|(slot, offset)| (Some(slot) == own).then_some(offset));
        Self { range, moved: moved.collect() }
    }

    pub(super) fn free(&self) -> impl Iterator<Item = u32> {
        self.range.clone().filter(|offset| !self.moved.contains(offset))
    }
}

/// The fabric as this capsule's workloads are in it.
pub(super) struct View<'a> {
    inner: Option<(&'a MemberMap, &'a Member)>,
    rows: &'a [Row],
    directory: Directory,
    compiled: Compiled,
    subjects: Vec<Subject>,
}

impl<'a> View<'a> {
    pub(super) fn new(
        map: Option<&'a MemberMap>,
        capsule: CapsuleId,
        rows: &'a [Row],
        told: &Directory,
    ) -> Self {
        let inner = map.and_then(|map| Some((map, map.of_capsule(capsule)?)));
        let Some((map, me)) = inner else {
            let (directory, compiled) = (Directory::new(), Compiled::default());
            return Self { inner, rows, directory, compiled, subjects: Vec::new() };
        };
        let subjects: Vec<Subject> = rows.iter().filter_map(|row| subject(map, me, row)).collect();
        let directory = directory(map, me, told, &subjects);
        let compiled = compile(&World { map, me: &me.name, directory: &directory }, &subjects);
        Self { inner, rows, directory, compiled, subjects }
    }

    /// All addresses of the fabric.
    pub(super) fn ranges(&self) -> Option<[Prefix; 2]> {
        let (map, _) = self.inner?;
        Some([map.plan().range(), map.plan().ipv6()])
    }

    /// The capsule's own addresses.
    pub(super) fn own(&self) -> Option<Addresses> {
        let (map, me) = self.inner?;
        Some(map.plan().own(me.slot))
    }

    /// What references are resolved with, in a fabric.
    pub(super) fn world(&self) -> Option<World<'_>> {
        let (map, me) = self.inner?;
        Some(World { map, me: &me.name, directory: &self.directory })
    }

    /// A workload of this capsule that has an address.
    pub(super) fn subject(&self, name: &Name) -> Option<&Subject> {
        self.subjects.iter().find(|subject| subject.name == *name)
    }

    /// The packet filter, in a fabric.
    pub(super) fn filter(&self, frame: impl FnOnce([Prefix; 2]) -> Frame) -> Option<Filter> {
        let frame = frame(self.ranges()?);
        Some(Filter::new(frame, &self.world()?, &self.subjects, self.compiled.clone()))
    }

    /// Who has which name; every member is there. `None` outside a fabric.
    pub(super) fn names(&self) -> Option<Directory> {
        self.inner.map(|_| self.directory.clone())
    }

    /// Each workload's part as it is.
    pub(super) fn states(&self) -> FabricStates {
        self.rows.iter().map(|row| (row.workload.clone(), self.state(&row.workload))).collect()
    }

    fn state(&self, workload: &Name) -> FabricState {
        let addresses = self.subject(workload).map(|subject| subject.addresses);
        let problem = match (self.inner, addresses) {
            (_, Some(_)) => String::new(),
            (None, None) => "the capsule is in no fabric yet".to_owned(),
            (Some((_, me)), None) => {
                format!("the slice of {} has no address for it, or it moved away with the workload", me.name)
            }
        };
        let waiting = self.compiled.waiting.get(workload).into_iter().flatten();
        let waiting = waiting.map(|(reference, why)| (reference.to_string(), why.to_string())).collect();
        FabricState { addresses, waiting, problem }
    }
}

/// A workload with the addresses that it has: those that it came with, or those of its place.
fn subject(map: &MemberMap, me: &Member, row: &Row) -> Option<Subject> {
    let brought =
        map.overrides().iter().find(|moved| moved.member == me.name && moved.workload == row.workload);
    let dealt =
        || map.plan().workload(me.slot, row.host).filter(|addresses| is_theirs(map, &me.name, addresses));
    let addresses = brought.map(|moved| moved.addresses).or_else(dealt)?;
    // What was accepted at apply can be read.
    let read =
        |texts: &[String]| -> Vec<Reference> { texts.iter().filter_map(|text| text.parse().ok()).collect() };
    Some(Subject {
        name: row.workload.clone(),
        addresses,
        allow_to: read(&row.spec.allow_to),
        allow_from: read(&row.spec.allow_from),
    })
}

/// What each member may say, and what is known here of this one.
fn directory(map: &MemberMap, me: &Member, told: &Directory, subjects: &[Subject]) -> Directory {
    let of = |member: &Member| -> BTreeMap<Name, Addresses> {
        if member.name == me.name {
            return subjects.iter().map(|subject| (subject.name.clone(), subject.addresses)).collect();
        }
        let told = told.get(&member.name).into_iter().flatten();
        told.filter(|(_, addresses)| is_theirs(map, &member.name, addresses))
            .map(|(name, addresses)| (name.clone(), *addresses))
            .collect()
    };
    map.members().iter().map(|member| (member.name.clone(), of(member))).collect()
}
