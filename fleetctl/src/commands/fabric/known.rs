//! The newest member map: asked of every capsule, and remembered.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, anyhow, bail};
use capsule_client::{CallError, Target, fan_out, signed_by};
use capsule_fabric::map::{FabricId, MemberMap, SignedMap};
use capsule_proto::v1::{GetMapRequest, ListKeysRequest, OperatorKey, Role};
use futures_util::StreamExt as _;
use tonic::Code;

use crate::{
    failure::{Failure, usage},
    session::{QUICK, Session},
};

/// What the fleet goes by.
pub(super) struct Known {
    /// The newest map; `None` where there is no fabric yet.
    pub(super) newest: Option<SignedMap>,
    /// Every capsule of the operator, with the map that it has.
    pub(super) capsules: Vec<Answer>,
}

/// A capsule and the map that it has, where it is in a fabric.
type Answer = (Target, Result<Option<SignedMap>, Failure>);

impl Known {
    /// Asks everybody at once.
    pub(super) async fn ask(session: &Session) -> Result<Self> {
        let (kept, capsules) = (kept(session)?, maps(session).await?);
        let held = held(&capsules);
        let fabric = fabric(kept.as_ref(), &held)?;
        let held: Vec<&SignedMap> =
            held.into_iter().filter(|map| Some(map.map().fabric()) == fabric).collect();
        let newest = newest(kept.as_ref(), &held);
        if let Some(newest) = newest.as_ref().filter(|newest| kept.as_ref() != Some(newest)) {
            check_signer(session, newest, &capsules).await?;
            session.fleet.home().keep_fabric_map(newest.wire())?;
        }
        Ok(Self { newest, capsules })
    }

    /// Goes on with this map, which somebody brought, where it is the newest; nothing is kept of one
    /// that is refused. `forget` gives up a fabric that no capsule is in any more.
    pub(super) async fn import(session: &Session, brought: SignedMap, forget: bool) -> Result<Self> {
        let (kept, capsules) = (kept(session)?, maps(session).await?);
        let held = held(&capsules);
        if let Some(kept) = kept.as_ref().filter(|kept| kept.map().fabric() != brought.map().fabric()) {
            check_forgotten(kept, &brought, &held, forget)?;
        }
        check_newest(&brought, held.into_iter().chain(&kept))?;
        check_signer(session, &brought, &capsules).await?;
        session.fleet.home().keep_fabric_map(brought.wire())?;
        Ok(Self { newest: Some(brought), capsules })
    }

    /// The newest map, where there is a fabric.
    pub(super) fn map(&self) -> Result<&MemberMap> {
        self.signed().map(SignedMap::map)
    }

    /// The same with its signature.
    pub(super) fn signed(&self) -> Result<&SignedMap> {
        let none = "there is no fabric yet: none of the capsules that answer is in one; `fleetctl fabric init` makes one";
        self.newest.as_ref().ok_or_else(|| anyhow!(none))
    }
}

/// Beside the contexts.
fn kept(session: &Session) -> Result<Option<SignedMap>> {
    let kept = session.fleet.home().fabric_map()?;
    kept.map(SignedMap::try_from).transpose().context("the member map kept beside the contexts")
}

fn held(capsules: &[Answer]) -> Vec<&SignedMap> {
    capsules.iter().filter_map(|(_, answer)| answer.as_ref().ok()?.as_ref()).collect()
}

fn check_forgotten(kept: &SignedMap, brought: &SignedMap, held: &[&SignedMap], forget: bool) -> Result<()> {
    let (yours, other) = (kept.map().fabric(), brought.map().fabric());
    let is_in_use = held.iter().any(|map| map.map().fabric() == yours);
    if forget && !is_in_use {
        return Ok(());
    }
    let hint = if is_in_use {
        "capsules are in yours; another fabric wants a configuration of its own (FLEETCTL_CONFIG)"
    } else {
        "no capsule that answers is in yours: --forget takes the other one all the same"
    };
    Err(usage(format!("the member map is of fabric {other}, and yours is {yours}: {hint}")))
}

