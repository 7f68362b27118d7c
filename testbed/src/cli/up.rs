//! `testbed up`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use futures_util::future::try_join_all;

use super::{
    Kind, Which,
    steps::{bold, code, faint, say, step},
};
use crate::{
    fixtures,
    scenario::{Operator, wait_agent},
    substrate::{
        self, Hardware, Owner, Request, Substrate, Testbed,
        qemu::{
            self,
            order::{Order, Power, tell},
        },
    },
    sys::process::Process,
};

/// Start a fleet, adopt its capsules and apply manifests to them.
#[derive(Args, Debug)]
pub struct Up {
    /// Where the capsules run
    #[arg(long, value_enum, default_value = "netns")]
    substrate: Kind,
    /// How many
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// What virtual machines boot [default: what `make image` built]
    #[arg(long)]
    image: Option<PathBuf>,
    /// Of each virtual machine, in MiB
    #[arg(long, default_value_t = 1024, value_name = "MIB")]
    memory: u32,
    /// Of each virtual machine
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    #[command(flatten)]
    which: Which,
    /// Keep key and contexts in your own fleetctl configuration instead of the fleet's directory
    #[arg(long)]
    own_contexts: bool,
    /// Manifests to apply, a file or a directory
    #[arg(long, default_value = "docs/examples", value_name = "PATH")]
    apply: PathBuf,
    /// Start and adopt, but push no images and apply nothing
    #[arg(long)]
    bare: bool,
}

impl Up {
    pub async fn run(self) -> Result<()> {
        substrate::remove_stale()?;
        say(bold(&format!("Fleet {:?}", self.which.name)))?;
        let mut testbed = self.wire().await?;
        start_agents(&mut testbed).await?;
        let operator = self.operator(&testbed);
        adopt(&testbed, &operator).await?;
        if !self.bare {
            push(&testbed, &operator).await?;
            apply(&testbed, &operator, &self.apply).await?;
        }
        testbed.note_cgroups()?;
        self.show(&testbed, &operator).await
    }

    async fn wire(&self) -> Result<Testbed> {
        let request = Request {
            name: self.which.name.clone(),
            dir: self.which.dir()?,
            nodes: substrate::node_names(self.nodes),
            behind_nat: Vec::new(),
            owner: Owner::Nobody,
            substrate: self.substrate()?,
        };
        let what = match self.substrate {
            Kind::Netns => "network namespaces",
            Kind::Qemu => "network cards",
        };
        step(&format!("joining {what}"), async |_| {
            let testbed = Testbed::ensure(&request)?;
            let network = testbed.plan().network_v4();
            Ok((testbed, format!("{} {what} on {network}", self.nodes)))
        })
        .await
    }

    fn substrate(&self) -> Result<Substrate> {
        Ok(match self.substrate {
            Kind::Netns => Substrate::Netns,
            Kind::Qemu => {
                let hardware = match &self.image {
                    Some(image) => Hardware::of(std::path::absolute(image)?),
                    None => Hardware::built()?,
                };
                Substrate::Qemu(Hardware { memory_mib: self.memory, cpus: self.cpus, ..hardware })
            }
        })
    }

    fn operator(&self, testbed: &Testbed) -> Operator {
        let operator = if self.own_contexts {
            Operator::own()
        } else {
            Operator::at(&testbed.record.dir.join("operator"))
        };
        operator.patient(&testbed.record.substrate)
    }

    async fn show(&self, testbed: &Testbed, operator: &Operator) -> Result<()> {
        let capsules = names(testbed).join(",");
        let list = operator.run(&["-c", &capsules, "ps"]).await?;
        say(format!("\n{}{}", list.stdout, list.stderr))?;
        say(bold("Go on with"))?;
        // Under make the short way; paths are for who called the program by its own.
        let (env, down) = if std::env::var_os("MAKELEVEL").is_some() {
            ("make -s env".to_owned(), "make down".to_owned())
        } else {
            let program = std::env::current_exe().unwrap_or_default();
            let call = |command| format!("{} {command}{}", program.display(), self.which.option());
            (call("env"), call("down"))
        };
        if !operator.is_own() {
            let line = code(&format!("eval \"$({env})\""));
            say(format!("  {line:<44} {}", faint("fleetctl, as its operator")))?;
        }
        let first = &testbed.record.nodes[0].name;
        let address = testbed.plan().node(0).0;
        let workloads = [
            (format!("curl http://{address}:8080/"), "the web workload's answer"),
            (format!("fleetctl -c {first} exec -t shell -- sh"), "a shell inside one"),
            ("fleetctl --all logs -f worker".to_owned(), "logs of all of them"),
        ];
        let workloads = workloads.into_iter().filter(|_| !self.bare);
        let info = [("fleetctl --all capsule info".to_owned(), "the capsules")];
        let last = [("fleetctl --all events -f".to_owned(), "what happens"), (down, "take it all down")];
        for (line, what) in info.into_iter().chain(workloads).chain(last) {
            say(format!("  {:<44} {}", code(&line), faint(what)))?;
        }
        Ok(())
    }
}

