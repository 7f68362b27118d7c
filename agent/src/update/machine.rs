//! What init does for updates.

use std::path::PathBuf;

use async_trait::async_trait;

use super::slots::Slot;
use crate::boot::{
    InitLink,
    history::History,
    link::{Cause, How, Stop, ToInit},
};

/// Whoever has the machine's power; init, or a stand-in.
#[async_trait]
pub trait Machine: Send + Sync {
    /// Starts the machine anew; returns when that was asked for.
    async fn reboot(&self, cause: Cause, detail: String);
    /// The slot that runs is on trial no more.
    async fn confirmed(&self);
    /// Why the last boot of a slot ended, where anybody knows.
    fn why_ended(&self, slot: Slot) -> Option<String>;
}

/// Init.
pub struct Init {
    /// How to talk to it.
    pub link: InitLink,
    /// Where it keeps what is known of boots.
    pub dir: PathBuf,
}

#[async_trait]
impl Machine for Init {
    async fn reboot(&self, cause: Cause, detail: String) {
        self.link.tell(ToInit::Stop(Stop { how: How::Reboot, cause, detail })).await;
    }

    async fn confirmed(&self) {
        self.link.tell(ToInit::Confirmed).await;
    }

    fn why_ended(&self, slot: Slot) -> Option<String> {
        let history = History::open(&self.dir).ok()?;
        let end = history.boots().iter().rfind(|boot| boot.slot == slot)?.end.clone()?;
        Some(told(end.cause, &end.detail))
    }
}

/// In words.
fn told(cause: Cause, detail: &str) -> String {
    let cause = match cause {
        Cause::Operator => "it was stopped by an operator",
        Cause::Update => "it was left for an update",
        Cause::Rollback => "",
        Cause::Panic => "its kernel panicked",
        Cause::Watchdog => "it hung",
        Cause::PowerLoss => "it lost its power, or was reset, before it was confirmed",
    };
    match (cause, detail) {
        ("", detail) => detail.to_owned(),
        (cause, "") => cause.to_owned(),
        (cause, detail) => format!("{cause}: {detail}"),
    }
}