fn check_newest<'a>(brought: &SignedMap, known: impl Iterator<Item = &'a SignedMap>) -> Result<()> {
    let (map, hint) = (brought.map(), "see `fleetctl fabric map show`; nothing was changed");
    let generation = map.generation();
    for known in known.filter(|known| known.map().fabric() == map.fabric()) {
        let newer = known.map().generation();
        if newer > generation {
            return Err(usage(format!(
                "the member map is of generation {generation}, and generation {newer} is known; {hint}"
            )));
        }
        if newer == generation && known.bytes() != brought.bytes() {
            return Err(usage(format!(
                "another member map of generation {generation} is known, signed by {}; {hint}",
                known.signer()
            )));
        }
    }
    Ok(())
}

/// What every capsule of the operator goes by.
async fn maps(session: &Session) -> Result<Vec<Answer>> {
    let options = session.fan_out(Some(session.timeout(QUICK)));
    let connector = session.connector()?;
    let answers = fan_out(&connector, session.everyone()?, options, async |capsule| {
        match capsule.fabric().get_map(GetMapRequest {}).await {
            Ok(answer) => Ok(Some(answer.into_inner())),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(CallError::from(status)),
        }
    });
    let read = |answer: Result<Option<_>, CallError>| {
        let map = answer?.map(SignedMap::try_from).transpose();
        map.map_err(|error| Failure::local(format!("its member map cannot be read: {error}")))
    };
    let mut capsules: Vec<_> = answers.map(|(target, answer)| (target, read(answer))).collect().await;
    capsules.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
    Ok(capsules)
}

/// The one fabric that is meant.
fn fabric(kept: Option<&SignedMap>, held: &[&SignedMap]) -> Result<Option<FabricId>> {
    if let Some(kept) = kept {
        return Ok(Some(kept.map().fabric()));
    }
    let mut fabrics: Vec<FabricId> = held.iter().map(|map| map.map().fabric()).collect();
    fabrics.sort_unstable();
    fabrics.dedup();
    match fabrics.as_slice() {
        [] => Ok(None),
        [fabric] => Ok(Some(*fabric)),
        many => bail!(
            "your capsules are in {} different fabrics ({}); say which one is yours with `fleetctl -c MEMBER fabric map \
             export | fleetctl fabric map import -`",
            many.len(),
            many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        ),
    }
}

/// The map of the highest generation; of two, the one that more members have, so that all operators
/// go on with the same.
fn newest(kept: Option<&SignedMap>, held: &[&SignedMap]) -> Option<SignedMap> {
    let mut votes: BTreeMap<(u64, usize, &[u8]), &SignedMap> = BTreeMap::new();
    for map in held.iter().copied().chain(kept) {
        let holders = held.iter().filter(|other| other.bytes() == map.bytes()).count();
        votes.insert((map.map().generation().0, holders, map.bytes()), map);
    }
    votes.into_values().next_back().cloned()
}

/// One member alone must not make up a map for the operator to sign the next of: who signed it is
/// enrolled on most of those that answer.
async fn check_signer(session: &Session, map: &SignedMap, capsules: &[Answer]) -> Result<()> {
    let own = session.fleet.key()?;
    if map.signer() == own.key_id().as_str() {
        let is_own = map.verify(|message, signature| signed_by(own.public_key(), message, signature));
        return if is_own { Ok(()) } else { Err(doubt(map, "which is yours and did not sign it")) };
    }
    let reached = capsules.iter().filter(|(_, answer)| answer.is_ok());
    let reached: Vec<Target> = reached.map(|(target, _)| target.clone()).collect();
    let asked = reached.len();
    if asked == 0 {
        return Err(doubt(map, "which is not yours, and no capsule answers that could vouch for it"));
    }
    let options = session.fan_out(Some(session.timeout(QUICK)));
    let connector = session.connector()?;
    let answers = fan_out(&connector, reached, options, async |capsule| {
        Ok(capsule.identity().list_keys(ListKeysRequest {}).await?.into_inner().keys)
    });
    let vouches = |keys: &[OperatorKey]| keys.iter().any(|key| signed(map, key));
    let vouched =
        answers.filter(|(_, keys)| std::future::ready(keys.as_ref().is_ok_and(|keys| vouches(keys))));
    if vouched.count().await * 2 > asked {
        return Ok(());
    }
    Err(doubt(
        map,
        "but most capsules do not know that key or it signed something else (`fleetctl --all fabric status` shows who \
         goes by it)",
    ))
}

