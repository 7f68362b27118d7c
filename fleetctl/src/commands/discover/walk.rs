//! Adopts what was found, one by one.

use std::io::{self, BufRead as _};

use anyhow::Result;
use capsule_proto::v1::Mode;

use super::{
    Listening,
    row::{Row, Standing},
};
use crate::{
    commands::adopt::{Meeting, Right},
    exit::{Exit, Tally},
    failure::paragraph,
    output::{clean, print_error},
    session::Session,
};

/// Asks about each that nobody has adopted; what fails with one is told and stops none of the others.
pub async fn adopt_each(session: &mut Session, rows: &[Row], listening: &Listening) -> Result<Exit> {
    let is_new = |row: &&Row| {
        let Row { announcement, .. } = row;
        let is_free = !announcement.adopted && announcement.mode != Mode::Installer;
        row.seen.is_ok() && row.standing == Standing::Stranger && is_free
    };
    let mut tally = Tally::default();
    for row in rows.iter().filter(is_new) {
        let Some(name) = ask_name(row)? else { continue };
        let meeting = Meeting::with(row.address.clone(), Some(name), listening.clone());
        let adopted = meeting.hold(session, Right::Claim).await;
        if let Err(error) = &adopted {
            print_error(&paragraph(error));
        }
        tally.count(&adopted);
    }
    Ok(tally.exit())
}

/// What its context is to be called; `None` to leave it out.
fn ask_name(row: &Row) -> Result<Option<String>> {
    let hostname = clean::one_line(&row.announcement.hostname);
    let usual = row.announcement.hostname.parse::<capsule_proto::Name>();
    let usual = usual.map_or_else(|_| row.short_id(), |name| name.to_string());
    eprintln!("\n{} at {} says that its host is called {hostname}.", row.short_id(), row.address);
    eprint!("Adopt it? Type the name of its context, nothing for {usual}, or - to leave it out: ");
    let mut answer = String::new();
    let is_end = io::stdin().lock().read_line(&mut answer)? == 0;
    Ok(match answer.trim() {
        _ if is_end => None,
        "-" => None,
        "" => Some(usual),
        name => Some(name.to_owned()),
    })
}
