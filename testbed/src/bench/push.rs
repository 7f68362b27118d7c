//! An archive of 100 MiB into a capsule, beside `ctr image import` of the same file.

use std::{path::Path, time::Duration};

use anyhow::Result;

use super::{
    Effort,
    peer::ctr::Ctr,
    race::{Contestant, race},
    report::{Limit, Row},
};
use crate::{fixtures, scenario::Fleet};

const ROUNDS: usize = 8;
const REFERENCE: &str = "localhost/big:1";
const LAYERS: usize = 4;
const LAYER_BYTES: usize = 25 << 20;
/// 0.7 of the peer's rate, as a ratio of times.
const LIMIT: f64 = 1.43;

pub async fn run(effort: Effort) -> Result<Vec<Row>> {
    let fleet = Fleet::netns(1).await?;
    let ctr = Ctr::start(&fleet).await?;
    let archive = &fleet.dir().join("big.tar");
    fixtures::random(REFERENCE, LAYERS, LAYER_BYTES, 1)?.write_oci(archive)?;
    let mut contestants = [Contestant::new("ours", |_| ours(&fleet, archive)), {
        let ctr = &ctr;
        Contestant::new("ctr image import", move |_| async move {
            let took = ctr.import(archive).await?;
            ctr.remove(REFERENCE).await?;
            Ok(took)
        })
    }];
    let results = race(effort.rounds(ROUNDS), &mut contestants).await?;
    drop(contestants);
    fleet.passed();
    Ok(vec![Row::against("push of 100 MiB", "ms", &results[0].1, &results[1], Limit::Ratio(LIMIT))])
}

async fn ours(fleet: &Fleet, archive: &Path) -> Result<Duration> {
    let capsule = fleet.capsule("a");
    let pushed = capsule.fleetctl(&["image", "push", &archive.display().to_string()]).await?.ok()?;
    capsule.fleetctl(&["image", "remove", REFERENCE]).await?.ok()?;
    Ok(pushed.elapsed)
}
