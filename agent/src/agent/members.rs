//! Fabric and network tell each other where workloads are.

use crate::{fabric::Fabric, network::Network};

/// Other members hear of the workloads here; policies and names here know those of other members.
pub(super) fn introduce(fabric: &Fabric, network: &Network) {
    fabric.start_peering(network.locations());
    let (mut directory, network) = (fabric.directory(), network.clone());
    tokio::spawn(async move {
        loop {
            let told = directory.borrow_and_update().clone();
            network.set_directory(told);
            if directory.changed().await.is_err() {
                return;
            }
        }
    });
}
