//! `fleetctl fabric rotate-key`.

use anyhow::{Result, bail};
use capsule_client::fan_out;
use capsule_fabric::map::{Change, Member, PublicKey};
use capsule_proto::{Name, v1::EnsureFabricKeyRequest};
use clap::Args;
use clap_complete::ArgValueCompleter;
use futures_util::StreamExt as _;

use super::known::{Known, member, of_members};
use crate::{
    complete,
    exit::Exit,
    failure::Failure,
    session::{QUICK, Session},
};

/// Give members new keys
///
/// A member makes its next key and keeps the present one until the map names the other. The others
/// are told first, so that the member is back within one handshake. Pairs of other members do not
/// notice. Where it is cut short, repeat it.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl fabric rotate-key nuc-1")]
pub struct RotateKey {
    #[arg(required = true, value_name = "MEMBER", add = ArgValueCompleter::new(complete::members))]
    members: Vec<Name>,
}

impl RotateKey {
    pub(super) async fn run(self, session: &Session) -> Result<Exit> {
        let mut known = Known::ask(session).await?;
        let map = known.map()?.clone();
        let members =
            self.members.iter().map(|name| member(&map, name.as_str())).collect::<Result<Vec<_>>>()?;
        let (targets, strangers) = of_members(session, members.iter().copied())?;
        if !strangers.is_empty() {
            bail!("you have no context of {}, so no new key can be asked of it", strangers.join(", "));
        }
        let connector = session.connector()?;
        let mut keys = fan_out(
            &connector,
            targets.clone(),
            session.fan_out(Some(session.timeout(QUICK))),
            async |capsule| {
                let key = capsule.fabric().ensure_key(EnsureFabricKeyRequest { next: true }).await?;
                Ok(key.into_inner().public_key)
            },
        );
        let mut changes = Vec::new();
        while let Some((target, key)) = keys.next().await {
            let key = key.map_err(Failure::from).and_then(|key| {
                PublicKey::try_from(key.as_slice()).map_err(|error| Failure::local(error.to_string()))
            });
            let key = match key {
                Ok(key) => key,
                // All or none: half a rotation is no use, and nothing was changed yet.
                Err(failure) => {
                    crate::print_failure(&session.out, &target.name, failure);
                    session.out.note("no member was given a new key");
                    return Ok(Exit::NONE);
                }
            };
            let owner = members.iter().find(|member| member.capsule.to_string() == target.capsule_id);
            changes.extend(owner.map(|member: &&Member| Change::SetKey(member.name.clone(), key)));
        }
        let names = self.members.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        known.change(session, &changes, &targets, &format!("rotate-key {names}")).await
    }
}