fn names(testbed: &Testbed) -> Vec<String> {
    testbed.record.nodes.iter().map(|node| node.name.clone()).collect()
}

async fn start_agents(testbed: &mut Testbed) -> Result<()> {
    let names = names(testbed);
    let (what, are) = match testbed.record.substrate {
        Substrate::Netns => ("starting agents", "agents, a containerd each"),
        Substrate::Qemu(_) => ("starting machines", "machines, booted"),
    };
    step(what, async |bar| {
        if let Substrate::Qemu(_) = testbed.record.substrate {
            // Before each keeper wants to know.
            qemu::accelerator().await?;
        }
        for name in &names {
            let is_kept = testbed.node(name)?.1.life().is_some_and(Process::is_alive);
            testbed.ensure_capsule(name)?;
            // The process that keeps a machine outlives its power.
            if is_kept && let Substrate::Qemu(_) = testbed.record.substrate {
                power_on(testbed, name).await?;
            }
        }
        for name in &names {
            bar.set_message(format!("waiting for the agent of {name}"));
            wait_agent(testbed, name).await.with_context(|| format!("{name} does not come up"))?;
        }
        Ok(((), format!("{} {are}", names.len())))
    })
    .await
}

async fn power_on(testbed: &Testbed, name: &str) -> Result<()> {
    let socket = testbed.files(name).socket();
    if let Power::Off(_) = tell(&socket, &Order::Look).await?.power {
        tell(&socket, &Order::PowerOn).await?;
    }
    Ok(())
}

async fn adopt(testbed: &Testbed, operator: &Operator) -> Result<()> {
    step("adopting", async |_| {
        let names = names(testbed);
        let adopt_one = async |(position, name): (usize, &String)| -> Result<bool> {
            if operator.run(&["-c", name, "whoami"]).await?.code == 0 {
                return Ok(false);
            }
            let address = testbed.plan().api(position).to_string();
            operator.run(&["adopt", &address, "--name", name, "--yes"]).await?.ok()?;
            Ok(true)
        };
        let adopted = try_join_all(names.iter().enumerate().map(adopt_one)).await?;
        let new = adopted.iter().filter(|new| **new).count();
        if new > 0 {
            // Adopted side by side, so whichever came last would be the current one.
            operator.run(&["context", "use", &names[0]]).await?.ok()?;
        }
        Ok(((), format!("{new} adopted, {} known already", names.len() - new)))
    })
    .await
}

async fn push(testbed: &Testbed, operator: &Operator) -> Result<()> {
    step("pushing images", async |bar| {
        let capsules = names(testbed).join(",");
        let archives = fixtures::ensure_archives(&testbed.record.dir.join("images"))?;
        for archive in &archives {
            bar.set_message(format!("pushing {}", archive.display()));
            operator.run(&["-c", &capsules, "image", "push", &archive.display().to_string()]).await?.ok()?;
        }
        Ok(((), format!("images {} and {}", fixtures::BUSYBOX, fixtures::ECHO)))
    })
    .await
}

async fn apply(testbed: &Testbed, operator: &Operator, manifests: &Path) -> Result<()> {
    ensure!(
        manifests.exists(),
        "there are no manifests at {}; run this from the top of the source tree, or name them with --apply",
        manifests.display()
    );
    step("applying manifests", async |_| {
        let capsules = names(testbed).join(",");
        operator
            .run(&["-c", &capsules, "apply", "-f", &manifests.display().to_string(), "--wait"])
            .await?
            .ok()?;
        Ok(((), format!("{} applied to every capsule", manifests.display())))
    })
    .await
}
