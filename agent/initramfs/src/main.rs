//! `/init` of the appliance's initramfs, and what its root has under other names; see the library.

use std::{convert::Infallible, env, path::Path, thread, time::Duration};

use capsule_initramfs::{
    Error, Result, calls, chain, disk::Disk, efi, handover, handover::Handover, mapper, modules,
    modules::Modules, mounts, say, switch, words::Words,
};
use nix::sys::reboot::{RebootMode, reboot};

/// For whoever looks at the console.
const READING_TIME: Duration = Duration::from_secs(5);

fn main() -> ! {
    let mut words = env::args_os();
    let name = words.next().unwrap_or_default();
    calls::serve(Path::new(&name).file_name().unwrap_or_default(), &words.collect::<Vec<_>>());
    let Err(error) = boot();
    say(&format!("{}; rebooting", chain(&error)));
    match efi::prefer_other() {
        Ok(Some(entry)) => say(&format!("the next boot is {entry}")),
        Ok(None) => {}
        Err(error) => say(&format!("the other slot cannot be chosen: {error}")),
    }
    thread::sleep(READING_TIME);
    let Err(error) = reboot(RebootMode::RB_AUTOBOOT);
    say(&format!("cannot reboot: {error}"));
    // The kernel panics where its first process ends, and reboots then.
    std::process::exit(1)
}

fn boot() -> Result<Infallible> {
    mounts::mount_kernel()?;
    let words = Words::read()?;
    let root = words.root()?;
    let mut modules = Modules::open(Path::new(modules::DIR))?;
    modules.load_always()?;
    mounts::mount_variables()?;
    let esp = efi::loader_partition().or_else(|| words.value("capsule.disk").map(str::to_ascii_lowercase));
    let disk = Disk::wait(&esp.ok_or(Error::NoDisk)?, &mut modules)?;
    let entry = efi::counted_entry().or_else(efi::selected_entry);
    let (slot, table) = disk.slot(&root, entry.as_deref().and_then(efi::slot_of))?;
    let device = mapper::open_verity(disk.slot_partition(slot), &table)?;
    let [esp, a, b, pv] = disk.partitions;
    Handover { disk: disk.node, esp, a, b, pv, slot, entry }.write(Path::new(handover::FILE))?;
    switch::switch_to(&device)
}
