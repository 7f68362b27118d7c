//! Layers of the content store become snapshots, each on the one below.

use std::collections::HashMap;

use capsule_proto::v1::LayerState;
use containerd_client::types::Descriptor;

use super::{
    ImageError,
    engine::{Engine, Lease, SNAPSHOTTER},
    manifest,
    progress::Progress,
    resolve::Image,
};

/// Unpacks what is not unpacked yet. `lease` holds all of it afterwards, and the configuration's
/// label keeps it for as long as there is a record of the image.
pub async fn unpack(
    engine: &Engine,
    lease: &Lease,
    image: &Image,
    progress: &Progress,
) -> Result<(), ImageError> {
    let chain = manifest::chain_ids(&image.config);
    let diffs = image.config.rootfs().diff_ids();
    let mut parent = "";
    for ((layer, diff), chain_id) in image.manifest.layers().iter().zip(diffs).zip(&chain) {
        let line = progress.find_or_add(layer.digest().as_ref(), layer.size());
        let _turn = engine.lock(chain_id).await;
        // Held first: what is there when we look stays.
        engine.hold_snapshot(lease, chain_id).await?;
        if !engine.has_snapshot(chain_id).await? {
            line.state(LayerState::Unpacking);
            let layer = to_wire(layer);
            engine.apply_layer(lease, layer.clone(), parent, chain_id, diff).await?;
            let uncompressed = HashMap::from([("containerd.io/uncompressed".to_owned(), diff.clone())]);
            engine.label(&layer.digest, uncompressed).await?;
        }
        line.state(LayerState::Done);
        parent = chain_id;
    }
    let label = HashMap::from([(format!("containerd.io/gc.ref.snapshot.{SNAPSHOTTER}"), image.chain_id())]);
    engine.label(image.manifest.config().digest().as_ref(), label).await
}

/// A descriptor as containerd's API spells it.
pub fn to_wire(descriptor: &oci_spec::image::Descriptor) -> Descriptor {
    Descriptor {
        media_type: descriptor.media_type().to_string(),
        digest: descriptor.digest().to_string(),
        size: descriptor.size() as i64,
        ..Default::default()
    }
}
