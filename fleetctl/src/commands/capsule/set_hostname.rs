//! `fleetctl capsule set-hostname`.

use anyhow::Result;
use capsule_proto::{
    Name,
    v1::{SetHostnameRequest, SetHostnameResponse},
};
use clap::Args;

use crate::{
    exit::Exit,
    gather::gather,
    output::{answer::Layout, clean},
    session::{QUICK, Session},
};

/// Give the capsule's host another name, for good
///
/// It is the name that is shown and announced, and on an appliance the machine's own. The context
/// keeps its name and its pin.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl -c nuc-1 capsule set-hostname kitchen")]
pub struct SetHostname {
    /// A DNS label: 1 to 63 of a-z, 0-9 and '-', with no '-' at either end
    #[arg(value_name = "NAME")]
    name: Name,
}

impl SetHostname {
    /// Asks the one capsule that is meant.
    pub async fn run(self, session: &Session) -> Result<Exit> {
        let target = session.only_target("set-hostname")?;
        let layout = Layout::lines(|answer: &SetHostnameResponse, _| {
            vec![format!(
                "the host is called {} now, and was {}",
                answer.hostname,
                clean::one_line(&answer.previous)
            )]
        })
        .named(|answer: &SetHostnameResponse| vec![answer.hostname.clone()]);
        gather(session, vec![target], session.timeout(QUICK), layout, async |capsule| {
            let request = SetHostnameRequest { hostname: self.name.to_string() };
            Ok(capsule.node().set_hostname(request).await?.into_inner())
        })
        .await
    }
}
