//! A machine with two slots made of plain files, a boot loader that goes by the real one's order, and
//! an agent that believes all of it.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use capsule_bundle::{
    Digest, Version,
    write::{Content, SigningKey, write},
};
use capsule_client::{
    Capsule, Connector, Context, Home, Target, adopt,
    update::{PushError, PushOptions, Pushed, UpdateFile, push},
};
use capsule_proto::v1::{self, SlotState, UpdateState};
use capsuled::{
    agent::{Agent, Appliance},
    boot::{Slot, link::Cause},
    config::Config,
    update::{
        Esp, Vital, Vitals,
        loader::{self, Entry, EntryName, Tries},
        machine::Machine,
        slots::{self, Slots},
    },
};
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::timeout};

use crate::idle;

/// Nothing here takes longer.
const LIMIT: Duration = Duration::from_secs(30);
const SLOT_BYTES: u64 = 24 << 20;

/// What the machine was told, and knows.
#[derive(Default)]
pub(crate) struct Power {
    reboots: watch::Sender<Vec<(Cause, String)>>,
    pub(crate) confirmations: Mutex<u32>,
    pub(crate) ended: Mutex<Option<String>>,
}

#[async_trait]
impl Machine for Power {
    async fn reboot(&self, cause: Cause, detail: String) {
        self.reboots.send_modify(|reboots| reboots.push((cause, detail)));
    }
    async fn confirmed(&self) {
        *self.confirmations.lock().unwrap() += 1;
    }
    fn why_ended(&self, _: Slot) -> Option<String> {
        self.ended.lock().unwrap().clone()
    }
}

/// How the capsule is said to be.
#[derive(Default)]
pub(crate) struct Health(pub(crate) Mutex<Option<String>>);

#[async_trait]
impl Vitals for Health {
    async fn look(&self, _: &[String]) -> Vec<Vital> {
        vec![Vital { name: "network", problem: self.0.lock().unwrap().clone() }]
    }
    fn running(&self) -> Vec<String> {
        vec!["web".into()]
    }
}

/// The disk; outlives every boot.
pub(crate) struct Rig {
    dir: PathBuf,
    /// Removes it where this process has made it.
    guard: Option<tempfile::TempDir>,
    pub(crate) key: SigningKey,
    operator: Connector,
    pub(crate) power: Arc<Power>,
    pub(crate) health: Arc<Health>,
    boots: Mutex<u32>,
    /// The same at every boot.
    listen: Mutex<SocketAddr>,
    /// Kernel and root of each version that was ever made.
    made: Mutex<BTreeMap<String, [Vec<u8>; 2]>>,
}

/// One boot, as the loader and init tell of it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Boot {
    id: String,
    pub(crate) slot: Slot,
    version: String,
    is_tentative: bool,
}

/// An agent that runs.
pub(crate) struct Booted {
    pub(crate) agent: Agent,
    pub(crate) slot: Slot,
    pub(crate) capsule: Capsule,
}

