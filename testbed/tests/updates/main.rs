//! `fleetctl update` on machines whose disks are directories; their agents, boot loader and reboots
//! are those of the agent's own tests.

#![allow(clippy::unwrap_used)]

#[path = "../../../agent/tests/access/idle.rs"]
mod idle;
#[allow(dead_code)]
#[path = "../../../agent/tests/updates/rig.rs"]
mod rig;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use capsule_bundle::write::SigningKey;
use capsule_client::{ConfigError, Contexts, Home};
use rig::{Rig, noise};
use serde_json::Value;
use testbed::scenario::Operator;
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

/// A machine that is on, and starts anew when it is told to.
struct Machine {
    rig: Arc<Rig>,
    _power: JoinHandle<()>,
}

impl Machine {
    async fn on(rig: Rig, name: &str, home: &Path) -> Self {
        let rig = Arc::new(rig);
        let (told, address) = oneshot::channel();
        let machine = rig.clone();
        let power = tokio::spawn(async move {
            let mut agent = machine.agent(&machine.load()).await;
            let _ = told.send(agent.address());
            for reboots in 1.. {
                machine.reboot(reboots).await;
                agent.stop().await;
                agent = machine.agent(&machine.load()).await;
            }
        });
        let context = rig.context(address.await.unwrap()).await;
        Home::at(home).update(|known| known.insert(name, context).map_err(ConfigError::from)).unwrap();
        Self { rig, _power: power }
    }
}

/// An operator with this many machines: `a`, `b`, …
struct Site {
    dir: tempfile::TempDir,
    operator: Operator,
    machines: Vec<Machine>,
}

impl Site {
    async fn of(machines: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("operator");
        let mut site = Self { operator: Operator::at(&home), machines: Vec::new(), dir };
        for name in ["a", "b", "c"].iter().take(machines) {
            let rig = Rig::operated_from(tempfile::tempdir().unwrap(), &home);
            site.machines.push(Machine::on(rig, name, &home).await);
        }
        site
    }

    /// One bundle for all, by a key that those of `trusting` trust.
    async fn bundle(&self, version: &str, system: [Vec<u8>; 2], trusting: &str) -> PathBuf {
        let key = SigningKey::generate("the site's").unwrap();
        let public = self.dir.path().join(format!("{version}.pub"));
        fs::write(&public, key.public_text()).unwrap();
        let add = ["-c", trusting, "update", "keys", "add", public.to_str().unwrap()];
        self.operator.run(&add).await.unwrap().ok().unwrap();
        let mut made = PathBuf::new();
        for machine in &self.machines {
            made = machine.rig.bundle_of(version, system.clone(), &key);
        }
        let bundle = self.dir.path().join(format!("capsule-{version}.update"));
        fs::copy(made, &bundle).unwrap();
        bundle
    }

