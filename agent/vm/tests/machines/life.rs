//! Machines begin, and end for a reason.

use std::time::Duration;

use capsule_vm::{Accelerator, Error, Exit, Kernel, Machine, Reset, Status, Vm};
use nix::sys::signal::Signal;

use crate::guest::{Guest, LIMIT, PROMPT, fetched, sh, with_shell};

/// Until whoever answers power buttons has opened one.
const LISTEN: &str = "mkdir -p /var/log /var/run; acpid;
    until ls -l /proc/$(pidof acpid)/fd | grep -q /dev/input; do usleep 100000; done";
/// Too short for any guest.
const SHORT: Duration = Duration::from_millis(500);

async fn end_of(modules: &[&str], script: &str) -> Exit {
    let guest = Guest::new(modules, script);
    let mut vm = guest.machine().watchdog().start().await.unwrap();
    let exit = vm.wait(LIMIT).await.unwrap();
    assert_eq!(vm.status().await.unwrap(), Status::Ended(exit.clone()));
    exit
}

#[tokio::test]
async fn a_guest_that_powers_off_is_told_from_one_that_reboots() {
    assert_eq!(end_of(&[], "poweroff -f").await, Exit::PoweredOff);
    assert_eq!(end_of(&[], "reboot -f").await, Exit::Reset);
}

#[tokio::test]
async fn a_panic_is_told_from_a_reset() {
    assert_eq!(end_of(&["pvpanic-mmio"], "echo c >/proc/sysrq-trigger").await, Exit::Panicked);
}

#[tokio::test]
async fn a_watchdog_that_is_not_fed_ends_its_machine() {
    let exit = end_of(&["i6300esb"], "watchdog -T 2 -t 100 /dev/watchdog").await;
    assert_eq!(exit, Exit::Watchdog);
}

async fn booted(vm: &mut Vm) {
    vm.console.wait_for("BusyBox", LIMIT).await.unwrap();
    vm.console.wait_for(PROMPT, LIMIT).await.unwrap();
}

#[tokio::test]
async fn a_machine_that_reboots_lives_through_every_kind_of_reset_and_says_which() {
    let guest = Guest::new(&["i6300esb", "pvpanic-mmio"], "");
    let log = guest.path("console.log");
    let machine = guest.machine().reboots().watchdog().console_log(&log);
    let mut vm = with_shell(&machine).await;
    vm.reset().await.unwrap();
    assert_eq!(vm.wait_for_reset(LIMIT).await.unwrap(), Reset::Button);
    let stories = [
        (Reset::Guest, "reboot -f"),
        (Reset::Watchdog, "watchdog -T 2 -t 100 /dev/watchdog"),
        (Reset::Panicked, "echo c >/proc/sysrq-trigger"),
    ];
    for (reset, command) in stories {
        booted(&mut vm).await;
        vm.console.send_line(command).await.unwrap();
        assert_eq!(vm.wait_for_reset(LIMIT).await.unwrap(), reset);
    }
    booted(&mut vm).await;
    assert_eq!(vm.status().await.unwrap(), Status::Running);
    assert!(matches!(vm.wait_for_reset(SHORT).await, Err(Error::TimedOut { .. })));
    assert_eq!(vm.resets(), [Reset::Button, Reset::Guest, Reset::Watchdog, Reset::Panicked]);
    vm.console.send_line("poweroff -f").await.unwrap();
    assert_eq!(vm.wait(LIMIT).await.unwrap(), Exit::PoweredOff);
    assert!(matches!(vm.wait_for_reset(LIMIT).await, Err(Error::Ended { .. })));
    let logged = std::fs::read_to_string(log).unwrap();
    assert!(logged.contains("sysrq triggered crash") && logged.ends_with("Power down\r\n"), "{logged}");
}

#[tokio::test]
async fn an_interrupt_that_cannot_be_masked_panics_a_kernel_that_was_told_to() {
    let guest = Guest::new(&["pvpanic-mmio"], "");
    let image = Kernel::new(fetched("kernel/vmlinuz")).initramfs(guest.path("initramfs"));
    let machine = guest.machine().kernel(image.arguments(|line| line.flag("unknown_nmi_panic")));
    let mut vm = with_shell(&machine).await;
    vm.interrupt_cpus().await.unwrap();
    assert_eq!(vm.wait(LIMIT).await.unwrap(), Exit::Panicked);
}

#[tokio::test]
async fn a_power_button_is_the_guests_to_answer() {
    let guest = Guest::new(&["button", "evdev"], "");
    let mut vm = with_shell(&guest.machine()).await;
    let error = vm.power_down(SHORT).await.unwrap_err();
    assert!(error.to_string().starts_with("the guest's answer to its power button took longer"), "{error}");
    assert_eq!(vm.status().await.unwrap(), Status::Running);

    vm.pause().await.unwrap();
    assert_eq!(vm.status().await.unwrap(), Status::Paused);
    vm.resume().await.unwrap();
    sh(&mut vm, LISTEN).await;
    assert_eq!(vm.power_down(LIMIT).await.unwrap(), Exit::PoweredOff);
}

#[tokio::test]
async fn a_power_cut_asks_nobody() {
    let guest = Guest::new(&[], "");
    let mut vm = guest.start().await;
    assert!(matches!(vm.wait(SHORT).await, Err(Error::TimedOut { .. })));
    assert_eq!(vm.cut_power().await.unwrap(), Exit::Killed(Signal::SIGKILL));
    assert_eq!(vm.cut_power().await.unwrap(), Exit::Killed(Signal::SIGKILL));
}

#[tokio::test]
async fn what_qemu_refuses_is_said_in_its_words() {
    let machine = Machine::new(fetched("qemu/run")).kernel(Kernel::new("/nowhere/vmlinuz"));
    let error = machine.start().await.unwrap_err().to_string();
    assert!(error.contains("refused the machine (exit status: 1)"), "{error}");
    assert!(error.contains("/nowhere/vmlinuz"), "{error}");

    let error = Machine::new("/nowhere/qemu").kernel(Kernel::new("k")).start().await.unwrap_err();
    assert!(error.to_string().contains("cannot run /nowhere/qemu; it must be installed"), "{error}");
}

#[tokio::test]
async fn what_the_probe_picks_runs_a_kernel() {
    let accelerator = Accelerator::probe(&fetched("qemu/run")).await.unwrap();
    let guest = Guest::new(&[], "");
    let mut vm = with_shell(&guest.machine().accelerator(accelerator).cpus(2).memory_mib(300)).await;
    assert_eq!(sh(&mut vm, "nproc").await, "2\n");
    let total = sh(&mut vm, "awk '/MemTotal/ { print $2 }' /proc/meminfo").await;
    let kib: u32 = total.trim().parse().unwrap();
    assert!((200 * 1024..300 * 1024).contains(&kib), "{kib} KiB");
    assert_eq!(accelerator, Accelerator::probe(&fetched("qemu/run")).await.unwrap());
}
