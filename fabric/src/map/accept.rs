//! Whether a map is the next one for a capsule. Who signed it has been checked before.

use super::{CapsuleId, FabricId, Generation, PublicKey, SignedMap};

/// What a capsule goes by now.
#[derive(Clone, Copy, Debug)]
pub struct Held<'a> {
    /// Of the newest map that it took.
    pub fabric: FabricId,
    /// Of the same.
    pub generation: Generation,
    /// That map; `None` where the capsule was removed by it.
    pub map: Option<&'a SignedMap>,
}

/// What becomes of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the present one.
    Present,
    /// The capsule goes by it from now on.
    Take,
    /// The capsule is no longer in it, and leaves.
    Leave,
}

/// Why a map is refused. Nothing changes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another fabric's.
    #[error(
        "the map is of fabric {offered}, and this capsule is in fabric {held}; `fleetctl fabric reset` on it makes it \
         leave first"
    )]
    OtherFabric {
        /// The map's.
        offered: FabricId,
        /// The capsule's.
        held: FabricId,
    },
    /// Not newer.
    #[error(
        "the map is of generation {offered}, and this capsule goes by generation {held}; fetch the newest map first"
    )]
    Older {
        /// The map's.
        offered: Generation,
        /// The capsule's.
        held: Generation,
    },
    /// Two operators at once.
    #[error(
        "there are two maps of generation {generation}: this capsule has the one signed by {held}, and this one is \
         signed by {offered}; repeat the change on top of the newest map"
    )]
    Fork {
        /// Of both.
        generation: Generation,
        /// Who signed the capsule's.
        held: String,
        /// Who signed the other.
        offered: String,
    },
    /// Nobody enrolled it.
    #[error("this capsule is not in the map; `fleetctl fabric enroll` puts it there")]
    NotMember,
    /// A key that the capsule does not have.
    #[error(
        "the map names another key for this capsule than it has ({named}); repeat `fleetctl fabric enroll`, which \
         fetches its key"
    )]
    OtherKey {
        /// The map's.
        named: PublicKey,
    },
}

/// Whether the capsule, which has these keys, takes the map.
pub fn judge(
    offered: &SignedMap,
    held: Option<Held<'_>>,
    capsule: CapsuleId,
    keys: &[PublicKey],
) -> Result<Verdict, Refusal> {
    let map = offered.map();
    if let Some(held) = held {
        // One that was removed may join another fabric; one that is in one must leave first.
        if held.fabric != map.fabric() && held.map.is_some() {
            return Err(Refusal::OtherFabric { offered: map.fabric(), held: held.fabric });
        }
        if held.fabric == map.fabric() && held.generation >= map.generation() {
            return same_or_older(offered, held);
        }
    }
    match map.of_capsule(capsule) {
        Some(own) if keys.contains(&own.public_key) => Ok(Verdict::Take),
        Some(own) => Err(Refusal::OtherKey { named: own.public_key }),
        None if held.is_some_and(|held| held.map.is_some()) => Ok(Verdict::Leave),
        None => Err(Refusal::NotMember),
    }
}

fn same_or_older(offered: &SignedMap, held: Held<'_>) -> Result<Verdict, Refusal> {
    let generation = offered.map().generation();
    match held.map {
        Some(present) if present.bytes() == offered.bytes() => Ok(Verdict::Present),
        Some(present) if held.generation == generation => Err(Refusal::Fork {
            generation,
            held: present.signer().to_owned(),
            offered: offered.signer().to_owned(),
        }),
        _ => Err(Refusal::Older { offered: generation, held: held.generation }),
    }
}
