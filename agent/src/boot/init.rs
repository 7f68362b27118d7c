//! Init: from the root file system to a capsule that runs, and to its end.
//!
//! ```text
//!   mounts ─▶ facts ─▶ modules ─▶ /perm ─▶ history ─▶ agent ─▶ watch until somebody stops the machine
//!                │                                       ▲
//!                └─▶ drivers ─▶ uplink ──────────────────┘ (nobody waits for that)
//! ```
//!
//! Everything is started by this one process, and [`pid1`](super::pid1) reaps what it did not start.
//! Without `/perm` the machine shows why on its console and waits: no agent runs, so that nobody can
//! claim it and no empty database takes the place of the one that is missing.

use std::{convert::Infallible, fs, io, path::Path, time::Duration};

use capsule_initramfs::{
    handover::{self, Handover},
    words::Words,
};
use nix::sys::sysinfo::sysinfo;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    clock,
    console::{Screen, say},
    facts::{BootFacts, FACTS_FILE, Role, Slot},
    hardware::{self, Of},
    history::{self, End, History},
    link::{Banner, Cause, How, SOCKET, Stop},
    mounts,
    perm::{self, PermError},
    power, role,
    server::{self, Ears},
    stop,
    supervise::{self, Observed, Plan},
    tentative::{self, Expectation, Signs},
    uplink::{self, Uplink},
    watchdog::{self, Watchdog},
};
use crate::{
    identity::HOSTNAME_FILE,
    status,
    sys::{file::write_atomic, memory, mount::Access, sysctl},
};

/// This program, where the image has it.
const PROGRAM: &str = "/usr/sbin/capsuled";
const OS_RELEASE: &str = "/etc/os-release";
/// On the ESP, further words for the command line.
const WORDS_FILE: &str = "capsule.txt";
const CONTROLLERS: &str = "/sys/fs/cgroup/cgroup.subtree_control";
/// What the kernel calls for a module, which knows those that are not on board.
const MODPROBE: (&str, &str) = ("kernel/modprobe", "/usr/lib/capsule/modprobe");
/// What the kernel keeps free for itself, in KiB.
const RESERVE: &str = "vm/min_free_kbytes";
/// For callers to get answers, before what they do not need is started all the same.
const REACHED_LIMIT: Duration = Duration::from_secs(30);
/// Between two looks at everything that may have changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// An agent that has been silent for so long is not helped by being started again.
const SILENCE_LIMIT: Duration = Duration::from_mins(5);

/// Runs init. Returns only with an error, which the first process answers with a reboot.
pub async fn run() -> anyhow::Result<Infallible> {
    mounts::mount_early(|trouble| say(&trouble));
    let handover = read_handover()?;
    let words = words(&handover.esp)?;
    let mut facts = facts(&handover)?;
    if role::is_on_removable(&facts) {
        // What is internal may need a driver that the initramfs has not.
        load_drivers(Of::Devices).await;
        facts.role = role::of_removable(&facts).await;
    }
    write_atomic(Path::new(FACTS_FILE), &serde_json::to_vec(&facts)?, 0o644)?;
    if let Err(error) = fs::write(CONTROLLERS, "+cpu +memory +pids +io +cpuset") {
        say(&format!("not all controllers of cgroups can be used: {error}"));
    }
    if let Err(error) = bound_reserve() {
        say(&format!("the kernel keeps more memory free than it needs: {error}"));
    }
    if let Err(error) = sysctl::ensure(MODPROBE.0, MODPROBE.1) {
        say(&format!("modules that are not on board are looked for: {error}"));
    }
    let mut init = Init::new(facts, &words);
    tokio::join!(load_drivers(Of::Devices), async {
        load(&hardware::EARLY).await;
        init.open_perm().await;
    });
    init.name_machine();
    init.open_watchdog().await;
    init.begin_history();
    init.start_background(&words);
    let stop = init.watch().await;
    init.stop(stop).await
}

/// For the sake of huge pages the kernel keeps up to 64 MiB free, and counts on twice as much: a seventh
/// of a small machine. This bounds it to a sixty-fourth; where there is 4 GiB, nothing changes.
fn bound_reserve() -> io::Result<()> {
    let kib = |text: &str| text.parse::<u64>().map_err(io::Error::other);
    let limit = sysinfo()?.ram_total() >> 16;
    if kib(&sysctl::get(RESERVE)?)? > limit {
        sysctl::ensure(RESERVE, &limit.to_string())?;
    }
    Ok(())
}

async fn load(modules: &[&str]) {
    if let Err(error) = hardware::load(modules).await {
        say(&status::chain(&error));
    }
}

async fn load_drivers(of: Of) {
    if let Err(error) = hardware::load_drivers(of).await {
        say(&status::chain(&error));
    }
}

