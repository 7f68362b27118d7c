//! `fleetctl whoami`.

use anyhow::Result;
use capsule_proto::v1::{WhoAmIRequest, WhoAmIResponse};
use clap::Args;

use crate::{
    exit::Exit,
    gather::gather,
    output::{
        answer::Layout,
        human,
        table::{Cell, column, wide},
    },
    session::{QUICK, Session},
};

/// Show the key by which capsules know you, and your role on each
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl whoami\n  fleetctl --all whoami -o json")]
pub struct Whoami {}

impl Whoami {
    /// Asks every capsule.
    pub async fn run(self, session: &Session) -> Result<Exit> {
        let columns = vec![
            column("ID"),
            column("KEY"),
            column("NAME"),
            column("ROLE"),
            wide("ENROLLED"),
            wide("CAPSULE-ID"),
        ];
        let layout = Layout::table(columns, |answer| vec![row(answer)])
            .named(|answer: &WhoAmIResponse| answer.key.iter().map(|key| key.key_id.clone()).collect());
        gather(session, session.targets()?, session.timeout(QUICK), layout, async |capsule| {
            Ok(capsule.identity().who_am_i(WhoAmIRequest {}).await?.into_inner())
        })
        .await
    }
}

fn row(answer: &WhoAmIResponse) -> Vec<Cell> {
    let key = answer.key.clone().unwrap_or_default();
    vec![
        answer.short_id.as_str().into(),
        key.key_id.as_str().into(),
        key.name.as_str().into(),
        key.role().to_string().into(),
        human::age(key.enrolled_at.as_ref()).into(),
        answer.capsule_id.as_str().into(),
    ]
}