fn signed(map: &SignedMap, key: &OperatorKey) -> bool {
    key.key_id == map.signer()
        && key.role() as i32 >= Role::Operator as i32
        && map.verify(|message, signature| signed_by(&key.public_key, message, signature))
}

fn doubt(map: &SignedMap, why: &str) -> anyhow::Error {
    anyhow!(
        "the member map of generation {} is said to be signed by {}, {why}; nothing was changed",
        map.map().generation(),
        map.signer()
    )
}

/// The capsules of the operator that are these members; who has no context is named.
pub(super) fn of_members<'a>(
    session: &Session,
    members: impl Iterator<Item = &'a capsule_fabric::map::Member>,
) -> Result<(Vec<Target>, Vec<String>)> {
    let everyone = session.everyone()?;
    let (mut found, mut strangers) = (Vec::new(), Vec::new());
    for member in members {
        let id = member.capsule.to_string();
        match everyone.iter().find(|target| target.capsule_id == id) {
            Some(target) => found.push(target.clone()),
            None => strangers.push(member.name.to_string()),
        }
    }
    Ok((found, strangers))
}

/// The member of this name.
pub(super) fn member<'a>(map: &'a MemberMap, name: &str) -> Result<&'a capsule_fabric::map::Member> {
    map.member(name).ok_or_else(|| {
        let names = map.members().iter().map(|member| member.name.as_str());
        let hint = crate::failure::nearest(name, names).map(|near| format!("; did you mean {near:?}?"));
        usage(format!("there is no member {name:?} in the fabric{}", hint.unwrap_or_default()))
    })
}

#[cfg(test)]
mod tests {
    use capsule_fabric::map::{AddressPlan, Generation};
    use capsule_proto::KeyId;

    use super::*;

    fn map(generation: u64, by: &str) -> SignedMap {
        let plan =
            AddressPlan::new("10.0.0.0/16".parse().unwrap(), 24, "fd00::/48".parse().unwrap()).unwrap();
        let mut wire =
            capsule_proto::v1::MemberMap::from(&MemberMap::found(plan).after(Generation(generation - 1)));
        // The content differs with whoever signs.
        wire.fabric_id = format!("00000000-0000-4000-8000-{:012x}", by.len());
        SignedMap::new(MemberMap::try_from(wire).unwrap(), &KeyId::of(by.as_bytes()), |_| Vec::new())
    }

    #[test]
    fn the_highest_generation_counts_and_of_two_the_one_that_more_members_have() {
        let (old, ours, theirs) = (map(2, "a"), map(3, "ab"), map(3, "abc"));
        assert_eq!(newest(None, &[]), None);
        assert_eq!(newest(Some(&ours), &[&old, &old]), Some(ours.clone()));
        assert_eq!(newest(Some(&old), &[&ours]), Some(ours.clone()));
        assert_eq!(newest(Some(&ours), &[&theirs]), Some(theirs.clone()));
        assert_eq!(newest(Some(&theirs), &[&ours, &ours, &theirs]), Some(ours.clone()));
        // With none ahead, everybody still agrees.
        assert_eq!(newest(Some(&ours), &[&ours, &theirs]), newest(Some(&theirs), &[&theirs, &ours]));
    }

    #[test]
    fn several_fabrics_are_no_guess() {
        let (one, other) = (map(2, "a"), map(3, "ab"));
        assert_eq!(fabric(None, &[&one]).unwrap(), Some(one.map().fabric()));
        assert_eq!(fabric(Some(&one), &[&other]).unwrap(), Some(one.map().fabric()));
        assert!(fabric(None, &[&one, &other]).unwrap_err().to_string().contains("2 different"));
    }
}
