//! A release's agent that does harm, where its capsule's name asks for it: what updates are tried with that
//! must not be kept. Elsewhere it is the real agent, which is in that release as well.

use std::{
    env, fs,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, ExitCode},
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::getppid,
};

/// Where `make image-next` puts it.
const REAL: &str = "/usr/lib/capsule/agent";
const CARDS: &str = "/sys/bus/virtio/drivers/virtio_net";

fn main() -> ExitCode {
    let words: Vec<_> = env::args_os().collect();
    let is_agent = words.get(1).is_some_and(|word| word == "agent");
    let name = words.iter().skip_while(|word| *word != "--hostname").nth(1).and_then(|name| name.to_str());
    if is_agent && let Err(error) = harm(name.unwrap_or_default()) {
        eprintln!("saboteur: {error}");
        return ExitCode::FAILURE;
    }
    // It answers to more than one name.
    let own = words.first().cloned().unwrap_or_default();
    let error = Command::new(REAL).arg0(own).args(words.iter().skip(1)).exec();
    eprintln!("saboteur: cannot run {REAL}: {error}");
    ExitCode::FAILURE
}

fn harm(name: &str) -> Result<(), String> {
    match name {
        "crashes" => Err("it does not start".into()),
        "panics" => fs::write("/proc/sysrq-trigger", "c").map_err(|error| error.to_string()),
        // Nobody feeds the watchdog any more.
        "hangs" => {
            kill(getppid(), Signal::SIGSTOP).map_err(|error| error.to_string())?;
            never()
        }
        "is-silent" => never(),
        "is-deaf" => unplug().map_err(|error| error.to_string()),
        _ => Ok(()),
    }
}

fn never() -> ! {
    loop {
        thread::park();
    }
}

/// Takes the driver from every network card.
fn unplug() -> std::io::Result<()> {
    for device in fs::read_dir(CARDS)?.flatten() {
        let name = device.file_name();
        if name.to_string_lossy().starts_with("virtio") {
            fs::write(Path::new(CARDS).join("unbind"), name.as_encoded_bytes())?;
        }
    }
    Ok(())
}
