//! `fleetctl key rotate`: your own key, on every capsule you know.

use anyhow::Result;
use capsule_client::{Capsule, Connector, OperatorKey, Selection};
use capsule_proto::v1::{OperatorKey as Enrolled, RotateKeyRequest, WhoAmIRequest};
use clap::Args;
use clap_complete::ArgValueCompleter;

use crate::{
    complete,
    exit::Exit,
    failure::Failure,
    gather::gather,
    output::answer::Layout,
    session::{QUICK, Session},
};

/// Replace your own key by a new one on every capsule that you know
///
/// The new key is kept beside the present one until all capsules know it. Where some cannot be
/// reached, run it again when they can: it goes on where it stopped.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl key rotate\n  fleetctl key rotate --except broken-1")]
pub struct Rotate {
    /// Capsules to give up on: you lose access to them
    #[arg(long, value_name = "NAME", value_delimiter = ',', add = ArgValueCompleter::new(complete::capsules))]
    except: Vec<String>,
}

impl Rotate {
    /// Rotates, and makes the new key the present one if every capsule took it.
    pub(super) async fn run(self, session: &Session) -> Result<Exit> {
        let all = Selection { all: true, ..Selection::default() };
        let mut targets = session.fleet.resolve(&all)?;
        targets.retain(|target| !self.except.contains(&target.name));
        let home = session.fleet.home();
        let old = session.fleet.key()?;
        let next = home.ensure_next_key()?;
        let with_next = Connector::new(next.clone())?.with_timeout(session.connect_timeout());
        let layout = Layout::lines(|key: &Enrolled, _| vec![format!("now knows {}", key.key_id)])
            .named(|key| vec![key.key_id.clone()]);
        let exit = gather(session, targets, session.timeout(QUICK), layout, async |capsule| {
            rotate(&capsule, &old, &next, &with_next).await
        })
        .await?;
        if exit == Exit::ALL {
            home.finish_rotation(&next)?;
            session
                .out
                .note(&format!("your key is now {}; the old one is kept as key.pem.old", next.key_id()));
        } else {
            session.out.note(
                "both keys are used, each where it is known, until every capsule took the new one: run it again when \
                 the others can be reached, or leave them out with --except",
            );
        }
        Ok(exit)
    }
}

async fn rotate(
    capsule: &Capsule,
    old: &OperatorKey,
    next: &OperatorKey,
    with_next: &Connector,
) -> Result<Enrolled, Failure> {
    let request = RotateKeyRequest {
        new_public_key: next.public_key().to_vec(),
        proof: next.rotation_proof(&capsule.target().capsule_id, old.key_id()),
    };
    match capsule.identity().rotate_key(request).await {
        Ok(answer) => Ok(answer.into_inner()),
        // An earlier run may have got through here.
        Err(refusal) => match known(capsule, with_next).await {
            Some(key) => Ok(key),
            None => Err(refusal.into()),
        },
    }
}

async fn known(capsule: &Capsule, with_next: &Connector) -> Option<Enrolled> {
    let capsule = with_next.connect(capsule.target()).await.ok()?;
    capsule.identity().who_am_i(WhoAmIRequest {}).await.ok()?.into_inner().key
}
