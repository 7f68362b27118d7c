//! Init's end of the socket that the agent connects to.

use std::{fs, io, path::Path, time::Duration};

use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};

use super::{
    link::{Banner, Stop, ToAgent, ToInit, read, split, write},
    supervise::Observed,
};

/// Between two questions whether the agent is there.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// Where to what the agent says goes.
#[derive(Clone, Debug)]
pub struct Ears {
    /// That it answers.
    pub observed: watch::Sender<Observed>,
    /// For the console.
    pub banner: watch::Sender<Banner>,
    /// That the machine is to stop.
    pub stops: mpsc::Sender<Stop>,
    /// That the slot is confirmed.
    pub confirmed: watch::Sender<bool>,
}

/// Serves one agent after another. Returns only when it cannot.
pub async fn serve(socket: &Path, ears: Ears) -> io::Result<()> {
    if let Some(dir) = socket.parent() {
        fs::create_dir_all(dir)?;
    }
    let listener = UnixListener::bind(socket)?;
    // Only root is to stop the machine.
    fs::set_permissions(socket, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    loop {
        let (stream, _) = listener.accept().await?;
        if let Err(error) = converse(stream, &ears).await {
            tracing::debug!(%error, "the agent is gone");
        }
    }
}

async fn converse(stream: UnixStream, ears: &Ears) -> io::Result<()> {
    let (mut incoming, mut outgoing) = split(stream);
    let mut pings = interval(PING_INTERVAL);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = pings.tick() => write(&mut outgoing, &ToAgent::Ping).await?,
            said = read::<ToInit>(&mut incoming) => match said? {
                Some(message) => hear(message, ears),
                None => return Ok(()),
            },
        }
    }
}

fn hear(message: ToInit, ears: &Ears) {
    match message {
        ToInit::Alive => ears.observed.send_modify(Observed::hear),
        ToInit::Banner(banner) => drop(ears.banner.send_replace(banner)),
        ToInit::Confirmed => drop(ears.confirmed.send_replace(true)),
        // Init stops at the first; a second has nothing to add.
        ToInit::Stop(stop) => drop(ears.stops.try_send(stop)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        boot::{
            InitLink,
            link::{Cause, How},
        },
        store::Store,
    };

    #[tokio::test]
    async fn what_the_agent_says_reaches_init() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("run/init.sock");
        let (observed, mut heard) = watch::channel(Observed::new());
        let (banner, mut banners) = watch::channel(Banner::default());
        let (stops, mut stopped) = mpsc::channel(1);
        let (confirmed, mut is_confirmed) = watch::channel(false);
        let ears = Ears { observed, banner, stops, confirmed };
        let server = {
            let socket = socket.clone();
            tokio::spawn(async move { serve(&socket, ears).await })
        };
        let link = InitLink::start(socket, Store::open(dir.path()).unwrap());
        heard.wait_for(|observed| observed.has_answered).await.unwrap();
        let shown = Banner { name: "attic".into(), ..Banner::default() };
        link.tell(ToInit::Banner(shown.clone())).await;
        banners.wait_for(|banner| *banner == shown).await.unwrap();
        link.tell(ToInit::Confirmed).await;
        is_confirmed.wait_for(|confirmed| *confirmed).await.unwrap();
        let stop = Stop { how: How::PowerOff, cause: Cause::Operator, detail: "asked".into() };
        link.tell(ToInit::Stop(stop.clone())).await;
        assert_eq!(stopped.recv().await, Some(stop));
        server.abort();
    }
}
