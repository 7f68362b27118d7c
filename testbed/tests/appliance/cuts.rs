//! Power cuts spread over an update, from its first byte to its confirmation, and over the boots after them.
//! `CUTS` says how many; `make soak` makes a thousand.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use testbed::{
    scenario::{Capsule, Fleet, eventually},
    substrate::Hardware,
};

use crate::{
    keeper::{fill, is_as_before, write},
    release::{Release, Running},
};

/// Unless `CUTS` says otherwise.
const CUTS: u32 = 42;
/// Of one round: the update, and the boots that are to mend it.
const CUTS_A_ROUND: u32 = 3;
const OPTIONS: [&str; 4] = ["--force", "--allow-downgrade", "--auto-confirm", "2s"];
/// For a trial that nothing disturbs to end.
const TRIAL_LIMIT: Duration = Duration::from_mins(3);

/// A capsule whose power is cut again and again.
struct Victim<'a> {
    capsule: Capsule<'a>,
    releases: [Release; 2],
    /// All that it must have kept.
    lines: String,
    /// How long an update takes, and how long a boot does.
    update: Duration,
    boot: Duration,
}

impl<'a> Victim<'a> {
    /// One update without a cut.
    async fn new(capsule: Capsule<'a>) -> Result<Self> {
        fill(&capsule).await?;
        write(&capsule, "first").await?;
        let lines = "first\n".to_owned();
        let releases = [Release::built()?, Release::next()?];
        let started = Instant::now();
        releases[1].push(&capsule, &OPTIONS).await?.ok()?;
        let update = started.elapsed();
        let started = Instant::now();
        capsule.vm().power_cycle().await?;
        is_as_before(&capsule, &lines).await?;
        Ok(Self { capsule, releases, lines, update, boot: started.elapsed() })
    }

    /// Pushes the release that does not run, cuts after `share` of the time that it takes, and twice more in
    /// the boots that follow; then all must be there.
    async fn round(&mut self, number: u32, share: f64) -> Result<()> {
        let line = format!("{number}");
        write(&self.capsule, &line).await?;
        self.lines.extend([&line, "\n"]);
        let Running { version, .. } = Running::on(&self.capsule).await?;
        let other = self.releases.iter().find(|release| release.version != version);
        let mut push = other.context("there is no other release")?.pushing(&self.capsule, &OPTIONS)?;
        tokio::time::sleep(self.update.mul_f64(share)).await;
        let vm = self.capsule.vm();
        vm.cut_power().await?;
        push.kill().await.context("cannot end fleetctl")?;
        // Two more, at other moments in every round.
        for share in [share, (share + 0.5).fract()] {
            vm.power_on().await?;
            tokio::time::sleep(self.boot.mul_f64(share)).await;
            vm.cut_power().await?;
        }
        vm.power_on().await?;
        is_as_before(&self.capsule, &self.lines).await?;
        self.settles().await.with_context(|| format!("round {number}, cut at {share:.3} of an update"))
    }

    /// It runs one of both releases, and none on trial.
    async fn settles(&self) -> Result<()> {
        eventually(TRIAL_LIMIT, async || {
            let Running { version, is_tentative, .. } = Running::on(&self.capsule).await?;
            ensure!(self.releases.iter().any(|release| release.version == version), "it runs {version}");
            ensure!(!is_tentative, "{version} is on trial");
            Ok(())
        })
        .await
    }
}

async fn rounds(capsule: Capsule<'_>, shares: impl Iterator<Item = (u32, f64)>) -> Result<()> {
    let mut victim = Victim::new(capsule).await?;
    for (number, share) in shares {
        let started = Instant::now();
        victim.round(number, share).await?;
        let took = started.elapsed().as_secs_f64();
        eprintln!("{}: round {number}, {share:.3} of an update: {took:.1} s", victim.capsule.name());
    }
    let boots = victim.capsule.fleetctl(&["capsule", "boots"]).await?.ok()?.stdout;
    ensure!(boots.contains("power loss"), "{boots}");
    Ok(())
}

#[tokio::test]
async fn power_cuts_at_any_time_of_an_update_leave_a_capsule_that_boots_and_has_all() -> Result<()> {
    let cuts = std::env::var("CUTS").map_or(Ok(CUTS), |text| text.parse()).context("CUTS is no number")?;
    let count = cuts.div_ceil(CUTS_A_ROUND);
    let fleet = Fleet::builder(2).qemu(Hardware::built()?.without_tpm()).start().await?;
    let of = |first: u32| {
        let shares = (0..count).map(move |number| (number, (f64::from(number) + 0.5) / f64::from(count)));
        shares.skip(first as usize).step_by(2)
    };
    tokio::try_join!(rounds(fleet.capsule("a"), of(0)), rounds(fleet.capsule("b"), of(1)))?;
    fleet.passed();
    Ok(())
}
