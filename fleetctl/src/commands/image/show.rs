//! Progress of a pull or push, and what came of it.

use std::{collections::HashMap, sync::Mutex};

use capsule_client::Target;
use capsule_proto::v1::{Image, ImageProgress, LayerProgress, LayerState};
use tonic::Streaming;

use super::short;
use crate::{
    failure::Failure,
    output::{
        Out,
        answer::Layout,
        clean, human,
        progress::{self, Bar},
    },
};

/// Follows one capsule's progress to its end; gives the images made.
pub(super) async fn finish(
    out: &Out,
    target: &Target,
    is_alone: bool,
    mut stream: Streaming<ImageProgress>,
) -> Result<Vec<Image>, Failure> {
    let bars = Bars { out: *out, target: target.name.clone(), is_alone, layers: Mutex::default() };
    let mut images = Vec::new();
    while let Some(message) = stream.message().await? {
        bars.show(&message.layers);
        images.extend(message.images);
    }
    Ok(images)
}

/// A bar for each layer where one capsule is at work; else one for each capsule.
struct Bars {
    out: Out,
    target: String,
    is_alone: bool,
    layers: Mutex<HashMap<String, Bar>>,
}

impl Bars {
    fn show(&self, layers: &[LayerProgress]) {
        let Ok(mut bars) = self.layers.lock() else { return };
        if self.is_alone {
            for layer in layers.iter().filter(|layer| is_moving(layer)) {
                let name = short(&layer.digest);
                let bar = bars.entry(layer.digest.clone()).or_insert_with(|| {
                    let label = format!("{name} {:<11}", layer.state().to_string());
                    progress::bytes(&self.out, &label, layer.total_bytes)
                });
                bar.label(&format!("{name} {:<11}", layer.state().to_string()));
                bar.set(layer.done_bytes, layer.total_bytes);
            }
            return;
        }
        let total = layers.iter().map(|layer| layer.total_bytes).sum();
        let done = layers.iter().map(done_bytes).sum();
        bars.entry(String::new())
            .or_insert_with(|| progress::bytes(&self.out, &self.target, total))
            .set(done, total);
    }
}

fn is_moving(layer: &LayerProgress) -> bool {
    !matches!(layer.state(), LayerState::Exists | LayerState::Unspecified)
}

fn done_bytes(layer: &LayerProgress) -> u64 {
    match layer.state() {
        LayerState::Done | LayerState::Exists | LayerState::Unpacking => layer.total_bytes,
        _ => layer.done_bytes,
    }
}

/// `pulled docker.io/library/nginx:1.27 (52 MiB, sha256:…)`.
pub(super) fn layout(verb: &'static str) -> Layout<Vec<Image>> {
    Layout::lines(move |images: &Vec<Image>, _| {
        let line = |image: &Image| {
            let reference = clean::one_line(&image.reference);
            format!("{verb} {reference} ({}, {})", human::bytes(image.size_bytes), short(&image.digest))
        };
        images.iter().map(line).collect()
    })
    .named(|images| images.iter().map(|image| image.reference.clone()).collect())
}
