//! `fleetctl fabric explain`: asks the capsules of both ends, each for its own side of the flow.
//!
//! - `contact.rs`: which capsules these are; `walk.rs`: their answers as one walk, pure; `show.rs`: the
//!   walk on the screen.

mod contact;
mod show;
mod walk;

use anyhow::Result;
use capsule_client::fan_out;
use capsule_proto::{
    reference::{Asked, End},
    v1::{ExplainRequest, ExplainResponse, FabricSide, FabricVerdict as Verdict},
};
use clap::Args;
use clap_complete::ArgValueCompleter;
use futures_util::StreamExt as _;

use self::{
    contact::Contact,
    walk::{Side, Walk},
};
use crate::{
    complete,
    exit::Exit,
    failure::Failure,
    session::{QUICK, Session},
};

/// Tell why one workload reaches another, or does not
///
/// Walks from who asks to who is asked: both ends are there and run, the name is answered, allowTo of
/// the sender and allowFrom of the receiver have the flow in the kernel's packet filter, packets leave
/// by the right links, the other capsule answers, the largest packets pass, and something listens.
/// Each capsule tells of its own end. Where one does not answer, the other tells what it knows of it;
/// for that it may make one TCP connection from who asks.
///
/// The first hop that fails is named with what mends it. Ends with 0 where all hops pass, with 1 where
/// one fails, with 3 where none fails and some cannot be told.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  fleetctl fabric explain web@nuc-1 db@storage:5432\n  fleetctl fabric explain \
                  web@nuc-1 dns@edge:53/udp\n  fleetctl fabric explain host@nuc-1 db@storage/icmp -o json\n  \
                  fleetctl fabric explain 100.64.0.2 100.64.4.2:5432"
)]
pub struct Explain {
    /// Who asks: WORKLOAD@MEMBER, host@MEMBER or an address of the fabric
    #[arg(value_name = "FROM", add = ArgValueCompleter::new(complete::ends))]
    source: End,
    /// Who is asked, and for what: WORKLOAD@MEMBER:PORT, with /udp behind it, or /icmp instead
    #[arg(value_name = "TO", add = ArgValueCompleter::new(complete::ends))]
    destination: Asked,
}

impl Explain {
    pub(super) async fn run(self, session: &Session) -> Result<Exit> {
        let map = contact::map(session, [&self.source, &self.destination.end]).await?;
        let sender = Contact::of(session, &map, &self.source)?;
        let receiver = Contact::of(session, &map, &self.destination.end)?;
        let (mut sends, receives) = tokio::join!(
            self.ask(session, sender.clone(), FabricSide::Sender, false),
            self.ask(session, receiver, FabricSide::Receiver, false),
        );
        // Who sends can tell of a receiver that does not answer, unless it cannot even send.
        let is_told = sends.answer.as_ref().is_ok_and(|answer| !has_failure(answer));
        if is_told && receives.is_silent() {
            let tried = self.ask(session, sender, FabricSide::Sender, true).await;
            if tried.answer.is_ok() {
                sends = tried;
            }
        }
        let walk = Walk::new(&self.source, &self.destination, &sends, &receives);
        show::walk(&session.out, &walk);
        Ok(walk.exit())
    }

    async fn ask(&self, session: &Session, contact: Contact, side: FabricSide, attempt: bool) -> Side {
        let request = ExplainRequest {
            side: side.into(),
            source: self.source.to_string(),
            destination: self.destination.end.to_string(),
            protocol: self.destination.request.protocol().to_owned(),
            port: self.destination.request.port().into(),
            attempt,
        };
        match contact {
            Contact::Target(target) => {
                let capsule = target.name.clone();
                let answer = call(session, *target, request).await;
                Side { capsule, answer: answer.map_err(|failure| failure.message), is_known: true }
            }
            Contact::Stranger { capsule, why } => Side { capsule, answer: Err(why), is_known: true },
            Contact::Nobody(hop) => {
                let answer = ExplainResponse { hops: vec![hop.of(side)], ..ExplainResponse::default() };
                Side { capsule: "-".to_owned(), answer: Ok(answer), is_known: false }
            }
        }
    }
}

fn has_failure(answer: &ExplainResponse) -> bool {
    answer.hops.iter().any(|hop| hop.verdict() == Verdict::Fails)
}

async fn call(
    session: &Session,
    target: capsule_client::Target,
    request: ExplainRequest,
) -> Result<ExplainResponse, Failure> {
    let connector = session.connector().map_err(|error| Failure::local(error.to_string()))?;
    let options = session.fan_out(Some(session.timeout(QUICK)));
    let mut answers = fan_out(&connector, vec![target], options, |capsule| {
        let request = request.clone();
        async move { Ok(capsule.fabric().explain(request).await?.into_inner()) }
    });
    match answers.next().await {
        Some((_, answer)) => Ok(answer?),
        None => Err(Failure::local("nobody was asked")),
    }
}