/// What the initramfs found; where the kernel was booted without it, there is nothing to run on.
fn read_handover() -> anyhow::Result<Handover> {
    let text = fs::read_to_string(handover::FILE)?;
    Handover::parse(&text).ok_or_else(|| anyhow::anyhow!("{} is not whole", handover::FILE))
}

/// The kernel's command line, and what is written on the ESP, which counts more.
fn words(esp: &Path) -> anyhow::Result<Words> {
    let cmdline = fs::read_to_string("/proc/cmdline")?;
    let read = |dir: &Path| Ok(fs::read_to_string(dir.join(WORDS_FILE)).unwrap_or_default());
    let own = perm::with_esp(esp, Access::Read, read).unwrap_or_else(|error| {
        say(&format!("cannot read the ESP: {error}"));
        String::new()
    });
    let own = own.lines().map(|line| line.split('#').next().unwrap_or_default());
    Ok(Words::parse(&std::iter::once(cmdline.as_str()).chain(own).collect::<Vec<_>>().join(" ")))
}

fn facts(handover: &Handover) -> anyhow::Result<BootFacts> {
    let Handover { disk, esp, a, b, pv, slot, entry } = handover.clone();
    let entry = entry.unwrap_or_default();
    let release = fs::read_to_string(OS_RELEASE)?;
    Ok(BootFacts {
        boot_id: sysctl::get(sysctl::BOOT_ID)?,
        version: version(&release).unwrap_or_default().to_owned(),
        slot: if slot == 'b' { Slot::B } else { Slot::A },
        tentative: entry.contains('+'),
        entry,
        role: Role::Appliance,
        disk,
        esp,
        a,
        b,
        pv,
    })
}

/// os-release(5).
fn version(release: &str) -> Option<&str> {
    let value = release.lines().find_map(|line| line.strip_prefix("VERSION_ID="))?;
    Some(value.trim_matches('"'))
}

struct Init {
    facts: BootFacts,
    started: Instant,
    perm: Result<History, String>,
    watchdog: Option<Watchdog>,
    observed: watch::Sender<Observed>,
    banner: watch::Sender<Banner>,
    confirmed: watch::Sender<bool>,
    has_network: watch::Sender<bool>,
    stops: (mpsc::Sender<Stop>, mpsc::Receiver<Stop>),
    end_agent: watch::Sender<bool>,
    agent: Option<JoinHandle<()>>,
    /// Daemons that end with the machine.
    background: JoinSet<()>,
    plan: Plan,
    trouble: Vec<String>,
    shown: Option<Screen>,
    kept_clock: Instant,
}

impl Init {
    fn new(facts: BootFacts, words: &Words) -> Self {
        let plan = Plan {
            program: PROGRAM.into(),
            state_dir: perm::STATE_DIR.into(),
            hostname: String::new(),
            log: words.value("capsule.log").map(str::to_owned),
        };
        Self {
            facts,
            started: Instant::now(),
            perm: Err("it is not open yet".into()),
            watchdog: None,
            observed: watch::Sender::new(Observed::new()),
            banner: watch::Sender::new(Banner::default()),
            confirmed: watch::Sender::new(false),
            has_network: watch::Sender::new(false),
            stops: mpsc::channel(4),
            end_agent: watch::Sender::new(false),
            agent: None,
            background: JoinSet::new(),
            plan,
            trouble: Vec::new(),
            shown: None,
            kept_clock: Instant::now(),
        }
    }

    /// `/perm`, and what it knows of the clock and the machine's name.
    async fn open_perm(&mut self) {
        if let Err(error) = self.mount_perm().await {
            let why = status::chain(&error);
            say(&why);
            self.trouble.push(why.clone());
            self.perm = Err(why);
            return;
        }
        match clock::raise_to_floor(Path::new(history::DIR), Path::new(OS_RELEASE)) {
            Ok(behind) if behind.is_zero() => {}
            Ok(behind) => say(&format!("the clock was at least {} s behind", behind.as_secs())),
            Err(error) => say(&format!("the clock cannot be set: {error}")),
        }
        let history = History::open(Path::new(history::DIR));
        self.perm = history.map_err(|error| format!("cannot read {}: {error}", history::DIR));
        self.trouble.extend(self.perm.as_ref().err().cloned());
    }

    /// By what the operator said, or by a card whose driver is loaded by now.
    fn name_machine(&mut self) {
        self.plan.hostname = hostname();
        if let Err(error) = nix::unistd::sethostname(&self.plan.hostname) {
            say(&format!("the hostname cannot be set: {error}"));
        }
    }

    async fn mount_perm(&mut self) -> Result<(), PermError> {
        if self.facts.role == Role::Installer {
            return perm::open_in_memory();
        }
        let report = perm::open(&self.facts.pv, &self.facts.esp).await?;
        report.made.iter().for_each(|done| say(done));
        let no_pool = |error| format!("volumes cannot be used: {}", status::chain(&error));
        self.trouble.extend(report.pool_error.map(no_pool));
        Ok(())
    }

