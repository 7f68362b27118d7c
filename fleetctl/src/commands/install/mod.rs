//! `fleetctl install`: from a machine that was booted from a stick to a capsule on its own disk.
//!
//! ```text
//!   meet: fingerprint ─▶ claim ─▶ disks: which one, and is it meant ─▶ write ─▶ context kept
//!        ─▶ finish: it boots from its disk now ─▶ wait until it answers under the same pin
//! ```

mod choice;
mod wait;

use std::time::Duration;

use anyhow::{Result, bail};
use capsule_client::{
    CallError, Capsule,
    adopt::{Adopted, claim_installer},
};
use capsule_proto::{
    Name,
    v1::{
        FinishInstallRequest, GetInfoRequest, InstallDisk, ListDisksRequest, Mode, WriteDiskRequest,
        WriteDiskResponse, WritePhase,
    },
};
use clap::Args;
use serde_json::json;
use tonic::{Response, Status};

use super::adopt::{Kept, Meeting, key_name};
use crate::{
    exit::Exit,
    failure::{Failure, usage},
    output::{Format, progress, yaml},
    session::{PATIENT, Session},
};

/// Put a capsule on a disk of a machine that was booted from a stick with the image
///
/// Compare the fingerprint shown with the one on the machine's screen. The disk is shown with all
/// that is on it, and is erased when its serial number was typed. What is installed comes up
/// adopted, under the fingerprint that the context remembers. Cut short anywhere, the same command
/// begins anew. Several machines are installed at once by as many commands.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl discover --installers\n  \
                        fleetctl install capsule-a3f2 --name nuc-1\n  \
                        fleetctl install 192.168.1.20 --name nuc-1 --target S5GXNX0T123456\n  \
                        fleetctl install capsule-a3f2 --name nuc-1 --fingerprint 5f3c… --target /dev/nvme0n1 --yes")]
pub struct Install {
    #[command(flatten)]
    meeting: Meeting,
    /// The disk, by serial number or path; the only one that is free where not given. With --yes it is
    /// erased without a question
    #[arg(long, value_name = "SERIAL|PATH")]
    target: Option<String>,
    /// Erase a capsule that is on the disk, and let its context of this name go
    #[arg(long)]
    reinstall: bool,
}

impl Install {
    /// Installs one machine.
    pub async fn run(mut self, session: &mut Session) -> Result<Exit> {
        let hostname = self.hostname()?;
        self.meeting.replaces = self.reinstall;
        let (connector, seen) = self.meeting.begin(session).await?;
        let claimed = claim_installer(&connector, &seen, &key_name()).await;
        let adopted = claimed.map_err(unclaimed)?;
        let installer = connector.connect(&adopted.target(&adopted.short_id)).await.map_err(Failure::from)?;
        let disk = self.disk(session, &installer).await?;
        write(session, &installer, &disk, hostname, self.reinstall).await?;
        // Before the disk boots: what boots from then on has a pin already.
        let kept = self.meeting.remember(session, &adopted)?;
        let problem = finish(session, &installer).await?;
        if !problem.is_empty() {
            session.out.note(&format!(
                "the firmware was not told to boot {} first ({problem}): take the stick out, or choose the disk in \
                 the firmware's setup",
                disk.path
            ));
        }
        wait::until_it_runs(session, &connector, &adopted.target(&kept.name)).await?;
        report(session, &kept, &adopted, &disk);
        Ok(Exit::ALL)
    }

    /// The context's name is the host's, too.
    fn hostname(&self) -> Result<String> {
        let Some(name) = &self.meeting.name else { return Ok(String::new()) };
        name.parse::<Name>().map_err(|error| usage(format!("no host can have this name: {error}")))?;
        Ok(name.clone())
    }

    /// The one that is meant, and that may go.
    async fn disk(&self, session: &Session, installer: &Capsule) -> Result<InstallDisk> {
        let info = within(session, installer.node().get_info(GetInfoRequest {})).await?;
        if info.mode() != Mode::Installer {
            bail!(
                "{} runs as {}, and is no installer: boot the machine from a stick with the image",
                self.meeting.address,
                info.mode()
            );
        }
        let disks = within(session, installer.install().list_disks(ListDisksRequest {})).await?.disks;
        choice::show(session, &disks);
        let disk = choice::choose(&disks, self.target.as_deref(), self.reinstall).map_err(usage)?;
        choice::confirm(disk, self.meeting.yes, self.target.is_some())?;
        Ok(disk.clone())
    }
}

/// An installer forgets whoever claimed it.
fn unclaimed(error: CallError) -> Failure {
    let failure = Failure::from(error);
    if failure.code != "conflict" {
        return failure;
    }
    failure.and("An installer is anybody's again when its machine was restarted")
}

/// One answer, in time.
async fn within<T>(
    session: &Session,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Failure> {
    let limit: Duration = session.timeout(PATIENT);
    let answer = tokio::time::timeout(limit, call).await.map_err(|_| CallError::TimedOut(limit))?;
    Ok(answer?.into_inner())
}

async fn write(
    session: &Session,
    installer: &Capsule,
    disk: &InstallDisk,
    hostname: String,
    reinstall: bool,
) -> Result<(), Failure> {
    let InstallDisk { path, serial, .. } = disk.clone();
    let bar = progress::bytes(&session.out, &path, disk.size_bytes);
    let request = WriteDiskRequest { path, serial, hostname, reinstall };
    let mut stream = within(session, installer.install().write(request)).await?;
    while let Some(WriteDiskResponse { done_bytes, total_bytes, phase }) = stream.message().await? {
        let phase = WritePhase::try_from(phase).unwrap_or_default();
        if phase == WritePhase::Written {
            return Ok(());
        }
        bar.label(&format!("{} {phase}", disk.path));
        bar.set(done_bytes, total_bytes);
    }
    Err(Failure::local("the installer ended without a word; run the same command again"))
}

/// Why the firmware's order stays as it is, where it does. An answer may be lost in the reboot that follows.
async fn finish(session: &Session, installer: &Capsule) -> Result<String, Failure> {
    match within(session, installer.install().finish(FinishInstallRequest {})).await {
        Ok(answer) => Ok(answer.boot_order_problem),
        Err(failure) if failure.is_lost_connection() => Ok(String::new()),
        Err(failure) => Err(failure),
    }
}

fn report(session: &Session, kept: &Kept, adopted: &Adopted, disk: &InstallDisk) {
    let (name, out) = (&kept.name, session.out);
    let context = &adopted.context;
    let object = json!({ "capsule": name, "ok": true, "result": {
        "context": context, "shortId": adopted.short_id, "keyId": adopted.key_id.as_str(), "disk": disk,
    }});
    match out.format {
        Format::Json => out.line(&object.to_string()),
        Format::Yaml => out.text(&format!("---\n{}", yaml::document(&object))),
        Format::Name => out.line(name),
        Format::Table | Format::Wide => {
            let InstallDisk { path, .. } = disk;
            out.line(&format!(
                "{name}: installed on {path} and runs ({}, {})",
                adopted.short_id, context.address
            ));
            out.note(&format!("fingerprint {}", context.fingerprint));
        }
    }
    if let Some(remark) = &kept.remark {
        out.note(remark);
    }
}
