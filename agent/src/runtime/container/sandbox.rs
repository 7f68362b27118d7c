//! Sandboxes: a container object and its writable snapshot.

use std::collections::{HashMap, HashSet};

use capsule_proto::Name;
use containerd_client::{
    services::v1::{
        Container, CreateContainerRequest, DeleteContainerRequest, GetContainerRequest,
        ListContainersRequest, ListTasksRequest,
        container::Runtime as ContainerRuntime,
        containers_client::ContainersClient,
        snapshots::{
            Info, ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest,
            snapshots_client::SnapshotsClient,
        },
        tasks_client::TasksClient,
    },
    types::Mount,
};
use prost::Message;
use prost_types::Any;
use serde_json::Value;
use tonic::{Code, transport::Channel};

use super::{
    Containerd,
    api::{MESSAGE_MAX, any, failed, found, request},
    rootfs, spec,
    user::{self, Accounts, User},
};
use crate::{
    image::SNAPSHOTTER,
    runtime::{RuntimeError, Sandbox, Setup},
};

/// containerd's shim for runc.
const RUNTIME: &str = "io.containerd.runc.v2";
/// Under these types Go's typeurl registers the OCI runtime spec and its parts.
const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
const LABEL_HASH: &str = "capsule.spec-hash";
const LABEL_DIGEST: &str = "capsule.image-digest";
const LABEL_WORKLOAD: &str = "capsule.workload";
/// Without it a snapshot may be collected before its container refers to it.
const LABEL_GC_ROOT: &str = "containerd.io/gc.root";

/// Options of the runc shim, a subset of containerd's `containerd.runc.v1.Options`.
#[derive(Clone, PartialEq, Message)]
struct RuncOptions {
    /// Where runc keeps its state.
    #[prost(string, tag = "7")]
    root: String,
}

impl Containerd {
    pub(super) fn containers(&self) -> ContainersClient<Channel> {
        ContainersClient::new(self.channel()).max_decoding_message_size(MESSAGE_MAX)
    }