    /// Hardware's, whose driver is loaded by now, else the kernel's own.
    async fn open_watchdog(&mut self) {
        if !Watchdog::is_there() {
            load(&[watchdog::SOFT_MODULE]).await;
        }
        self.watchdog = Watchdog::open().unwrap_or_else(|error| {
            say(&format!("the watchdog cannot be used: {error}"));
            None
        });
    }

    /// Begins this boot's record, and ends that of the one before.
    fn begin_history(&mut self) {
        let end = self.unrecorded_end();
        if let Ok(history) = &mut self.perm
            && let Err(error) = history.begin(&self.facts, end)
        {
            self.trouble.push(format!("cannot write {}: {error}", history::DIR));
        }
    }

    /// Why the boot before this one ended, where it could not say so itself.
    fn unrecorded_end(&self) -> End {
        let end = |cause, detail: String| End { cause, detail, at: None };
        if let Some(panic) = history::take_panic(Path::new(mounts::PSTORE)) {
            end(Cause::Panic, panic)
        } else if self.watchdog.as_ref().is_some_and(Watchdog::was_cause) {
            end(Cause::Watchdog, "the hardware says that its watchdog has reset the machine".into())
        } else {
            end(Cause::PowerLoss, String::new())
        }
    }

    /// What nobody waits for.
    fn start_background(&mut self, words: &Words) {
        let uplink = words.value("capsule.net").map_or(Ok(Uplink::Dhcp), str::parse);
        let uplink = uplink.unwrap_or_else(|error| {
            self.trouble.push(error.to_string());
            Uplink::Dhcp
        });
        let has_perm = self.perm.is_ok();
        self.background.spawn(async move {
            if let Err(error) = uplink.keep(|trouble| say(&trouble)).await {
                say(&format!("there is no uplink: {error}"));
            }
        });
        let ears = Ears {
            observed: self.observed.clone(),
            banner: self.banner.clone(),
            stops: self.stops.0.clone(),
            confirmed: self.confirmed.clone(),
        };
        tokio::spawn(async move {
            if let Err(error) = server::serve(Path::new(SOCKET), ears).await {
                say(&format!("the agent is not heard: {error}"));
            }
        });
        let reached = self.reached();
        self.background.spawn(async move {
            reached.await;
            mounts::mount_later(|trouble| say(&trouble));
            load_drivers(Of::Later).await;
            if has_perm
                && let Err(error) = clock::run_chrony(Path::new(history::DIR), |trouble| say(&trouble)).await
            {
                say(&format!("the clock is not kept: {error}"));
            }
        });
        if has_perm {
            let agent = supervise::keep(self.plan.clone(), self.observed.clone(), self.end_agent.subscribe());
            self.agent = Some(tokio::spawn(agent));
        }
    }

    /// Until callers get answers: what takes seconds of a processor, and what they do not need, waits for it.
    fn reached(&self) -> impl Future<Output = ()> + use<> {
        let (mut observed, mut has_network) = (self.observed.subscribe(), self.has_network.subscribe());
        async move {
            let answers = async {
                let _ = observed.wait_for(|observed| observed.has_answered).await;
                let _ = has_network.wait_for(|has_network| *has_network).await;
            };
            let _ = tokio::time::timeout(REACHED_LIMIT, answers).await;
        }
    }

    /// Until somebody, or something, stops the machine.
    async fn watch(&mut self) -> anyhow::Result<Stop> {
        let mut terminated = signal(SignalKind::terminate())?;
        let mut interrupted = signal(SignalKind::interrupt())?;
        let mut button = power::watch();
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut rests = interval(memory::INTERVAL);
        let asked = |detail: &str| Stop { how: How::PowerOff, cause: Cause::Operator, detail: detail.into() };
        loop {
            tokio::select! {
                Some(stop) = self.stops.1.recv() => return Ok(stop),
                _ = terminated.recv() => return Ok(asked("SIGTERM")),
                _ = interrupted.recv() => return Ok(asked("Ctrl-Alt-Del")),
                Some(()) = button.recv() => return Ok(asked("the power button")),
                _ = looks.tick() => if let Some(stop) = self.look() { return Ok(stop) },
                _ = rests.tick() => memory::give_back(),
            }
        }
    }

