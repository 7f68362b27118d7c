//! What operators do to a map: from generation n to n + 1. A change that changes nothing makes no
//! new generation, so that repeating one is harmless.

use capsule_proto::Name;

use super::{CapsuleId, Endpoint, Generation, Member, MemberMap, PublicKey, Slot};

/// A capsule to be enrolled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMember {
    /// What it is to be called; a member keeps the name it has.
    pub name: Name,
    /// Who it is.
    pub capsule: CapsuleId,
    /// Its key.
    pub public_key: PublicKey,
    /// The slot that it must have; the lowest free one where not given.
    pub slot: Option<Slot>,
    /// Where it may be met, as far as can be told; a member keeps those it has.
    pub endpoints: Vec<Endpoint>,
    /// Of a new member, in seconds.
    pub keepalive: u16,
}

/// One thing to be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds a capsule, or gives a member its present key.
    Enroll(NewMember),
    /// Takes one out; its slot is free.
    Remove(Name),
    /// Says where one may be met.
    SetEndpoints(Name, Vec<Endpoint>),
    /// Says whether one forwards for others.
    SetRelay(Name, bool),
    /// Gives one another key.
    SetKey(Name, PublicKey),
}

/// Why a change cannot be made. The map is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// No such member.
    #[error("there is no member {0} in the fabric; see `fleetctl fabric map show`")]
    Unknown(Name),
    /// The name is another capsule's.
    #[error(
        "another capsule is called {0} in the fabric; rename the context of one of them (`fleetctl context rename`), or \
         remove the other from the fabric first"
    )]
    NameTaken(Name),
    /// The key is another capsule's.
    #[error("{name} has the same key as {holder}: one of them is a copy of the other's state directory")]
    KeyTaken {
        /// Who is to have it.
        name: Name,
        /// Who has it.
        holder: Name,
    },
    /// No such slot.
    #[error("there is no slot {slot}: the range has {slots}, from 0")]
    NoSlot {
        /// As asked for.
        slot: Slot,
        /// As many as there are.
        slots: u32,
    },
    /// Somebody has the slot.
    #[error("slot {slot} is not free: {holder} has it")]
    SlotTaken {
        /// As asked for.
        slot: Slot,
        /// Who has it.
        holder: String,
    },
    /// It has one already.
    #[error(
        "{name} has slot {has} and with it its addresses; remove it from the fabric before it gets slot {asked}"
    )]
    SlotKept {
        /// Who.
        name: Name,
        /// Its own.
        has: Slot,
        /// As asked for.
        asked: Slot,
    },
    /// All slots are taken.
    #[error("the range {0} has no free slot left; a fabric with a wider range or narrower slices has more")]
    Full(String),
    /// Workloads live there.
    #[error("{member} still has workload {workload}, which moved there with its addresses; move it on first")]
    HasMoved {
        /// Who is to be removed.
        member: Name,
        /// What would have no place.
        workload: Name,
    },
}

impl MemberMap {
    /// The next generation with all changes made, or `None` where it would be the same.
    pub fn with(&self, changes: &[Change]) -> Result<Option<Self>, ChangeError> {
        let mut next = self.clone();
        changes.iter().try_for_each(|change| next.make(change))?;
        if next == *self {
            return Ok(None);
        }
        next.generation = self.generation.next();
        Ok(Some(next))
    }

    /// A map of the same content and a later generation than `least`.
    pub fn after(&self, least: Generation) -> Self {
        Self { generation: self.generation.max(least).next(), ..self.clone() }
    }

    fn make(&mut self, change: &Change) -> Result<(), ChangeError> {
        match change {
            Change::Enroll(new) => self.enroll(new),
            Change::Remove(name) => self.remove(name),
            Change::SetEndpoints(name, endpoints) => {
                self.member_mut(name).map(|member| member.endpoints.clone_from(endpoints))
            }
            Change::SetRelay(name, relay) => self.member_mut(name).map(|member| member.relay = *relay),
            Change::SetKey(name, key) => {
                let capsule = self.member_mut(name)?.capsule;
                self.check_key(capsule, name, key)?;
                self.member_mut(name).map(|member| member.public_key = *key)
            }
        }
    }

    fn enroll(&mut self, new: &NewMember) -> Result<(), ChangeError> {
        self.check_key(new.capsule, &new.name, &new.public_key)?;
        if let Some(known) = self.members.iter_mut().find(|member| member.capsule == new.capsule) {
            if let Some(asked) = new.slot.filter(|asked| *asked != known.slot) {
                return Err(ChangeError::SlotKept { name: known.name.clone(), has: known.slot, asked });
            }
            known.public_key = new.public_key;
            return Ok(());
        }
        if self.member(new.name.as_str()).is_some() {
            return Err(ChangeError::NameTaken(new.name.clone()));
        }
        let slot = match new.slot {
            Some(slot) => self.check_slot(slot)?,
            None => {
                self.lowest_free_slot().ok_or_else(|| ChangeError::Full(self.plan.range().to_string()))?
            }
        };
        let member = Member {
            name: new.name.clone(),
            capsule: new.capsule,
            public_key: new.public_key,
            slot,
            endpoints: new.endpoints.clone(),
            keepalive: new.keepalive,
            relay: false,
        };
        let at = self.members.partition_point(|before| before.slot < slot);
        self.members.insert(at, member);
        Ok(())
    }

    fn remove(&mut self, name: &Name) -> Result<(), ChangeError> {
        self.member_mut(name)?;
        if let Some(moved) = self.overrides.iter().find(|moved| moved.member == *name) {
            return Err(ChangeError::HasMoved { member: name.clone(), workload: moved.workload.clone() });
        }
        self.members.retain(|member| member.name != *name);
        Ok(())
    }

    fn member_mut(&mut self, name: &Name) -> Result<&mut Member, ChangeError> {
        let found = self.members.iter_mut().find(|member| member.name == *name);
        found.ok_or_else(|| ChangeError::Unknown(name.clone()))
    }

    fn check_key(&self, capsule: CapsuleId, name: &Name, key: &PublicKey) -> Result<(), ChangeError> {
        match self.of_key(key).filter(|holder| holder.capsule != capsule) {
            Some(holder) => Err(ChangeError::KeyTaken { name: name.clone(), holder: holder.name.clone() }),
            None => Ok(()),
        }
    }

    fn check_slot(&self, slot: Slot) -> Result<Slot, ChangeError> {
        if !self.plan.has(slot) {
            return Err(ChangeError::NoSlot { slot, slots: self.plan.slots() });
        }
        if self.is_free(slot) {
            return Ok(slot);
        }
        let holder =
            self.of_slot(slot).map_or("a workload that moved away".to_owned(), |m| m.name.to_string());
        Err(ChangeError::SlotTaken { slot, holder })
    }
}
