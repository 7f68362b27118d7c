//! One container, image cached: apply to Running with a bridge and a published port.

use anyhow::Result;

use super::{
    Effort,
    peer::{ctr::Ctr, docker::Docker, podman::Podman},
    race::{Contestant, race},
    report::{Limit, Row},
};
use crate::{fixtures, scenario::Fleet};

const ROUNDS: usize = 20;
const PORT: u16 = 8080;
const NAME: &str = "bench";

pub async fn run(effort: Effort) -> Result<Vec<Row>> {
    let fleet = Fleet::netns(1).await?;
    let ctr = Ctr::start(&fleet).await?;
    let [_, echo] = fixtures::ensure_archives(&fleet.dir().join("images"))?;
    ctr.import(&echo).await?;
    let podman = Podman::new(&fleet)?;
    if let Some(podman) = &podman {
        podman.load(&echo).await?;
    }
    let docker = Docker::start(&fleet).await?;
    if let Some(docker) = &docker {
        let archive = fleet.dir().join("images/echo.docker.tar");
        fixtures::echo()?.write_docker(&archive)?;
        docker.load(&archive).await?;
    }
    let mut contestants = vec![Contestant::new("ours", |_| ours(&fleet)), {
        let ctr = &ctr;
        Contestant::new("ctr run --rm, no network", move |round| async move {
            ctr.run(fixtures::ECHO, &format!("bench-{round}"), &["/echo", "exit", "0"]).await
        })
    }];
    if let Some(podman) = &podman {
        contestants.push(Contestant::new("podman run, bridge and port", move |round| async move {
            let name = format!("bench-{round}");
            let took = podman.start(fixtures::ECHO, &name, PORT).await?;
            podman.remove(&name).await?;
            Ok(took)
        }));
    }
    if let Some(docker) = &docker {
        contestants.push(Contestant::new("docker run, bridge and port", move |round| async move {
            let name = format!("bench-{round}");
            let took = docker.run(fixtures::ECHO, &name, PORT).await?;
            docker.remove(&name).await?;
            Ok(took)
        }));
    }
    let results = race(effort.rounds(ROUNDS), &mut contestants).await?;
    drop(contestants);
    fleet.passed();
    let rows = results[1..].iter().map(|peer| {
        let limit = match peer.0.split(' ').next() {
            Some("ctr") => Limit::Ratio(1.3),
            Some("docker") => Limit::Ratio(0.5),
            // Shown for comparison: it has no daemon either.
            _ => Limit::None,
        };
        Row::against("apply to Running", "ms", &results[0].1, peer, limit)
    });
    Ok(rows.collect())
}

async fn ours(fleet: &Fleet) -> Result<std::time::Duration> {
    let capsule = fleet.capsule("a");
    let manifest = format!(
        "kind: Container\nname: {NAME}\ncontainer:\n  image: {}\n  ports: [{{ containerPort: 8080, hostPort: {PORT} }}]\n",
        fixtures::ECHO
    );
    let applied = capsule.apply(&manifest).await?;
    capsule.delete(NAME).await?;
    Ok(applied.elapsed)
}
