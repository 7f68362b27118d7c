//! `fleetctl version`.

use anyhow::Result;
use capsule_proto::v1::GetInfoRequest;
use clap::Args;
use serde::Serialize;
use serde_json::json;

use crate::{
    exit::Exit,
    gather::gather,
    output::{
        Format,
        answer::Layout,
        table::{column, wide},
        yaml,
    },
    session::{QUICK, Session},
};

/// Print fleetctl's version, and with --capsules those of capsules
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl version\n  fleetctl --all version --capsules")]
pub struct Version {
    /// Ask capsules for theirs
    #[arg(long = "capsules")]
    asks_capsules: bool,
}

/// What `-o json` shows of one capsule.
#[derive(Serialize)]
struct Versions {
    version: String,
    containerd: String,
    kernel: String,
}

impl Version {
    /// Prints it.
    pub async fn run(self, session: &Session) -> Result<Exit> {
        if !self.asks_capsules {
            let version = env!("CARGO_PKG_VERSION");
            let object = json!({ "version": version });
            match session.out.format {
                Format::Json => session.out.line(&object.to_string()),
                Format::Yaml => session.out.text(&yaml::document(&object)),
                Format::Name => session.out.line(version),
                Format::Table | Format::Wide => session.out.line(&format!("fleetctl {version}")),
            }
            return Ok(Exit::ALL);
        }
        session.out.note(&format!("fleetctl {}", env!("CARGO_PKG_VERSION")));
        let columns = vec![column("VERSION"), column("CONTAINERD"), wide("KERNEL")];
        let layout = Layout::table(columns, |v: &Versions| {
            vec![vec![v.version.as_str().into(), v.containerd.as_str().into(), v.kernel.as_str().into()]]
        })
        .named(|versions| vec![versions.version.clone()]);
        gather(session, session.targets()?, session.timeout(QUICK), layout, async |capsule| {
            let info = capsule.node().get_info(GetInfoRequest {}).await?.into_inner();
            Ok(Versions { version: info.version, containerd: info.containerd_version, kernel: info.kernel })
        })
        .await
    }
}
