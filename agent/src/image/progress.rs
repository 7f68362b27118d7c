//! Progress by layer, kept as the message that callers are sent.

use std::sync::Arc;

use capsule_proto::v1::{self, LayerState};

use super::ProgressSender;

/// What a pull or push reports to; cheap to clone.
#[derive(Clone)]
pub struct Progress(Arc<ProgressSender>);

impl Progress {
    pub fn new() -> Self {
        Self::over(ProgressSender::new(v1::ImageProgress::default()))
    }

    pub fn over(sender: ProgressSender) -> Self {
        Self(Arc::new(sender))
    }

    pub fn subscribe(&self) -> tokio::sync::watch::Receiver<v1::ImageProgress> {
        self.0.subscribe()
    }

    /// Adds a line that waits.
    pub fn layer(&self, digest: &str, total_bytes: u64) -> Layer {
        let mut at = 0;
        self.0.send_modify(|progress| {
            at = progress.layers.len();
            let state = LayerState::Waiting.into();
            progress.layers.push(v1::LayerProgress {
                digest: digest.to_owned(),
                state,
                done_bytes: 0,
                total_bytes,
            });
        });
        Layer { progress: self.clone(), at }
    }

    /// The line of `digest`, made where there is none.
    pub fn find_or_add(&self, digest: &str, total_bytes: u64) -> Layer {
        let at = self.0.borrow().layers.iter().position(|layer| layer.digest == digest);
        match at {
            Some(at) => Layer { progress: self.clone(), at },
            None => self.layer(digest, total_bytes),
        }
    }
}

/// One line of a [`Progress`].
#[derive(Clone)]
pub struct Layer {
    progress: Progress,
    at: usize,
}

impl Layer {
    pub fn downloaded(&self, done_bytes: u64) {
        self.update(|layer| {
            layer.state = LayerState::Downloading.into();
            layer.done_bytes = done_bytes;
        });
    }

    pub fn state(&self, state: LayerState) {
        self.update(|layer| {
            layer.state = state.into();
            if matches!(state, LayerState::Done | LayerState::Exists | LayerState::Unpacking) {
                layer.done_bytes = layer.total_bytes;
            }
        });
    }

    fn update(&self, change: impl FnOnce(&mut v1::LayerProgress)) {
        self.progress.0.send_modify(|progress| {
            if let Some(layer) = progress.layers.get_mut(self.at) {
                change(layer);
            }
        });
    }
}
