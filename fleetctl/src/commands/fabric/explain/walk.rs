//! What both ends said, as one walk from who asks to who is asked.

use capsule_proto::{
    reference::{Asked, End},
    v1::{ExplainResponse, FabricHop, FabricHopKind as Kind, FabricSide, FabricVerdict},
};
use serde::Serialize;

use crate::{exit::Exit, failure::nearest};

/// Every hop in the order of the walk, what people call it, and whose own it is.
const HOPS: [(Kind, &str, FabricSide); 10] = [
    (Kind::Source, "source", FabricSide::Sender),
    (Kind::Destination, "destination", FabricSide::Receiver),
    (Kind::Name, "name", FabricSide::Sender),
    (Kind::AllowTo, "allowTo", FabricSide::Sender),
    (Kind::AllowFrom, "allowFrom", FabricSide::Receiver),
    (Kind::Route, "route", FabricSide::Sender),
    (Kind::Path, "path", FabricSide::Sender),
    (Kind::Mtu, "mtu", FabricSide::Sender),
    (Kind::Delivery, "delivery", FabricSide::Receiver),
    (Kind::Socket, "socket", FabricSide::Receiver),
];

/// One end.
#[derive(Clone, Debug)]
pub(super) struct Side {
    /// Name of its context, or of the member where there is none.
    pub(super) capsule: String,
    /// What it said, or why it said nothing.
    pub(super) answer: Result<ExplainResponse, String>,
    /// Whether there is such a capsule at all.
    pub(super) is_known: bool,
}

impl Side {
    /// Whether there is one that said nothing.
    pub(super) fn is_silent(&self) -> bool {
        self.is_known && self.answer.is_err()
    }

    fn hop(&self, kind: Kind) -> Option<&FabricHop> {
        self.answer.as_ref().ok()?.hops.iter().find(|hop| hop.kind() == kind)
    }
}

/// Whether a hop passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// It does.
    Ok,
    /// It does not.
    Fails,
    /// It cannot be told.
    Unknown,
}

impl Verdict {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Fails => "fails",
            Self::Unknown => "unknown",
        }
    }
}

/// One hop, and who tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Hop {
    #[serde(rename = "hop")]
    pub(super) name: &'static str,
    pub(super) capsule: String,
    pub(super) verdict: Verdict,
    pub(super) why: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) remedy: String,
}

/// The whole walk; what `-o json` prints.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Walk {
    pub(super) source: String,
    pub(super) destination: String,
    pub(super) passes: bool,
    /// Name of the first hop that fails.
    #[serde(rename = "firstFailure", skip_serializing_if = "Option::is_none")]
    first_failure: Option<&'static str>,
    pub(super) hops: Vec<Hop>,
    /// What else is to be known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) notes: Vec<String>,
}

impl Walk {
    pub(super) fn new(source: &End, destination: &Asked, sender: &Side, receiver: &Side) -> Self {
        let hops = HOPS.iter().map(|(kind, name, side)| {
            let (own, other) = match side {
                FabricSide::Receiver => (receiver, sender),
                FabricSide::Sender | FabricSide::Unspecified => (sender, receiver),
            };
            let asked = if *kind == Kind::Source { source } else { &destination.end };
            hop(*kind, name, own, other, asked)
        });
        let hops: Vec<Hop> = hops.collect();
        let failure = hops.iter().find(|hop| hop.verdict == Verdict::Fails);
        Self {
            source: source.to_string(),
            destination: destination.to_string(),
            passes: hops.iter().all(|hop| hop.verdict == Verdict::Ok),
            first_failure: failure.map(|hop| hop.name),
            notes: notes(sender, receiver),
            hops,
        }
    }

    /// The first hop that fails.
    pub(super) fn failure(&self) -> Option<&Hop> {
        self.hops.iter().find(|hop| hop.verdict == Verdict::Fails)
    }

    /// Names of the hops that cannot be told.
    pub(super) fn unknown(&self) -> Vec<&'static str> {
        let unknown = self.hops.iter().filter(|hop| hop.verdict == Verdict::Unknown);
        unknown.map(|hop| hop.name).collect()
    }

    /// 0, 1 and 3: it passes, it does not, it cannot be told.
    pub(super) fn exit(&self) -> Exit {
        match (self.passes, self.failure()) {
            (true, _) => Exit::ALL,
            (false, Some(_)) => Exit::NONE,
            (false, None) => Exit::SOME,
        }
    }
}

