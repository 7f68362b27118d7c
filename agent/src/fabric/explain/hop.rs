//! Verdicts.

use capsule_proto::v1::{FabricHop, FabricHopKind as Kind, FabricVerdict as Verdict};

fn hop(kind: Kind, verdict: Verdict, why: String, remedy: String) -> FabricHop {
    FabricHop { kind: kind.into(), verdict: verdict.into(), why, remedy, known: Vec::new() }
}

/// It passes.
pub(super) fn ok(kind: Kind, why: impl Into<String>) -> FabricHop {
    hop(kind, Verdict::Ok, why.into(), String::new())
}

/// It does not, and this would mend it.
pub(super) fn fails(kind: Kind, why: impl Into<String>, remedy: impl Into<String>) -> FabricHop {
    hop(kind, Verdict::Fails, why.into(), remedy.into())
}

/// It cannot be told.
pub(super) fn unknown(kind: Kind, why: impl Into<String>) -> FabricHop {
    hop(kind, Verdict::Unknown, why.into(), String::new())
}