    pub(super) fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel()).max_decoding_message_size(MESSAGE_MAX)
    }

    pub(super) fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.channel()).max_decoding_message_size(MESSAGE_MAX)
    }

    pub(super) fn runc_options(&self) -> Any {
        let options = RuncOptions { root: self.layout.runc_root().display().to_string() };
        any("containerd.runc.v1.Options", options.encode_to_vec())
    }

    pub(super) async fn create_sandbox(&self, setup: &Setup) -> Result<(), RuntimeError> {
        let name = &setup.name;
        if let Some(existing) = self.container(name).await? {
            return check_hash(setup, &existing);
        }
        let key = snapshot_key(setup);
        let rootfs = self.prepare_snapshot(setup, &key).await?;
        let user = self.resolve_user(setup, rootfs).await?;
        let spec = spec::build(setup, &user, &self.host, &self.cgroup_parent)?;
        let container = Container {
            id: name.to_string(),
            labels: HashMap::from([
                (LABEL_HASH.to_owned(), setup.spec_hash.clone()),
                (LABEL_DIGEST.to_owned(), setup.image.digest.clone()),
            ]),
            image: setup.image.reference.clone(),
            runtime: Some(ContainerRuntime { name: RUNTIME.to_owned(), options: Some(self.runc_options()) }),
            spec: Some(any(SPEC_TYPE, spec.to_string().into_bytes())),
            snapshotter: SNAPSHOTTER.to_owned(),
            snapshot_key: key,
            ..Container::default()
        };
        let request = request(CreateContainerRequest { container: Some(container) });
        match self.containers().create(request).await {
            Err(status) if status.code() != Code::AlreadyExists => {
                Err(failed(format!("make the container of workload {name}"), status))
            }
            _ => Ok(()),
        }
    }

    /// The root's mounts; a snapshot of the same spec that is there already is used.
    async fn prepare_snapshot(&self, setup: &Setup, key: &str) -> Result<Vec<Mount>, RuntimeError> {
        let attempt = || format!("make the writable layer of workload {}", setup.name);
        let request = request(PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: key.to_owned(),
            parent: setup.image.chain_id.clone(),
            labels: HashMap::from([
                (LABEL_WORKLOAD.to_owned(), setup.name.to_string()),
                (LABEL_GC_ROOT.to_owned(), jiff::Timestamp::now().to_string()),
            ]),
        });
        match self.snapshots().prepare(request).await {
            Ok(response) => Ok(response.into_inner().mounts),
            Err(status) if status.code() == Code::AlreadyExists => {
                self.snapshot_mounts(key).await?.ok_or_else(|| failed(attempt(), status))
            }
            Err(status) => Err(failed(attempt(), status)),
        }
    }

    /// How to mount a snapshot, if it exists.
    pub(super) async fn snapshot_mounts(&self, key: &str) -> Result<Option<Vec<Mount>>, RuntimeError> {
        let wanted = MountsRequest { snapshotter: SNAPSHOTTER.to_owned(), key: key.to_owned() };
        let answer = self.snapshots().mounts(request(wanted)).await;
        Ok(found(answer, format!("look up the layer {key}"))?.map(|answer| answer.mounts))
    }

    async fn resolve_user(&self, setup: &Setup, rootfs: Vec<Mount>) -> Result<User, RuntimeError> {
        let text = spec::user_text(setup).to_owned();
        if user::is_numeric_pair(&text) {
            return user::resolve(&text, &Accounts::default());
        }
        let tmp = self.layout.tmp();
        let resolve = move || user::resolve(&text, &rootfs::read_accounts(&rootfs, &tmp)?);
        tokio::task::spawn_blocking(resolve).await.map_err(|error| RuntimeError::Engine {
            attempt: format!("read the accounts of the image of workload {}", setup.name),
            message: error.to_string(),
        })?
    }

    /// The container object of a workload.
    pub(super) async fn container(&self, name: &Name) -> Result<Option<Container>, RuntimeError> {
        let answer = self.containers().get(request(GetContainerRequest { id: name.to_string() })).await;
        let answer = found(answer, format!("look up the container of workload {name}"))?;
        Ok(answer.and_then(|answer| answer.container))
    }

    /// The container object and its spec, or an error that says it is not there.
    pub(super) async fn container_spec(&self, name: &Name) -> Result<(Container, Value), RuntimeError> {
        let container =
            self.container(name).await?.ok_or_else(|| RuntimeError::NotFound(name.clone(), "container"))?;
        let bytes = container.spec.as_ref().map(|spec| spec.value.as_slice()).unwrap_or_default();
        let spec = serde_json::from_slice(bytes).map_err(|error| RuntimeError::Engine {
            attempt: format!("read the runtime spec of workload {name}"),
            message: error.to_string(),
        })?;
        Ok((container, spec))
    }

    /// Two calls whatever the number of workloads.
    pub(super) async fn list_sandboxes(&self) -> Result<Vec<Sandbox>, RuntimeError> {
        let (mut containers, mut tasks) = (self.containers(), self.tasks());
        let (containers, tasks) = tokio::join!(
            async {
                let answer = containers.list_stream(request(ListContainersRequest::default())).await;
                let mut stream = answer.map_err(|status| failed("list containers", status))?.into_inner();
                let mut all = Vec::new();
                while let Some(next) =
                    stream.message().await.map_err(|status| failed("list containers", status))?
                {
                    all.extend(next.container);
                }
                Ok::<_, RuntimeError>(all)
            },
            tasks.list(request(ListTasksRequest::default()))
        );
        let tasks = tasks.map_err(|status| failed("list tasks", status))?.into_inner().tasks;
        let mut by_id: HashMap<_, _> = tasks.into_iter().map(|task| (task.id.clone(), task)).collect();
        let sandbox = |container: &Container| {
            let name: Name = container.id.parse().ok()?;
            let process = by_id.remove(&container.id).and_then(|process| self.known(&name, process));
            let task = process.map(|process| self.task_of(&name, &process));
            Some(sandbox(name, container, task))
        };
        Ok(containers?.iter().filter_map(sandbox).collect())
    }

    pub(super) async fn get_sandbox(&self, name: &Name) -> Result<Option<Sandbox>, RuntimeError> {
        let (container, process) = tokio::join!(self.container(name), self.process(name));
        let task = process?.map(|process| self.task_of(name, &process));
        Ok(container?.map(|container| sandbox(name.clone(), &container, task)))
    }

    pub(super) async fn remove_sandbox(&self, name: &Name) -> Result<(), RuntimeError> {
        if self.process(name).await?.is_some() {
            return Err(RuntimeError::Engine {
                attempt: format!("remove the container of workload {name}"),
                message: "its task must be deleted first".to_owned(),
            });
        }
        self.discard_shim(name).await?;
        // The container goes last: while it is there, a removal that was cut short is seen and repeated.
        let filter = format!("labels.\"{LABEL_WORKLOAD}\"==\"{name}\"");
        for snapshot in self.list_snapshots(filter).await? {
            self.remove_snapshot(&snapshot.name).await?;
        }
        let answer = self.containers().delete(request(DeleteContainerRequest { id: name.to_string() })).await;
        found(answer, format!("remove the container of workload {name}"))?;
        Ok(())
    }

    async fn remove_snapshot(&self, key: &str) -> Result<(), RuntimeError> {
        let wanted = RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key: key.to_owned() };
        found(self.snapshots().remove(request(wanted)).await, format!("remove the layer {key}"))?;
        Ok(())
    }

    async fn list_snapshots(&self, filter: String) -> Result<Vec<Info>, RuntimeError> {
        let wanted = ListSnapshotsRequest { snapshotter: SNAPSHOTTER.to_owned(), filters: vec![filter] };
        let mut snapshots = self.snapshots();
        let answer = snapshots.list(request(wanted)).await;
        let mut stream = answer.map_err(|status| failed("list layers", status))?.into_inner();
        let mut all = Vec::new();
        while let Some(next) = stream.message().await.map_err(|status| failed("list layers", status))? {
            all.extend(next.info);
        }
        Ok(all)
    }

    /// Writable layers whose container was not made before the agent was killed, or was removed.
    pub(super) async fn remove_stray_snapshots(&self) -> Result<(), RuntimeError> {
        let snapshots = self.list_snapshots(format!("labels.\"{LABEL_WORKLOAD}\"")).await?;
        if snapshots.is_empty() {
            return Ok(());
        }
        let mut containers = self.containers();
        let answer = containers.list_stream(request(ListContainersRequest::default())).await;
        let mut stream = answer.map_err(|status| failed("list containers", status))?.into_inner();
        let mut used = HashSet::new();
        while let Some(next) = stream.message().await.map_err(|status| failed("list containers", status))? {
            used.extend(next.container.map(|container| container.snapshot_key));
        }
        for snapshot in snapshots.iter().filter(|snapshot| !used.contains(&snapshot.name)) {
            self.remove_snapshot(&snapshot.name).await?;
        }
        Ok(())
    }
}

/// The hash keeps a layer of an earlier spec from being taken for this one's.
fn snapshot_key(setup: &Setup) -> String {
    format!("{}-{}", setup.name, setup.spec_hash)
}

fn check_hash(setup: &Setup, existing: &Container) -> Result<(), RuntimeError> {
    if existing.labels.get(LABEL_HASH) == Some(&setup.spec_hash) {
        return Ok(());
    }
    Err(RuntimeError::Engine {
        attempt: format!("make the container of workload {}", setup.name),
        message: "there is one of another spec, which must be removed first".to_owned(),
    })
}

fn sandbox(name: Name, container: &Container, task: Option<crate::runtime::Task>) -> Sandbox {
    let label = |key: &str| container.labels.get(key).cloned().unwrap_or_default();
    Sandbox { name, spec_hash: label(LABEL_HASH), image_digest: label(LABEL_DIGEST), task }
}
