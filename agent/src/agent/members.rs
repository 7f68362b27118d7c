//! Fabric and network tell each other where workloads are.

use capsule_proto::Name;
use tokio::sync::watch;

use crate::{
    fabric::{
        Fabric,
        peering::{Locations, RemoteLocations},
    },
    network::{FabricState, Network},
};

/// Other members hear of the workloads here; policies and names here know those of other members.
pub(super) fn introduce(fabric: &Fabric, network: &Network) {
    let (tell, workloads) = watch::channel(Locations::new());
    let mut states = network.fabric_states();
    tokio::spawn(async move {
        let located = |(name, state): (&Name, &FabricState)| Some((name.clone(), state.addresses?));
        loop {
            let here: Locations = states.borrow_and_update().iter().filter_map(located).collect();
            tell.send_if_modified(|told| replaced(told, here));
            if states.changed().await.is_err() {
                return;
            }
        }
    });
    let (mut directory, network) = (fabric.directory(), network.clone());
    tokio::spawn(async move {
        loop {
            let there: RemoteLocations = directory.borrow_and_update().clone();
            network.set_directory(there);
            if directory.changed().await.is_err() {
                return;
            }
        }
    });
    fabric.start_peering(workloads);
}

/// Whether that was anything new.
fn replaced(told: &mut Locations, here: Locations) -> bool {
    let is_new = *told != here;
    *told = here;
    is_new
}
