//! `fleetctl discover`: capsules that announce themselves in this network.
//!
//! ```text
//!   Browser (hearsay) ──▶ search: a TLS handshake with every address ──▶ row: who that is to us
//!                                                                         ├─▶ show
//!                                                                         ├─▶ refresh: moved contexts
//!                                                                         └─▶ walk: adopt one by one
//! ```

mod refresh;
mod row;
mod search;
mod show;
mod walk;

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use anyhow::Result;
use capsule_client::{Address, browse::Browser};
use capsule_proto::{discovery::is_short_id, v1::Mode};
use clap::{Args, value_parser};
use tokio::time::Instant;

use crate::{
    exit::Exit,
    failure::{causes, usage},
    output::progress,
    session::Session,
};
use row::{Row, Standing};
use search::Search;

/// How long to listen where no flag says; capsules answer within a fifth of a second.
const LISTEN: Duration = Duration::from_secs(3);
/// The same where a number of them is waited for.
const WAIT: Duration = Duration::from_mins(1);
/// To listen for one capsule by its short id, for another of the same short id, and at most.
const LOOK_UP: [Duration; 2] = [Duration::from_secs(1), LISTEN];

/// Find capsules that announce themselves in this network
///
/// Listens for 3 seconds (--timeout) for multicast DNS, then asks every capsule heard of for its
/// certificate. Only the fingerprint, and a context that is known by it, are certain: all else is what
/// is announced, which anybody can do. `fleetctl adopt` takes a short id instead of an address, too.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl discover\n  fleetctl discover --unadopted --adopt\n  \
                        fleetctl discover --refresh\n  fleetctl discover --wait-for 3 --timeout 2m -o json")]
pub struct Discover {
    /// Walk through those that nobody has adopted, and adopt them one by one
    #[arg(long)]
    adopt: bool,
    /// Move contexts to the addresses where their capsules answer now
    #[arg(long)]
    refresh: bool,
    /// Only those that nobody has adopted
    #[arg(long)]
    unadopted: bool,
    /// Only those that wait to be installed
    #[arg(long)]
    installers: bool,
    /// Listen until N were found, for a minute (--timeout) at most; exit code 1 where there are fewer
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    wait_for: Option<u32>,
    #[command(flatten)]
    listening: Listening,
}

/// Where to listen.
#[derive(Args, Clone, Debug)]
pub struct Listening {
    /// Listen for announcements on this network interface only; may be repeated
    #[arg(long = "interface", value_name = "NAME", value_delimiter = ',', env = "FLEETCTL_INTERFACES")]
    interfaces: Vec<String>,
}

impl Discover {
    /// Listens, shows what was found, and does with it what was asked for.
    pub async fn run(self, session: &mut Session) -> Result<Exit> {
        if self.adopt && !io::stdin().is_terminal() {
            return Err(usage(
                "--adopt asks for each capsule's name and fingerprint, and nobody is here to answer; run it on a \
                 terminal, or adopt each with `fleetctl adopt SHORT-ID --fingerprint SHA256`",
            ));
        }
        let rows = self.find(session).await?;
        let rows = refresh::settle(session, rows, self.refresh).await?;
        show::print(&session.out, &rows);
        self.explain(session, &rows);
        if self.adopt {
            return walk::adopt_each(session, &rows, &self.listening).await;
        }
        Ok(if self.has_enough(&rows) { Exit::ALL } else { Exit::NONE })
    }

    async fn find(&self, session: &Session) -> Result<Vec<Row>> {
        let usual = if self.wait_for.is_some() { WAIT } else { LISTEN };
        let until = Instant::now() + session.timeout(usual);
        let mut search = self.listening.search(session)?;
        let bar = progress::spinner(&session.out, "listening");
        let rows = |search: &Search| {
            let rows = search.rows(session.fleet.contexts()).into_iter();
            rows.filter(|row| self.wants(row)).collect::<Vec<_>>()
        };
        let enough = |search: &Search| {
            let rows = rows(search);
            bar.say(&format!("{} found", rows.len()));
            self.wait_for.is_some() && self.has_enough(&rows)
        };
        search.listen(session.fleet.contexts(), until, enough).await;
        if let Some(why) = search.ended_by() {
            session.out.note(&format!("warning: {}", causes(why)));
        }
        Ok(rows(&search))
    }

    fn wants(&self, row: &Row) -> bool {
        let announced = &row.announcement;
        !(self.unadopted && announced.adopted || self.installers && announced.mode != Mode::Installer)
    }

    /// Whether as many as were waited for answer.
    fn has_enough(&self, rows: &[Row]) -> bool {
        let answer = rows.iter().filter(|row| row.seen.is_ok()).count();
        self.wait_for.is_none_or(|wanted| answer >= wanted as usize)
    }

    fn explain(&self, session: &Session, rows: &[Row]) {
        let out = session.out;
        if rows.is_empty() {
            out.note(
                "no such capsule is heard here. Those of this network segment are, where their agents run without \
                 `--mdns off` and no firewall drops UDP port 5353; `fleetctl adopt HOST` goes by an address",
            );
        }
        let free = rows.iter().filter(|row| row.standing == Standing::Stranger && !row.announcement.adopted);
        let (installers, new): (Vec<_>, Vec<_>) =
            free.partition(|row| row.announcement.mode == Mode::Installer);
        if !new.is_empty() && !self.adopt {
            out.note("`fleetctl discover --adopt` adopts those that nobody has adopted yet");
        }
        if !installers.is_empty() {
            out.note("`fleetctl install SHORT-ID --name NAME` installs those that run from a stick");
        }
    }
}

impl Listening {
    /// Starts to listen.
    fn search(&self, session: &Session) -> Result<Search> {
        for name in &self.interfaces {
            nix::net::if_::if_nametoindex(name.as_str())
                .map_err(|_| usage(format!("there is no network interface {name:?} here; see `ip link`")))?;
        }
        let browser = Browser::start(&self.interfaces)?;
        Ok(Search::new(browser, session.connector_of_the_moment()?, session.fan_out(None).limit))
    }

    /// Where the capsule of a short id answers. `None` where this is none, or where it is not heard.
    pub async fn look_up(&self, session: &Session, place: &Address) -> Result<Option<Address>> {
        let short_id = place.host();
        if !is_short_id(short_id) {
            return Ok(None);
        }
        let contexts = session.fleet.contexts();
        let mut search = self.search(session)?;
        let start = Instant::now();
        let found = |search: &Search| {
            let rows = search.rows(contexts).into_iter();
            rows.filter(|row| row.short_id() == short_id && row.seen.is_ok()).collect::<Vec<_>>()
        };
        for (at, limit) in LOOK_UP.into_iter().enumerate() {
            let is_first = at == 0;
            search.listen(contexts, start + limit, |search| !is_first && !found(search).is_empty()).await;
            let rows = found(&search);
            match rows.as_slice() {
                [] => {}
                [one] => return Ok(Some(one.address.clone())),
                many => return Err(ambiguous(short_id, many)),
            }
        }
        Ok(None)
    }
}

fn ambiguous(short_id: &str, rows: &[Row]) -> anyhow::Error {
    let each = rows.iter().filter_map(|row| {
        let seen = row.seen.as_ref().ok()?;
        Some(format!("\n  {} with fingerprint {}", row.address, seen.fingerprint))
    });
    let each: String = each.collect();
    usage(format!("{short_id} is announced by several; give the address of the one you mean:{each}"))
}
