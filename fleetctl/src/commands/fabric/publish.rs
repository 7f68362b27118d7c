//! Signs the next map and brings it to everybody.

use anyhow::Result;
use capsule_client::Target;
use capsule_fabric::map::{Change, ChangeError, MemberMap, SignedMap};
use capsule_proto::v1::PutMapRequest;
use serde::Serialize;

use super::known::{Known, of_members};
use crate::{
    exit::Exit,
    failure::{Failure, usage},
    gather::gather,
    output::answer::{Answer, Layout, Printer},
    session::{QUICK, Session},
};

/// What `-o json` shows of a capsule that goes by the map.
#[derive(Serialize)]
struct Taken {
    /// As text, as every 64-bit number.
    generation: String,
    /// Whether it had another one before.
    changed: bool,
}

/// Who gets the map after all others did.
pub(super) type Last<'a> = &'a [Target];

impl Known {
    /// Makes the changes, signs what comes of them, and brings it to every member, those that it
    /// removes included. Where nothing changes, who is behind gets the newest map.
    pub(super) async fn change(
        &mut self,
        session: &Session,
        changes: &[Change],
        last: Last<'_>,
        repeat: &str,
    ) -> Result<Exit> {
        let before = self.map()?.clone();
        let refused = |error: ChangeError| usage(error.to_string());
        let next = match before.with(changes).map_err(refused)? {
            // Two operators at once: one more generation makes both halves one again.
            None if self.is_forked() => Some(before.after(before.generation())),
            next => next,
        };
        if let Some(next) = next {
            self.newest = Some(sign(session, next)?);
        }
        self.publish(session, Some(&before), last, repeat).await
    }

    /// Whether members have another map of the newest generation.
    fn is_forked(&self) -> bool {
        let Some(newest) = &self.newest else { return false };
        let held = self.capsules.iter().filter_map(|(_, answer)| answer.as_ref().ok()?.as_ref());
        let is_rival = |map: &SignedMap| {
            map.map().fabric() == newest.map().fabric()
                && map.map().generation() == newest.map().generation()
                && map.bytes() != newest.bytes()
        };
        held.into_iter().any(is_rival)
    }

    /// Capsules that go by another map of the same fabric: members, and those that missed their removal.
    fn behind(&self, newest: &SignedMap) -> impl Iterator<Item = &Target> {
        let is_behind =
            |has: &SignedMap| has.map().fabric() == newest.map().fabric() && has.bytes() != newest.bytes();
        let answered = self
            .capsules
            .iter()
            .filter_map(|(target, answer)| Some((target, answer.as_ref().ok()?.as_ref()?)));
        answered.filter(move |(_, has)| is_behind(has)).map(|(target, _)| target)
    }

    /// Brings the newest map to every member that does not have it yet.
    pub(super) async fn publish(
        &self,
        session: &Session,
        before: Option<&MemberMap>,
        last: Last<'_>,
        repeat: &str,
    ) -> Result<Exit> {
        let signed = self.signed()?;
        let removed = before.map(MemberMap::members).unwrap_or_default().iter();
        let removed = removed.filter(|member| signed.map().of_capsule(member.capsule).is_none());
        let (mut targets, strangers) = of_members(session, signed.map().members().iter().chain(removed))?;
        let behind: Vec<Target> =
            self.behind(signed).filter(|target| !targets.contains(target)).cloned().collect();
        targets.extend(behind);
        let (mut open, mut away, mut settled) = (Vec::new(), Vec::new(), Vec::new());
        for target in targets {
            match self.capsules.iter().find(|(known, _)| known.capsule_id == target.capsule_id) {
                Some((_, Ok(Some(has)))) if has.bytes() == signed.bytes() => settled.push(target),
                Some((_, Err(failure))) => away.push((target, failure.clone())),
                _ => open.push(target),
            }
        }
        tell_settled(session, signed, &settled);
        if open.is_empty() && away.is_empty() {
            let generation = signed.map().generation();
            session.out.note(&format!("nothing to do: every member goes by generation {generation}"));
            return Ok(Exit::ALL);
        }
        let (later, first): (Vec<_>, Vec<_>) = open.into_iter().partition(|target| last.contains(target));
        let mut exits = vec![push(session, signed, first).await?];
        exits.push(push(session, signed, later).await?);
        exits.push((!settled.is_empty()).then_some(Exit::ALL));
        exits.push((!away.is_empty()).then_some(Exit::NONE));
        let exit = total(&exits.into_iter().flatten().collect::<Vec<_>>());
        tell(session, &away, &strangers, exit, repeat);
        Ok(exit)
    }
}

/// Signed with the operator's key, and kept: from here on it is the newest.
pub(super) fn sign(session: &Session, map: MemberMap) -> Result<SignedMap> {
    let key = session.fleet.key()?;
    let signed = SignedMap::new(map, key.key_id(), |message| key.sign(message));
    session.fleet.home().keep_fabric_map(signed.wire())?;
    Ok(signed)
}

/// `None` where there is nobody to bring it to.
async fn push(session: &Session, signed: &SignedMap, targets: Vec<Target>) -> Result<Option<Exit>> {
    if targets.is_empty() {
        return Ok(None);
    }
    let request = PutMapRequest { map: Some(signed.wire().clone()) };
    let exit = gather(session, targets, session.timeout(QUICK), layout(), async |capsule| {
        let taken = capsule.fabric().put_map(request.clone()).await?.into_inner();
        Ok(Taken { generation: taken.generation.to_string(), changed: true })
    });
    exit.await.map(Some)
}

/// A line for each that was told; who had the map already is for programs to know.
fn layout() -> Layout<Taken> {
    let told = |taken: &Taken| taken.changed.then(|| format!("goes by generation {}", taken.generation));
    Layout::lines(move |taken, _| told(taken).into_iter().collect())
        .named(|taken| vec![taken.generation.clone()])
}

fn tell_settled(session: &Session, signed: &SignedMap, settled: &[Target]) {
    let generation = signed.map().generation().to_string();
    let answer = |(at, target): (usize, &Target)| Answer {
        at,
        capsule: target.name.clone(),
        result: Ok(Taken { generation: generation.clone(), changed: false }),
    };
    for answer in settled.iter().enumerate().map(answer) {
        let mut printer = Printer::new(session.out, layout(), settled.len());
        printer.take(&[answer]);
        printer.flush();
    }
}

fn total(exits: &[Exit]) -> Exit {
    let all = |exit: Exit| exits.iter().all(|other| *other == exit);
    match () {
        () if all(Exit::ALL) => Exit::ALL,
        () if all(Exit::NONE) => Exit::NONE,
        () => Exit::SOME,
    }
}

fn tell(session: &Session, away: &[(Target, Failure)], strangers: &[String], exit: Exit, repeat: &str) {
    for (target, failure) in away {
        crate::print_failure(&session.out, &target.name, failure.clone());
    }
    if exit != Exit::ALL {
        session.out.note(&format!(
            "not everybody got it; when they can be reached, repeat `fleetctl fabric {repeat}`"
        ));
    }
    if !strangers.is_empty() {
        session.out.note(&format!(
            "you have no context of {}: they learn it from the other members, or with `fleetctl adopt` from you",
            strangers.join(", ")
        ));
    }
}
