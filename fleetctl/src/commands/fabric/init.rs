//! `fleetctl fabric init`.

use anyhow::{Result, bail};
use capsule_client::fan_out;
use capsule_fabric::map::{AddressPlan, MemberMap, Prefix};
use capsule_proto::v1::{FabricStatus, GetFabricStatusRequest};
use clap::Args;
use futures_util::StreamExt as _;

use super::{known::Known, publish::sign};
use crate::{
    exit::Exit,
    failure::{Failure, usage},
    output::Format,
    session::{QUICK, Session},
};

/// Make a fabric: choose the addresses of its members and workloads
///
/// Nothing is sent to any capsule yet; `fleetctl fabric enroll` does that. The range must be free on
/// every capsule that is to be a member: where it overlaps an address or route of one, it is refused
/// and a free one is named. The default range is also used by some overlay VPNs and by providers for
/// their customers; choose another with --range where you use such.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  fleetctl fabric init\n  fleetctl fabric init --range 10.200.0.0/16 --slice 24"
)]
pub struct Init {
    /// IPv4 addresses of the whole fabric
    #[arg(long, value_name = "CIDR", default_value = AddressPlan::DEFAULT_RANGE)]
    range: Prefix,
    /// Length of the prefix that each member gets of it
    #[arg(long, value_name = "BITS", default_value_t = AddressPlan::DEFAULT_SLICE)]
    slice: u8,
    /// Forget the fabric known so far, of which no capsule that answers is a member
    #[arg(long)]
    forget: bool,
}

impl Init {
    pub(super) async fn run(self, session: &Session) -> Result<Exit> {
        let plan = AddressPlan::new(self.range, self.slice.into(), AddressPlan::random_ipv6())
            .map_err(|error| usage(error.to_string()))?;
        let known = Known::ask(session).await?;
        self.check_none(&known)?;
        let taken = taken(session).await?;
        self.check_free(&taken)?;
        let signed = sign(session, MemberMap::found(plan))?;
        let map = signed.map();
        match session.out.format {
            Format::Table | Format::Wide => {
                session.out.line(&format!(
                    "made fabric {}: {} and {}, {} members with {} workloads each",
                    map.fabric(),
                    plan.range(),
                    plan.ipv6(),
                    plan.slots(),
                    plan.workload_offsets().len()
                ));
                session.out.note("its members come with `fleetctl fabric enroll`");
                if !plan.is_private() {
                    session.out.note(&format!(
                        "{} has public addresses: members will not reach who has them on the internet",
                        plan.range()
                    ));
                }
                if plan.range().to_string() == AddressPlan::DEFAULT_RANGE {
                    session.out.note(
                        "some overlay VPNs and providers use 100.64.0.0/10 as well; where you do, make the fabric with another \
                         --range before you enroll",
                    );
                }
            }
            _ => super::map::print(session, &signed),
        }
        Ok(Exit::ALL)
    }

    fn check_none(&self, known: &Known) -> Result<()> {
        let Some(newest) = &known.newest else { return Ok(()) };
        let is_held = known.capsules.iter().any(|(_, answer)| matches!(answer, Ok(Some(_))));
        let map = newest.map();
        if is_held || (!self.forget && !map.members().is_empty()) {
            let hint = if is_held {
                "`fleetctl fabric reset` takes a capsule out of it"
            } else {
                "none that answers is in it: --forget makes another one all the same"
            };
            bail!(
                "there is a fabric already: {}, with {} members; {hint}",
                map.fabric(),
                map.members().len()
            );
        }
        Ok(())
    }

    fn check_free(&self, taken: &[(String, Prefix)]) -> Result<()> {
        let is_in_the_way = |used: &Prefix| used.length() > 0 && used.overlaps(&self.range);
        let Some((capsule, used)) = taken.iter().find(|(_, used)| is_in_the_way(used)) else { return Ok(()) };
        let all: Vec<Prefix> = taken.iter().map(|(_, used)| *used).collect();
        let free = AddressPlan::free_range(self.range.length(), &all);
        let free = free.map_or_else(
            || "none of the private ranges is free on all capsules".to_owned(),
            |free| format!("{free} is free on all of them: `fleetctl fabric init --range {free}`"),
        );
        Err(usage(format!("the range {} overlaps {used}, which {capsule} has already; {free}", self.range)))
    }
}

/// What the capsules have of addresses already, each with who has it.
async fn taken(session: &Session) -> Result<Vec<(String, Prefix)>> {
    let options = session.fan_out(Some(session.timeout(QUICK)));
    let connector = session.connector()?;
    let mut answers = fan_out(&connector, session.everyone()?, options, async |capsule| {
        Ok(capsule.fabric().get_status(GetFabricStatusRequest {}).await?.into_inner())
    });
    let mut taken = Vec::new();
    while let Some((target, answer)) = answers.next().await {
        match answer {
            Ok(status) => taken.extend(prefixes(&status).map(|prefix| (target.name.clone(), prefix))),
            Err(error) => session.out.note(&format!(
                "{} was not asked for its addresses: {}",
                target.name,
                Failure::from(error)
            )),
        }
    }
    taken.sort();
    Ok(taken)
}

/// What a capsule says that it has.
pub(super) fn prefixes(status: &FabricStatus) -> impl Iterator<Item = Prefix> {
    status.taken_prefixes.iter().filter_map(|text| text.parse().ok())
}
