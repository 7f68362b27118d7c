//! Who a capsule that was found is to this operator: decided by the fingerprint alone.

use std::collections::BTreeSet;

use capsule_client::{Address, Contexts, adopt::Probe};
use capsule_proto::discovery::{Announcement, short_id};

use crate::failure::Failure;

/// One capsule that was found.
#[derive(Clone, Debug)]
pub struct Row {
    /// What is said of it.
    pub announcement: Announcement,
    /// Where it answers; where it does not, where it is said to.
    pub address: Address,
    /// Everywhere it answers.
    pub addresses: Vec<Address>,
    /// What it showed.
    pub seen: Result<Probe, Failure>,
    /// Who it is to us.
    pub standing: Standing,
}

/// Who somebody is to this operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nobody that is known, as far as can be told.
    Stranger,
    /// The capsule of a context, by its pinned fingerprint; not where the context remembers it.
    Known {
        /// Of the context.
        name: String,
        /// Where else that remembers it.
        moved_from: Option<Address>,
    },
    /// Says that it is the capsule of a context, and shows another fingerprint.
    PinDiffers {
        /// Of the context.
        name: String,
    },
    /// Is announced as one capsule and says that it is another.
    Misnamed,
}

impl Row {
    /// As its certificate says; as announced where it showed none.
    pub fn short_id(&self) -> String {
        self.seen.as_ref().map_or_else(|_| self.announcement.short_id(), |seen| short_id(&seen.capsule_id))
    }

    /// Whether what answers says that it is what was announced.
    pub fn is_as_announced(&self) -> bool {
        self.seen.as_ref().is_ok_and(|seen| seen.capsule_id == self.announcement.capsule_id)
    }
}

/// Who it is that showed this where `announced` was said to be, and answers at these addresses.
pub fn judge(contexts: &Contexts, announced: &str, seen: Option<&Probe>, addresses: &[Address]) -> Standing {
    let Some(seen) = seen else {
        // Nothing was shown that could be compared with a pin.
        return Standing::Stranger;
    };
    let pinned = contexts.contexts.iter().find(|(_, context)| context.fingerprint == seen.fingerprint);
    if let Some((name, context)) = pinned {
        let moved_from = Some(context.address.clone()).filter(|address| !addresses.contains(address));
        return Standing::Known { name: name.clone(), moved_from };
    }
    let claims = [seen.capsule_id.as_str(), announced];
    if let Some((name, _)) = claims.iter().find_map(|id| contexts.of_capsule(id)) {
        return Standing::PinDiffers { name: name.to_owned() };
    }
    if seen.capsule_id == announced { Standing::Stranger } else { Standing::Misnamed }
}

/// One capsule is one row, also where others announce things about it: what it says of itself counts.
pub fn once_each(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort_by_key(|row| (row.seen.is_err(), !row.is_as_announced(), row.short_id()));
    let mut told = BTreeSet::new();
    rows.retain(|row| match &row.seen {
        Ok(seen) => told.insert(seen.fingerprint.to_string()),
        Err(_) => true,
    });
    rows.sort_by_key(|row| (row.short_id(), row.address.to_string()));
    rows
}

#[cfg(test)]
mod tests {
    use capsule_client::Context;
    use capsule_proto::{Fingerprint, v1::Mode};

    use super::*;

    const OURS: &str = "a3f20000-0000-4000-8000-000000000001";
    const OTHER: &str = "b1c20000-0000-4000-8000-000000000002";

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    fn contexts() -> Contexts {
        let mut contexts = Contexts::default();
        let context = Context {
            address: address("10.0.0.1"),
            capsule_id: OURS.into(),
            fingerprint: Fingerprint::of(b"ours"),
            groups: Default::default(),
            labels: Default::default(),
        };
        contexts.insert("nuc-1", context).unwrap();
        contexts
    }

    fn probe(at: &str, certificate: &[u8], capsule_id: &str) -> Probe {
        Probe {
            address: address(at),
            fingerprint: Fingerprint::of(certificate),
            capsule_id: capsule_id.into(),
        }
    }

    fn judged(at: &str, certificate: &[u8], says: &str, announced: &str) -> Standing {
        judge(&contexts(), announced, Some(&probe(at, certificate, says)), &[address(at)])
    }

    #[test]
    fn only_the_pinned_fingerprint_makes_somebody_known() {
        let known = |moved_from| Standing::Known { name: "nuc-1".into(), moved_from };
        assert_eq!(judged("10.0.0.1", b"ours", OURS, OURS), known(None));
        assert_eq!(judged("10.0.0.9", b"ours", OURS, OURS), known(Some(address("10.0.0.1"))));
        // Whatever is announced about it.
        assert_eq!(judged("10.0.0.1", b"ours", OURS, OTHER), known(None));
        let differs = Standing::PinDiffers { name: "nuc-1".into() };
        assert_eq!(judged("10.0.0.1", b"forged", OURS, OURS), differs);
        assert_eq!(judged("10.0.0.9", b"forged", OTHER, OURS), differs);
        assert_eq!(judged("10.0.0.9", b"forged", OURS, OTHER), differs);
        assert_eq!(judged("10.0.0.9", b"new", OTHER, OTHER), Standing::Stranger);
        assert_eq!(judged("10.0.0.9", b"new", OTHER, &OTHER.replace("b1", "c1")), Standing::Misnamed);
        assert_eq!(judge(&contexts(), OURS, None, &[]), Standing::Stranger);
    }

    #[test]
    fn what_a_capsule_says_of_itself_counts_and_it_is_shown_once() {
        let row = |announced: &str, hostname: &str| Row {
            announcement: Announcement {
                capsule_id: announced.into(),
                hostname: hostname.into(),
                adopted: true,
                version: "0.1.0".into(),
                mode: Mode::Hosted,
            },
            address: address("10.0.0.1"),
            addresses: vec![address("10.0.0.1")],
            seen: Ok(probe("10.0.0.1", b"ours", OURS)),
            standing: Standing::Stranger,
        };
        let rows = once_each(vec![row(OTHER, "forged"), row(OURS, "nuc-1"), row(OTHER, "again")]);
        assert_eq!(rows.len(), 1);
        assert_eq!(
            (rows[0].announcement.hostname.as_str(), rows[0].short_id()),
            ("nuc-1", "capsule-a3f2".into())
        );
    }
}