impl Rig {
    /// Slot a runs 0.1.0, slot b is empty, and a key is trusted.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("operator");
        Self::operated_from(dir, &home)
    }

    /// The same, by the operator whose configuration is in `home`.
    pub(crate) fn operated_from(dir: tempfile::TempDir, home: &Path) -> Self {
        SigningKey::generate("the tests'").unwrap().save(&dir.path().join("release.key")).unwrap();
        let mut rig = Self::at(dir.path());
        rig.operator = Connector::new(Home::at(home).ensure_key().unwrap()).unwrap();
        rig.guard = Some(dir);
        for made in ["esp/loader/entries", "esp/EFI/capsule", "keys", "bundles"] {
            fs::create_dir_all(rig.path(made)).unwrap();
        }
        fs::write(rig.path("keys/release.pub"), rig.key.public_text()).unwrap();
        let [kernel, root] = system("0.1.0");
        rig.made.lock().unwrap().insert("0.1.0".into(), [kernel.clone(), root.clone()]);
        fs::write(rig.path("esp").join(slots::kernel(Slot::A)), kernel).unwrap();
        fs::write(rig.partition(Slot::A), root).unwrap();
        for slot in slots::ALL {
            let file = fs::OpenOptions::new().create(true).append(true).open(rig.partition(slot)).unwrap();
            file.set_len(SLOT_BYTES).unwrap();
        }
        loader::confirm(&rig.path("esp"), Slot::A, "0.1.0").unwrap();
        rig
    }

    /// What another process has made.
    pub(crate) fn at(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            guard: None,
            key: SigningKey::load(&dir.join("release.key")).unwrap(),
            operator: Connector::new(Home::at(dir.join("operator")).ensure_key().unwrap()).unwrap(),
            power: Arc::default(),
            health: Arc::default(),
            boots: Mutex::new(0),
            listen: Mutex::new(SocketAddr::from(([127, 0, 0, 1], 0))),
            made: Mutex::default(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(crate) fn partition(&self, slot: Slot) -> PathBuf {
        self.path(&format!("slot-{slot}"))
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        loader::read(&self.path("esp")).unwrap()
    }

    /// As firmware, boot loader and init do it.
    pub(crate) async fn boot(&self) -> Booted {
        self.start(&self.load()).await
    }

    /// What the loader boots, which takes one of its tries.
    pub(crate) fn load(&self) -> Boot {
        let entries = self.entries();
        let entry = loader::choose(&entries).expect("nothing boots");
        self.check_whole(entry);
        let EntryName { slot, tries } = entry.name;
        if let Tries::Counted { left: left @ 1.., done } = tries {
            let used = EntryName { slot, tries: Tries::Counted { left: left - 1, done: done + 1 } };
            let dir = self.path("esp/loader/entries");
            fs::rename(dir.join(entry.name.to_string()), dir.join(used.to_string())).unwrap();
        }
        let mut boots = self.boots.lock().unwrap();
        *boots += 1;
        let is_tentative = tries != Tries::Unlimited;
        Boot { id: boots.to_string(), slot, version: entry.version.clone(), is_tentative }
    }

    /// What is booted where the slot that the loader prefers does not open: the other one, once.
    pub(crate) fn fall_back(&self) -> Boot {
        let preferred = self.load();
        let slot = preferred.slot.other();
        let entries = self.entries();
        let entry = loader::of_slot(&entries, slot).expect("there is no other slot");
        Boot { slot, version: entry.version.clone(), is_tentative: false, ..preferred }
    }

    /// The agent alone, in the same boot.
    pub(crate) async fn restart(&self, booted: Booted, is_tentative: bool) -> Booted {
        let version = booted.capsule.updates().get_status(v1::GetUpdateStatusRequest {}).await.unwrap();
        let (slot, version) = (booted.slot, version.into_inner().version);
        booted.agent.stop().await;
        let id = self.boots.lock().unwrap().to_string();
        self.start(&Boot { id, slot, version, is_tentative }).await
    }

    pub(crate) async fn start(&self, boot: &Boot) -> Booted {
        let agent = self.agent(boot).await;
        let capsule = self.connect(agent.address()).await;
        Booted { agent, slot: boot.slot, capsule }
    }

    /// The agent of this boot.
    pub(crate) async fn agent(&self, boot: &Boot) -> Agent {
        let slots = Slots {
            boot_id: boot.id.clone(),
            version: boot.version.parse().unwrap(),
            active: boot.slot,
            esp: Esp::new(self.path("esp")),
            a: self.partition(Slot::A),
            b: self.partition(Slot::B),
        };
        let appliance = Appliance {
            slots,
            is_tentative: boot.is_tentative,
            boot_dir: self.path("boot"),
            keys_dir: self.path("keys"),
            machine: self.power.clone(),
            vitals: Some(self.health.clone()),
        };
        let listen = *self.listen.lock().unwrap();
        let config = Config { listen, ..Config::new(self.path("state")) };
        let agent =
            Agent::builder(config).runtime(idle::runtime()).appliance(appliance).start().await.unwrap();
        *self.listen.lock().unwrap() = agent.address();
        agent
    }

    /// As the operator who has adopted it, or does now.
    pub(crate) async fn context(&self, address: SocketAddr) -> Context {
        let address = address.to_string().parse().unwrap();
        let probe = adopt::probe(&self.operator, &address).await.unwrap();
        adopt::adopt(&self.operator, &probe, "op@test").await.unwrap().context
    }

    /// The same, with a connection.
    pub(crate) async fn connect(&self, address: SocketAddr) -> Capsule {
        let context = self.context(address).await;
        let address = address.to_string().parse().unwrap();
        let (capsule_id, fingerprint) = (context.capsule_id, context.fingerprint);
        let target = Target { name: "a".into(), address, capsule_id, fingerprint };
        self.operator.connect(&target).await.unwrap()
    }

    /// What an entry boots must be one of the versions that were made, byte for byte.
    fn check_whole(&self, entry: &Entry) {
        let made = self.made.lock().unwrap();
        let [kernel, root] = &made[&entry.version];
        let slot = entry.name.slot;
        assert!(fs::read(self.path("esp").join(slots::kernel(slot))).unwrap() == *kernel, "{entry:?}");
        assert!(fs::read(self.partition(slot)).unwrap()[..root.len()] == root[..], "{entry:?}");
    }

    /// A bundle of a version, signed by the key that is trusted.
    pub(crate) fn bundle(&self, version: &str) -> PathBuf {
        self.bundle_of(version, system(version), &self.key)
    }

    pub(crate) fn bundle_of(&self, version: &str, system: [Vec<u8>; 2], key: &SigningKey) -> PathBuf {
        let path = self.path(&format!("bundles/{version}.update"));
        fs::write(self.path("kernel.efi"), &system[0]).unwrap();
        fs::write(self.path("root.img"), &system[1]).unwrap();
        self.made.lock().unwrap().insert(version.into(), system);
        self.write(version, std::env::consts::ARCH, key, &path);
        path
    }

    /// Of the files that are there.
    pub(crate) fn write(&self, version: &str, architecture: &str, key: &SigningKey, path: &Path) {
        let content = Content {
            version: version.parse().unwrap(),
            minimum_version: Version::new(0, 1, 0),
            architecture,
            kernel: &self.path("kernel.efi"),
            root: &self.path("root.img"),
            roothash: Digest::of(version.as_bytes()),
            data_bytes: 4096,
        };
        write(&content, key, path).unwrap();
    }

    /// Waits until the machine was told to start anew, the `count`th time.
    pub(crate) async fn rebooted(&self, count: usize) -> (Cause, String) {
        timeout(LIMIT, self.reboot(count)).await.expect("no reboot")
    }

    /// The same, however long it takes.
    pub(crate) async fn reboot(&self, count: usize) -> (Cause, String) {
        let mut reboots = self.power.reboots.subscribe();
        reboots.wait_for(|reboots| reboots.len() >= count).await.unwrap()[count - 1].clone()
    }
}

impl Booted {
    pub(crate) async fn push(&self, bundle: &Path) -> Result<Pushed, PushError> {
        self.push_with(bundle, PushOptions::default()).await
    }

    pub(crate) async fn push_with(&self, bundle: &Path, options: PushOptions) -> Result<Pushed, PushError> {
        let file = UpdateFile::open(bundle, |_| ()).unwrap();
        timeout(LIMIT, push(&self.capsule, &file, &options, |_| ())).await.expect("the push takes too long")
    }

    /// Why a push is refused.
    pub(crate) async fn refusal(&self, bundle: &Path) -> String {
        self.push(bundle).await.unwrap_err().to_string()
    }

    pub(crate) async fn status(&self) -> v1::UpdateStatus {
        self.capsule.updates().get_status(v1::GetUpdateStatusRequest {}).await.unwrap().into_inner()
    }

    pub(crate) async fn confirm(&self) -> v1::UpdateStatus {
        self.capsule.updates().confirm(v1::ConfirmUpdateRequest {}).await.unwrap().into_inner()
    }

    pub(crate) async fn rollback(&self) -> Result<v1::UpdateStatus, tonic::Status> {
        let request = v1::RollbackUpdateRequest { auto_confirm_seconds: 1 };
        Ok(self.capsule.updates().rollback(request).await?.into_inner())
    }

    /// Of the newest update.
    pub(crate) async fn state(&self) -> (UpdateState, String) {
        let update = self.status().await.update.unwrap();
        (update.state(), update.reason)
    }

    pub(crate) async fn slot_states(&self) -> [SlotState; 2] {
        let status = self.status().await;
        [status.slots[0].state(), status.slots[1].state()]
    }

    /// Waits for the newest update to come into a state.
    pub(crate) async fn wait_for(&self, state: UpdateState) {
        let look = async {
            while self.state().await.0 != state {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(LIMIT, look).await.unwrap_or_else(|_| panic!("never came into state {state}"));
    }
}

/// Bytes that repeat nowhere, other ones for each name (xorshift64).
pub(crate) fn noise(name: &str, bytes: usize) -> Vec<u8> {
    let seed = Digest::of(name.as_bytes());
    let mut state = u64::from_le_bytes(seed.0[..8].try_into().unwrap()) | 1;
    let mut made = Vec::with_capacity(bytes + 8);
    while made.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        made.extend(state.to_le_bytes());
    }
    made.truncate(bytes);
    made
}

/// Kernel and root of a version: most of the root is in every version, and some of it moves.
pub(crate) fn system(version: &str) -> [Vec<u8>; 2] {
    let own = noise(version, 600_000 + version.len() * 4096);
    let root = [noise("shared", 6 << 20), own, noise("also shared", 6 << 20)].concat();
    [noise(&format!("kernel {version}"), 900_000), root]
}