    /// One look: the console, the watchdog, the clock, and whether this slot is any good.
    fn look(&mut self) -> Option<Stop> {
        let addresses = uplink::addresses().unwrap_or_default();
        let has_network = !addresses.is_empty();
        self.has_network.send_replace(has_network);
        if self.facts.tentative && *self.confirmed.borrow() {
            self.end_trial();
        }
        self.show(addresses);
        if self.perm.is_ok() && self.kept_clock.elapsed() > clock::KEEP_INTERVAL {
            self.kept_clock = Instant::now();
            if let Err(error) = clock::keep(Path::new(history::DIR)) {
                say(&format!("the clock's time is not kept: {error}"));
            }
        }
        let observed = self.observed.borrow().clone();
        if self.facts.tentative {
            let expected = Expectation::read(Path::new(history::DIR), self.facts.slot, &self.facts.version);
            let perm = self.perm.as_ref().err().map(String::as_str);
            let signs = Signs { elapsed: self.started.elapsed(), agent: &observed, has_network, perm };
            if let Some(detail) = tentative::verdict(&expected, &signs) {
                return Some(Stop { how: How::Reboot, cause: Cause::Rollback, detail });
            }
        }
        let silence = observed.heard.elapsed();
        if self.agent.is_some() && silence > SILENCE_LIMIT {
            let detail =
                format!("the agent has not answered for {} s; {}", silence.as_secs(), observed.last_end);
            return Some(Stop { how: How::Reboot, cause: Cause::Watchdog, detail });
        }
        self.feed();
        None
    }

    fn end_trial(&mut self) {
        self.facts.tentative = false;
        if let Ok(history) = &mut self.perm
            && let Err(error) = history.confirm()
        {
            say(&format!("that this system is kept is not written down: {error}"));
        }
    }

    /// Only here, so that an init that hangs starves it, too.
    fn feed(&mut self) {
        if let Some(watchdog) = &mut self.watchdog
            && let Err(error) = watchdog.feed()
        {
            say(&format!("the watchdog takes nothing: {error}"));
            self.watchdog = None;
        }
    }

    fn show(&mut self, addresses: Vec<std::net::IpAddr>) {
        let mut trouble = self.trouble.clone();
        let observed = self.observed.borrow();
        if !observed.has_answered && observed.ends > 0 {
            trouble.push(format!("the agent does not start: {}", observed.last_end));
        }
        drop(observed);
        let mut banner = self.banner.borrow().clone();
        if banner.name.is_empty() {
            banner.name.clone_from(&self.plan.hostname);
        }
        let screen = Screen {
            version: self.facts.version.clone(),
            role: self.facts.role,
            slot: Some((self.facts.slot, self.facts.tentative)),
            addresses,
            banner,
            trouble,
        };
        if self.shown.as_ref() != Some(&screen) {
            screen.show();
            self.shown = Some(screen);
        }
    }

    /// The reason first: what comes then may hang.
    async fn stop(mut self, stop: anyhow::Result<Stop>) -> anyhow::Result<Infallible> {
        let Stop { how, cause, detail } = stop?;
        say(&format!("{}: {detail}", if how == How::Reboot { "reboot" } else { "power off" }));
        if let Ok(history) = &mut self.perm {
            if let Err(error) = history.end(End::now(cause, detail)) {
                say(&format!("why the machine stops is not kept: {error}"));
            }
            if let Err(error) = clock::keep(Path::new(history::DIR)) {
                say(&format!("the clock's time is not kept: {error}"));
            }
        }
        self.end_agent.send_replace(true);
        if let Some(agent) = self.agent.take() {
            let _ = agent.await;
        }
        self.background.shutdown().await;
        self.feed();
        let is_capsule = self.perm.is_ok() && self.facts.role == Role::Appliance;
        let program = is_capsule.then_some(Path::new(PROGRAM));
        Ok(stop::stop(how, program, is_capsule.then_some(&*self.facts.pv)).await?)
    }
}

/// What the operator named it, else a name of the machine's own: `capsule-` and the end of its first
/// card's hardware address.
fn hostname() -> String {
    let named = fs::read_to_string(Path::new(perm::STATE_DIR).join(HOSTNAME_FILE)).unwrap_or_default();
    if !named.trim().is_empty() {
        return named.trim().to_owned();
    }
    derived_name(uplink::primary_mac().as_deref())
}

fn derived_name(mac: Option<&str>) -> String {
    let digits: String = mac.unwrap_or_default().chars().filter(char::is_ascii_hexdigit).collect();
    match digits.get(6..) {
        Some(end) if !end.is_empty() => format!("capsule-{end}"),
        _ => "capsule".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_a_name_is_called_after_its_card() {
        assert_eq!(derived_name(Some("52:54:00:12:34:56")), "capsule-123456");
        assert_eq!(derived_name(None), "capsule");
    }

    #[test]
    fn the_version_is_the_systems_own() {
        assert_eq!(version("ID=capsule\nVERSION_ID=\"0.1.0\"\n"), Some("0.1.0"));
        assert_eq!(version("ID=capsule\n"), None);
    }
}
