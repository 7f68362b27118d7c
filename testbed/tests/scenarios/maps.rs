//! Member maps that a story makes, signs and carries itself.

use anyhow::{Context as _, Result, anyhow};
use capsule_client::{Capsule, Home, Selection};
use capsule_fabric::map::{Generation, MemberMap};
use capsule_proto::v1::{self, EnsureFabricKeyRequest, GetMapRequest, PutMapRequest, SignedMap};
use testbed::scenario::Fleet;

/// The newest map that the fleet's operator knows.
pub async fn export(fleet: &Fleet) -> Result<SignedMap> {
    let text = fleet.fleetctl(&["fabric", "map", "export"]).await?.ok()?.stdout;
    Ok(serde_json::from_str(&text)?)
}

/// The next generation after `map` with a change of the test's own, signed by the fleet's operator.
pub fn next(fleet: &Fleet, map: &SignedMap, change: impl FnOnce(&mut v1::MemberMap)) -> Result<SignedMap> {
    let map = capsule_fabric::map::SignedMap::try_from(map.clone())?;
    let mut wire = v1::MemberMap::from(&map.map().after(Generation(0)));
    change(&mut wire);
    sign(&Home::at(fleet.operator().config()), MemberMap::try_from(wire)?)
}

/// Signed with the key of the operator who lives there.
pub fn sign(home: &Home, map: MemberMap) -> Result<SignedMap> {
    let key = home.ensure_key()?;
    Ok(capsule_fabric::map::SignedMap::new(map, key.key_id(), |message| key.sign(message)).wire().clone())
}

/// Brings a map to one capsule as the fleet's operator; its refusal is the error.
pub async fn put(fleet: &Fleet, capsule: &str, map: SignedMap) -> Result<()> {
    let capsule = connect(fleet, capsule).await?;
    let answer = capsule.fabric().put_map(PutMapRequest { map: Some(map) }).await;
    answer.map(drop).map_err(|status| anyhow!("{}", status.message()))
}

/// The key that is to replace a capsule's present one.
pub async fn next_key(fleet: &Fleet, capsule: &str) -> Result<Vec<u8>> {
    let mut fabric = connect(fleet, capsule).await?.fabric();
    Ok(fabric.ensure_key(EnsureFabricKeyRequest { next: true }).await?.into_inner().public_key)
}

/// What one capsule goes by.
pub async fn of(fleet: &Fleet, capsule: &str) -> Result<SignedMap> {
    Ok(connect(fleet, capsule).await?.fabric().get_map(GetMapRequest {}).await?.into_inner())
}

async fn connect(fleet: &Fleet, capsule: &str) -> Result<Capsule> {
    let client = capsule_client::Fleet::open_in(Home::at(fleet.operator().config()))?;
    let targets = client.resolve(&Selection { names: vec![capsule.into()], ..Selection::default() })?;
    Ok(client.connector()?.connect(targets.first().context("no target")?).await?)
}