/// From whose own it is, else from the other end; the better known where both say something.
fn hop(kind: Kind, name: &'static str, own: &Side, other: &Side, asked: &End) -> Hop {
    let is_told = |hop: &&FabricHop| hop.verdict() != FabricVerdict::Unknown;
    let (of_own, of_other) = (own.hop(kind), other.hop(kind));
    let chosen = of_own
        .filter(is_told)
        .map(|hop| (own, hop))
        .or_else(|| of_other.filter(is_told).map(|hop| (other, hop)))
        .or_else(|| of_own.map(|hop| (own, hop)))
        .or_else(|| of_other.map(|hop| (other, hop)));
    let Some((side, said)) = chosen else {
        let why = match &own.answer {
            Err(_) => format!("{} did not answer", own.capsule),
            Ok(_) if !own.is_known => "there is nobody to ask".to_owned(),
            Ok(_) => format!("{} does not say", own.capsule),
        };
        let (capsule, verdict) = (own.capsule.clone(), Verdict::Unknown);
        return Hop { name, capsule, verdict, why, remedy: String::new() };
    };
    let verdict = match said.verdict() {
        FabricVerdict::Ok => Verdict::Ok,
        FabricVerdict::Fails => Verdict::Fails,
        FabricVerdict::Unknown | FabricVerdict::Unspecified => Verdict::Unknown,
    };
    let near = nearest(&asked.to_string(), said.known.iter().map(String::as_str));
    let near = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
    let why = format!("{}{near}", said.why);
    Hop { name, capsule: side.capsule.clone(), verdict, why, remedy: said.remedy.clone() }
}

