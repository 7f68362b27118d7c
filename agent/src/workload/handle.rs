//! What the rest of the agent holds of one workload: its desired state going in, its status
//! coming out.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use capsule_proto::{Name, timestamp, v1};
use tokio::sync::{Notify, watch};

use super::spec::Desired;

/// What followers of a workload see.
#[derive(Clone, Debug)]
pub(super) enum View {
    Live(Arc<v1::Workload>),
    Deleted,
}

/// Shared by the actor and everyone who talks to it.
pub(super) struct Handle {
    pub name: Name,
    desired: watch::Sender<Arc<Desired>>,
    view: watch::Sender<View>,
    wake: Notify,
    look_again: AtomicBool,
    /// Held while the root of the sandbox is mounted or its task is made: never both.
    pub root: Arc<tokio::sync::Mutex<()>>,
    /// Orders publishing by the actor with changes by verbs.
    publishing: Mutex<()>,
}

impl Handle {
    pub fn new(desired: Desired, status: v1::WorkloadStatus) -> Arc<Self> {
        let view = View::Live(Arc::new(workload(&desired, status)));
        Arc::new(Self {
            name: desired.name.clone(),
            desired: watch::Sender::new(Arc::new(desired)),
            view: watch::Sender::new(view),
            wake: Notify::new(),
            look_again: AtomicBool::new(true),
            root: Arc::default(),
            publishing: Mutex::new(()),
        })
    }

    pub fn desired(&self) -> Arc<Desired> {
        self.desired.borrow().clone()
    }

    pub fn watch_desired(&self) -> watch::Receiver<Arc<Desired>> {
        self.desired.subscribe()
    }

    /// Takes a committed change, unless a later one is already here. Whoever looks at the status
    /// from now on sees that work is to be done.
    pub fn set_desired(&self, new: Desired) {
        let _guard = self.publishing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let old = self.desired();
        if old.revision >= new.revision {
            return;
        }
        let mut status = self.workload().and_then(|workload| workload.status.clone()).unwrap_or_default();
        foretell(&old, &new, &mut status);
        self.view.send_replace(View::Live(Arc::new(workload(&new, status))));
        self.desired.send_replace(Arc::new(new));
    }

    /// Publishes a status computed for `revision`; dropped where that is no longer wanted.
    pub fn publish(&self, revision: u64, status: v1::WorkloadStatus) {
        let _guard = self.publishing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let desired = self.desired();
        if desired.revision != revision {
            return;
        }
        let new = workload(&desired, status);
        self.view.send_if_modified(|view| match view {
            View::Live(old) if **old == new => false,
            _ => {
                *view = View::Live(Arc::new(new));
                true
            }
        });
    }

    /// Says that it is gone for good.
    pub fn publish_deleted(&self) {
        self.view.send_replace(View::Deleted);
    }

    pub fn view(&self) -> watch::Receiver<View> {
        self.view.subscribe()
    }

    /// As last published; `None` once deleted.
    pub fn workload(&self) -> Option<Arc<v1::Workload>> {
        match &*self.view.borrow() {
            View::Live(workload) => Some(workload.clone()),
            View::Deleted => None,
        }
    }

    /// The actor looks at its plan again.
    pub fn poke(&self) {
        self.wake.notify_one();
    }

    /// The actor asks the runtime anew, then looks at its plan.
    pub fn poke_look(&self) {
        self.look_again.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// As `poke_look`, from the actor itself, which is awake.
    pub fn look_soon(&self) {
        self.look_again.store(true, Ordering::Release);
    }

    pub fn take_look(&self) -> bool {
        self.look_again.swap(false, Ordering::AcqRel)
    }

    pub async fn poked(&self) {
        self.wake.notified().await;
    }
}

/// What a change means for the status until the actor has looked at it.
fn foretell(old: &Desired, new: &Desired, status: &mut v1::WorkloadStatus) {
    let says = |status: &mut v1::WorkloadStatus, phase: v1::Phase, reason: &str| {
        status.set_phase(phase);
        reason.clone_into(&mut status.reason);
        status.ready = false;
    };
    match new.state {
        v1::DesiredState::Deleted => says(status, v1::Phase::Deleting, "an operator deletes it"),
        v1::DesiredState::Stopped if old.wants_run() => {
            says(status, v1::Phase::Stopping, "an operator stops it");
        }
        v1::DesiredState::Running if old.epoch != new.epoch || !old.wants_run() => {
            says(status, v1::Phase::Pending, "an operator asked for a new start");
            status.restarts = 0;
            status.last_exit = None;
        }
        v1::DesiredState::Running if old.nudge != new.nudge => {
            says(status, v1::Phase::Pending, "it was applied again");
        }
        _ => {}
    }
}

fn workload(desired: &Desired, status: v1::WorkloadStatus) -> v1::Workload {
    v1::Workload {
        manifest: Some(desired.manifest.clone()),
        desired_state: desired.state as i32,
        status: Some(status),
        generation: desired.generation,
        created_at: Some(timestamp(desired.created_at)),
        updated_at: Some(timestamp(desired.updated_at)),
    }
}