    /// From now on the operator reaches a capsule through somebody who cuts the first connection that
    /// brings so many bytes; how many were cut.
    async fn put_behind_a_cut(&self, name: &str, after: u64) -> Arc<AtomicU64> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut capsule = None;
        let home = Home::at(self.dir.path().join("operator"));
        let change = |known: &mut Contexts| {
            let context = known.contexts.get_mut(name).unwrap();
            capsule = Some(context.address.to_string());
            context.address = address.to_string().parse().unwrap();
            Ok::<_, ConfigError>(())
        };
        home.update(change).unwrap();
        let cuts = Arc::new(AtomicU64::new(0));
        let cut = cuts.clone();
        tokio::spawn(async move {
            let capsule = capsule.unwrap();
            while let Ok((caller, _)) = listener.accept().await {
                let (capsule, cut) = (capsule.clone(), cut.clone());
                tokio::spawn(async move {
                    let Ok(capsule) = TcpStream::connect(&capsule).await else { return };
                    let (mut from_caller, mut to_caller) = caller.into_split();
                    let (mut from_capsule, mut to_capsule) = capsule.into_split();
                    let may_pass = if cut.load(Ordering::SeqCst) == 0 { after } else { u64::MAX };
                    let up = async {
                        let mut first = (&mut from_caller).take(may_pass);
                        let passed = tokio::io::copy(&mut first, &mut to_capsule).await.unwrap_or(0);
                        cut.fetch_add(u64::from(passed == may_pass), Ordering::SeqCst);
                    };
                    tokio::select! {
                        () = up => {}
                        _ = tokio::io::copy(&mut from_capsule, &mut to_caller) => {}
                    }
                });
            }
        });
        cuts
    }

    async fn push(&self, words: &[&str], bundle: &Path, code: i32) -> (Vec<Value>, String) {
        let words = [&["--all", "-o", "json", "update", "push", bundle.to_str().unwrap()], words].concat();
        let pushed = self.operator.run(&words).await.unwrap().expect_code(code).unwrap();
        (pushed.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), pushed.stderr)
    }

    async fn said(&self, words: &[&str]) -> String {
        self.operator.run(words).await.unwrap().ok().unwrap().stdout
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_command_brings_a_new_system_and_waits_until_it_is_kept() {
    let site = Site::of(1).await;
    let bundle = site.bundle("0.2.0", rig::system("0.2.0"), "a").await;
    let pushed = site.said(&["update", "push", bundle.to_str().unwrap(), "--auto-confirm", "1s"]).await;
    assert!(pushed.contains("0.2.0 (slot b, after 0.1.0) runs and is kept; "), "{pushed}");
    assert!(pushed.contains(" of 13 MiB sent"), "{pushed}");
    let status = site.said(&["update", "status"]).await;
    assert!(status.contains("0.2.0") && status.contains("a: 0.1.0 (good)"), "{status}");
    let listed = site.said(&["update", "list"]).await;
    assert!(listed.contains("confirmed"), "{listed}");
    let again = site.said(&["update", "push", bundle.to_str().unwrap()]).await;
    assert_eq!(again, "0.2.0 runs already\n");
    let keys = site.said(&["update", "keys", "list", "-o", "name"]).await;
    assert_eq!(keys.lines().count(), 2);
    let rolled_back = site.said(&["update", "rollback", "--auto-confirm", "1s"]).await;
    assert_eq!(rolled_back, "leaves 0.2.0 and reboots into 0.1.0 in slot a\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_waits_for_its_operator() {
    let site = Site::of(1).await;
    let bundle = site.bundle("0.2.0", rig::system("0.2.0"), "a").await;
    let pushed = site.said(&["update", "push", bundle.to_str().unwrap()]).await;
    assert!(pushed.contains("runs on trial; `fleetctl update confirm` keeps it"), "{pushed}");
    let status = site.said(&["update", "status"]).await;
    assert!(status.contains("waits for `update confirm` (") && status.contains(" left)"), "{status}");
    let again = site.said(&["update", "push", bundle.to_str().unwrap(), "--auto-confirm", "1s"]).await;
    assert!(again.contains("runs already, on trial, which goes on as it was begun"), "{again}");
    assert_eq!(site.said(&["update", "confirm"]).await, "0.2.0 is kept\n");
    let nowhere = site.dir.path().join("capsule-0.3.0.update");
    let (_, told) = site.push(&[], &nowhere, 2).await;
    assert!(told.contains("No such file"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn capsules_follow_only_when_those_before_them_are_through() {
    let site = Site::of(3).await;
    let bundle = site.bundle("0.2.0", rig::system("0.2.0"), "b,c").await;
    let (rows, _) = site.push(&["--canary", "1", "--auto-confirm", "1s"], &bundle, 1).await;
    let code =
        |at: usize| (rows[at]["capsule"].as_str().unwrap(), rows[at]["error"]["code"].as_str().unwrap());
    assert_eq!(
        [code(0), code(1), code(2)],
        [("a", "invalid"), ("b", "not-attempted"), ("c", "not-attempted")]
    );
    assert!(rows[0]["error"]["message"].as_str().unwrap().contains("not trusted here"), "{rows:?}");
    let two = ["--canary", "1", "--batch", "1", "--stop-after-failures", "2", "--auto-confirm", "1s"];
    let (rows, _) = site.push(&two, &bundle, 3).await;
    let states: Vec<_> =
        rows.iter().map(|row| (row["ok"].as_bool().unwrap(), row["result"]["state"].as_str())).collect();
    assert_eq!(states, [(false, None), (true, Some("confirmed")), (true, Some("confirmed"))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_whose_connection_breaks_goes_on_where_it_was() {
    let site = Site::of(1).await;
    let system = [noise("kernel", 900_000), noise("nothing shared", 20 << 20)];
    let bundle = site.bundle("0.2.0", system, "a").await;
    let cuts = site.put_behind_a_cut("a", 12 << 20).await;
    let (rows, told) = site.push(&["--auto-confirm", "1s"], &bundle, 0).await;
    assert_eq!(rows[0]["result"]["state"], "confirmed", "{told}");
    assert_eq!(cuts.load(Ordering::SeqCst), 1);
    let bytes = |name: &str| rows[0]["result"][name].as_u64().unwrap();
    assert!(bytes("sentBytes") < bytes("bundleBytes") * 5 / 4, "it began anew: {rows:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_is_damaged_is_sent_to_nobody() {
    let site = Site::of(1).await;
    let bundle = site.bundle("0.2.0", rig::system("0.2.0"), "a").await;
    let mut bytes = fs::read(&bundle).unwrap();
    let end = bytes.len();
    bytes[end - 5000] ^= 1;
    fs::write(&bundle, &bytes).unwrap();
    let (_, told) = site.push(&[], &bundle, 2).await;
    assert!(told.contains("root.img is corrupt"), "{told}");
    fs::write(&bundle, &bytes[..end / 2]).unwrap();
    let (_, told) = site.push(&[], &bundle, 2).await;
    assert!(told.contains("truncated"), "{told}");
}