fn notes(sender: &Side, receiver: &Side) -> Vec<String> {
    let mut notes: Vec<String> = Vec::new();
    for side in [sender, receiver] {
        if let Err(error) = &side.answer {
            let note = format!("{} did not answer: {error}", side.capsule);
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
    }
    if let (Ok(here), Ok(there)) = (&sender.answer, &receiver.answer)
        && here.generation != there.generation
        && here.generation.min(there.generation) > 0
    {
        notes.push(format!(
            "{} goes by generation {} of the map and {} by {}; fleetctl fabric enroll brings them the newest",
            sender.capsule, here.generation, receiver.capsule, there.generation
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(kind: Kind, verdict: FabricVerdict, why: &str) -> FabricHop {
        let remedy = if verdict == FabricVerdict::Fails { format!("mend {why}") } else { String::new() };
        FabricHop { kind: kind.into(), verdict: verdict.into(), why: why.into(), remedy, known: Vec::new() }
    }

    fn side(capsule: &str, hops: Vec<FabricHop>) -> Side {
        let answer = ExplainResponse { member: capsule.into(), generation: 3, hops };
        Side { capsule: capsule.into(), answer: Ok(answer), is_known: true }
    }

    fn silent(capsule: &str) -> Side {
        Side { capsule: capsule.into(), answer: Err("no route".into()), is_known: true }
    }

    fn own(of: FabricSide, verdict: FabricVerdict) -> Vec<FabricHop> {
        let own = HOPS.iter().filter(|(_, _, side)| *side == of);
        own.map(|(kind, name, _)| said(*kind, verdict, name)).collect()
    }

    fn walk(sender: &Side, receiver: &Side) -> Walk {
        Walk::new(&"web@a".parse().unwrap(), &"db@b:80".parse().unwrap(), sender, receiver)
    }

    #[test]
    fn a_walk_passes_where_every_hop_does() {
        let walk = walk(
            &side("a", own(FabricSide::Sender, FabricVerdict::Ok)),
            &side("b", own(FabricSide::Receiver, FabricVerdict::Ok)),
        );
        assert_eq!((walk.passes, walk.exit(), walk.failure()), (true, Exit::ALL, None));
        let order: Vec<&str> = walk.hops.iter().map(|hop| hop.name).collect();
        assert_eq!(order, HOPS.map(|(_, name, _)| name));
        let tellers: String = walk.hops.iter().map(|hop| hop.capsule.as_str()).collect();
        assert_eq!(tellers, "abaabaaabb");
        assert_eq!(walk.destination, "db@b:80/tcp");
        assert!(walk.notes.is_empty());
    }

    #[test]
    fn the_first_failure_is_that_of_the_walk_not_of_who_told_it_first() {
        let mut sends = own(FabricSide::Sender, FabricVerdict::Ok);
        sends[4] = said(Kind::Path, FabricVerdict::Fails, "path");
        let mut receives = own(FabricSide::Receiver, FabricVerdict::Ok);
        receives[1] = said(Kind::AllowFrom, FabricVerdict::Fails, "policy");
        receives[3] = said(Kind::Socket, FabricVerdict::Fails, "socket");
        let walk = walk(&side("a", sends), &side("b", receives));
        let failure = walk.failure().unwrap();
        assert_eq!((failure.name, failure.capsule.as_str()), ("allowFrom", "b"));
        assert_eq!((failure.remedy.as_str(), walk.exit()), ("mend policy", Exit::NONE));
        assert_eq!(walk.first_failure, Some("allowFrom"));
    }

    #[test]
    fn of_an_end_that_is_silent_the_other_tells_what_it_knows() {
        let mut sends = own(FabricSide::Sender, FabricVerdict::Ok);
        sends.push(said(Kind::Socket, FabricVerdict::Ok, "a connection was taken"));
        sends.push(said(Kind::AllowFrom, FabricVerdict::Unknown, "no answer"));
        let walk = walk(&side("a", sends), &silent("b"));
        let of = |name: &str| walk.hops.iter().find(|hop| hop.name == name).unwrap();
        assert_eq!((of("socket").verdict, of("socket").capsule.as_str()), (Verdict::Ok, "a"));
        assert_eq!((of("allowFrom").why.as_str(), of("allowFrom").capsule.as_str()), ("no answer", "a"));
        assert_eq!((of("delivery").why.as_str(), of("delivery").capsule.as_str()), ("b did not answer", "b"));
        assert_eq!(walk.unknown(), ["destination", "allowFrom", "delivery"]);
        assert_eq!(
            (walk.exit(), walk.notes.as_slice()),
            (Exit::SOME, &["b did not answer: no route".to_owned()][..])
        );
    }

    #[test]
    fn an_end_speaks_for_itself_unless_it_does_not_know() {
        let mut receives = own(FabricSide::Receiver, FabricVerdict::Ok);
        receives.push(said(Kind::AllowTo, FabricVerdict::Ok, "packets came"));
        receives.push(said(Kind::Path, FabricVerdict::Ok, "a answers"));
        let mut sends = own(FabricSide::Sender, FabricVerdict::Fails);
        sends[4] = said(Kind::Path, FabricVerdict::Unknown, "path");
        let walk = walk(&side("a", sends), &side("b", receives));
        assert_eq!((walk.hops[3].verdict, walk.hops[3].capsule.as_str()), (Verdict::Fails, "a"));
        assert_eq!((walk.hops[6].verdict, walk.hops[6].capsule.as_str()), (Verdict::Ok, "b"));
    }

    #[test]
    fn who_is_not_there_is_told_with_who_may_have_been_meant() {
        let mut missing = said(Kind::Destination, FabricVerdict::Fails, "b has no workload db");
        missing.known = vec!["web@b".into(), "dbs@b".into()];
        let nobody = Side { is_known: false, ..side("-", vec![missing]) };
        let walk = walk(&side("a", own(FabricSide::Sender, FabricVerdict::Ok)), &nobody);
        assert_eq!(walk.failure().unwrap().why, "b has no workload db; did you mean dbs@b?");
        assert_eq!(walk.hops[9].why, "there is nobody to ask");
    }

    #[test]
    fn maps_of_two_generations_are_told() {
        let (mut sender, receiver) = (side("a", Vec::new()), side("b", Vec::new()));
        if let Ok(answer) = &mut sender.answer {
            answer.generation = 4;
        }
        assert!(walk(&sender, &receiver).notes[0].contains("generation 4 of the map and b by 3"));
    }
}
