//! Rows of `network`, `address` and `host_port`.

use capsule_proto::{Name, v1};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::port::{Binding, Wanted};

/// The subnets, as text.
pub(super) fn subnets(db: &Connection) -> rusqlite::Result<Option<(String, String)>> {
    db.query_row("SELECT subnet, subnet6 FROM network", [], |row| Ok((row.get(0)?, row.get(1)?))).optional()
}

pub(super) fn set_subnets(tx: &Transaction<'_>, four: &str, six: &str) -> rusqlite::Result<()> {
    tx.execute("INSERT OR REPLACE INTO network (id, subnet, subnet6) VALUES (1, ?, ?)", [four, six]).map(drop)
}

pub(super) fn host_part(db: &Connection, workload: &Name) -> rusqlite::Result<Option<u32>> {
    db.prepare_cached("SELECT ipv4 FROM address WHERE workload = ?")?
        .query_row([workload.as_str()], |row| row.get(0))
        .optional()
}

/// Every host part in use, ascending.
pub(super) fn host_parts(db: &Connection) -> rusqlite::Result<Vec<(String, u32)>> {
    db.prepare_cached("SELECT workload, ipv4 FROM address ORDER BY ipv4")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

pub(super) fn set_host_part(tx: &Transaction<'_>, workload: &Name, host: u32) -> rusqlite::Result<()> {
    tx.prepare_cached("INSERT INTO address (workload, ipv4) VALUES (?, ?)")?
        .execute(params![workload.as_str(), host])
        .map(drop)
}

/// A host port that a workload has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) workload: String,
    pub(super) wanted: Wanted,
    /// Whether the capsule chose it.
    pub(super) picked: bool,
}

impl Held {
    pub(super) fn to_port(&self) -> v1::Port {
        let Binding { protocol, address, port } = self.wanted.binding;
        v1::Port {
            container_port: u32::from(self.wanted.container_port),
            host_port: Some(u32::from(port)),
            protocol: protocol as i32,
            host_ip: address.map(|address| address.to_string()).unwrap_or_default(),
        }
    }
}

pub(super) fn held(db: &Connection) -> rusqlite::Result<Vec<Held>> {
    db.prepare_cached(
        "SELECT workload, protocol, host_ip, host_port, container_port, picked FROM host_port
         ORDER BY workload, container_port, protocol, host_ip, host_port",
    )?
    .query_map([], |row| {
        let protocol = v1::Protocol::try_from(row.get::<_, i32>(1)?).unwrap_or(v1::Protocol::Tcp);
        let address = row.get::<_, String>(2)?.parse().ok();
        let binding = Binding { protocol, address, port: row.get(3)? };
        let wanted = Wanted { container_port: row.get(4)?, binding };
        Ok(Held { workload: row.get(0)?, wanted, picked: row.get(5)? })
    })?
    .collect()
}

pub(super) fn hold(tx: &Transaction<'_>, held: &Held) -> rusqlite::Result<()> {
    let port = held.to_port();
    tx.prepare_cached(
        "INSERT INTO host_port (workload, protocol, host_ip, host_port, container_port, picked)
         VALUES (?, ?, ?, ?, ?, ?)",
    )?
    .execute(params![
        held.workload,
        port.protocol,
        port.host_ip,
        port.host_port,
        port.container_port,
        held.picked
    ])
    .map(drop)
}

pub(super) fn drop_ports(tx: &Transaction<'_>, workload: &Name) -> rusqlite::Result<()> {
    tx.prepare_cached("DELETE FROM host_port WHERE workload = ?")?.execute([workload.as_str()]).map(drop)
}

pub(super) fn drop_address(tx: &Transaction<'_>, workload: &Name) -> rusqlite::Result<()> {
    tx.prepare_cached("DELETE FROM address WHERE workload = ?")?.execute([workload.as_str()]).map(drop)
}
