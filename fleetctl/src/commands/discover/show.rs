//! What was found, as a table or as objects.

use serde_json::{Value, json};

use super::row::{Row, Standing};
use crate::output::{
    Format, Out,
    style::Tone,
    table::{self, Cell, Table, column, wide},
    yaml,
};

/// Prints all of it.
pub fn print(out: &Out, rows: &[Row]) {
    match out.format {
        Format::Json => rows.iter().for_each(|row| out.line(&object(row).to_string())),
        Format::Yaml => {
            rows.iter().for_each(|row| out.text(&format!("---\n{}", yaml::document(&object(row)))));
        }
        Format::Name => rows.iter().for_each(|row| out.line(&row.short_id())),
        Format::Table | Format::Wide => out.text(&render(out, rows)),
    }
}

fn render(out: &Out, rows: &[Row]) -> String {
    let columns = [
        column("SHORT ID"),
        column("HOST"),
        column("ADDRESS"),
        column("VERSION"),
        column("MODE"),
        column("ADOPTED"),
        column("CONTEXT"),
        column("FINGERPRINT"),
        wide("CAPSULE-ID"),
        wide("ADDRESSES"),
    ];
    let is_wide = out.format == Format::Wide;
    let columns = columns.into_iter().filter(|column| is_wide || !column.wide).collect();
    let rows: Vec<table::Row> = rows.iter().map(|row| table::Row::Cells(cells(row))).collect();
    Table::new(columns, out.colour, out.table_limit()).render(&rows)
}

fn cells(row: &Row) -> Vec<Cell> {
    let announced = &row.announcement;
    let seen = row.seen.as_ref();
    let addresses: Vec<String> = row.addresses.iter().map(ToString::to_string).collect();
    vec![
        row.short_id().into(),
        announced.hostname.as_str().into(),
        row.address.to_string().into(),
        announced.version.as_str().into(),
        announced.mode.to_string().into(),
        if announced.adopted { "yes".into() } else { Cell::new("no", Tone::Warn) },
        standing(row),
        match seen {
            Ok(seen) => seen.fingerprint.to_string().into(),
            Err(failure) => Cell::new(failure.code, Tone::Bad),
        },
        seen.map_or(announced.capsule_id.as_str(), |seen| seen.capsule_id.as_str()).into(),
        addresses.join(",").into(),
    ]
}

fn standing(row: &Row) -> Cell {
    match &row.standing {
        Standing::Stranger => "".into(),
        Standing::Known { name, moved_from: None } => Cell::new(name, Tone::Good),
        Standing::Known { name, .. } => Cell::new(&format!("{name} (moved)"), Tone::Warn),
        Standing::PinDiffers { name } => Cell::new(&format!("NOT {name}: ITS PIN DIFFERS"), Tone::Bad),
        Standing::Misnamed => {
            let announced = row.announcement.short_id();
            Cell::new(&format!("ANNOUNCED AS {announced}"), Tone::Bad)
        }
    }
}

/// As docs/json.md promises it.
fn object(row: &Row) -> Value {
    let announced = &row.announcement;
    let (standing, context) = match &row.standing {
        Standing::Stranger => ("unknown", None),
        Standing::Known { name, moved_from: None } => ("known", Some(name)),
        Standing::Known { name, .. } => ("moved", Some(name)),
        Standing::PinDiffers { name } => ("pin-differs", Some(name)),
        Standing::Misnamed => ("misnamed", None),
    };
    let seen = row.seen.as_ref();
    let mut object = json!({ "capsule": row.short_id(), "ok": seen.is_ok(), "result": {
        "shortId": row.short_id(),
        "capsuleId": seen.map_or(announced.capsule_id.as_str(), |seen| seen.capsule_id.as_str()),
        "address": row.address,
        "addresses": row.addresses,
        "fingerprint": seen.ok().map(|seen| seen.fingerprint.to_string()),
        "context": context,
        "standing": standing,
        "announced": {
            "capsuleId": announced.capsule_id,
            "hostname": announced.hostname,
            "adopted": announced.adopted,
            "version": announced.version,
            "mode": announced.mode.to_string(),
        },
    }});
    if let Err(failure) = seen {
        object["error"] = json!(failure);
    }
    object
}
