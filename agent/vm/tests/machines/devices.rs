//! Devices are what the guest finds.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
};

use capsule_vm::{Carrier, Disk, Exit, Firmware, Forward, Network};
use tokio::{
    io::AsyncReadExt as _,
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::guest::{Guest, LIMIT, fetched, sh, with_shell};

const OVMF: &str = "/usr/share/OVMF";
const DISK_BYTES: u64 = 1 << 20;

#[tokio::test]
async fn disks_are_known_by_serial_and_an_overlay_spares_its_base() {
    let guest = Guest::new(&["virtio_pci", "virtio_blk"], "");
    let (base, data) = (guest.path("base"), guest.path("data"));
    for path in [&base, &data] {
        fs::write(path, vec![b'x'; DISK_BYTES as usize]).unwrap();
    }
    let overlay = Disk::raw(&base).overlay(guest.path("overlay")).await.unwrap();
    let machine =
        guest.machine().disk(overlay.serial("system")).disk(Disk::raw(&data).serial("kept").read_only());
    let mut vm = with_shell(&machine).await;
    assert_eq!(sh(&mut vm, "cat /sys/block/vd?/serial /sys/block/vd?/ro").await, "systemkept0\n1\n");
    sh(&mut vm, "printf new | dd of=/dev/vda conv=notrunc,fsync 2>/dev/null").await;
    sh(&mut vm, "! printf new | dd of=/dev/vdb conv=notrunc,fsync 2>/dev/null").await;
    assert_eq!(vm.cut_power().await.unwrap(), Exit::Killed(nix::sys::signal::Signal::SIGKILL));

    assert!(fs::read(&base).unwrap().iter().all(|byte| *byte == b'x'));
    let mut again = with_shell(&machine).await;
    assert_eq!(sh(&mut again, "head -c 4 /dev/vda").await, "newx");
}

#[tokio::test]
async fn a_forwarded_port_leads_into_the_guest() {
    let guest = Guest::new(&["virtio_pci", "virtio_net"], "");
    // Free a moment ago.
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let host = SocketAddrV4::new(Ipv4Addr::LOCALHOST, probe.local_addr().unwrap().port());
    drop(probe);
    let mac = [2, 0, 0, 0, 0, 0xab];
    let network = Network::user([Forward { host, guest: 80 }]).mac(mac);
    let mut vm = with_shell(&guest.machine().network(network)).await;
    assert_eq!(sh(&mut vm, "cat /sys/class/net/eth0/address").await, "02:00:00:00:00:ab\n");
    sh(&mut vm, "ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up").await;
    sh(&mut vm, "while :; do echo hello | nc -l -p 80; done >/dev/null 2>&1 &").await;
    let answer = async {
        loop {
            let mut said = String::new();
            // QEMU listens before the guest does.
            if let Ok(mut stream) = TcpStream::connect(host).await
                && stream.read_to_string(&mut said).await.is_ok()
                && !said.is_empty()
            {
                return said;
            }
            sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    assert_eq!(timeout(LIMIT, answer).await.unwrap(), "hello\n");
}

/// Starts QEMU in a network namespace of its own, where it finds its tap interface.
const IN_NAMESPACE: &str = "#!/bin/sh
exec unshare --net sh -c 'ip tuntap add tap0 mode tap && ip addr add 10.9.9.1/24 dev tap0 &&
  ip link set tap0 up && exec \"$0\" \"$@\"' QEMU \"$@\"
";

#[tokio::test]
async fn a_tap_joins_guest_and_host() {
    let guest =
        Guest::new(&["virtio_pci", "virtio_net"], "ip addr add 10.9.9.2/24 dev eth0; ip link set eth0 up");
    let program = guest.path("qemu");
    fs::write(&program, IN_NAMESPACE.replace("QEMU", fetched("qemu/run").to_str().unwrap())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let vm = with_shell(&guest.machine().program(program).network(Network::tap("tap0"))).await;
    let net = format!("--net=/proc/{}/ns/net", vm.pid().unwrap());
    let ping =
        Command::new("nsenter").args([&net, "ping", "-c", "1", "-w", "60", "10.9.9.2"]).output().unwrap();
    assert!(ping.status.success(), "{}", String::from_utf8_lossy(&ping.stdout));
}

#[tokio::test]
async fn firmware_keeps_its_variables_from_boot_to_boot() {
    const VARIABLE: &str = "/sys/firmware/efi/efivars/Mark-12345678-1234-1234-1234-123456789abc";
    let guest = Guest::new(&["efivarfs"], "mount -t efivarfs efivarfs /sys/firmware/efi/efivars");
    let ovmf = |name: &str| Path::new(OVMF).join(name);
    let firmware = Firmware::new(ovmf("OVMF_CODE_4M.fd"), ovmf("OVMF_VARS_4M.fd"), guest.path("variables"));
    let machine = guest.machine().firmware(firmware);
    let mut vm = with_shell(&machine).await;
    // Attributes: kept, and for any time.
    sh(&mut vm, &format!(r"printf '\007\000\000\000kept' >{VARIABLE}")).await;
    vm.cut_power().await.unwrap();
    let mut vm = with_shell(&machine).await;
    assert_eq!(sh(&mut vm, &format!("tail -c 4 {VARIABLE}")).await, "kept");
}

#[tokio::test]
async fn a_tpm_is_a_tpm_2() {
    let guest = Guest::new(&[], "");
    fs::create_dir(guest.path("tpm")).unwrap();
    let mut vm = with_shell(&guest.machine().tpm(guest.path("tpm"))).await;
    assert_eq!(sh(&mut vm, "cat /sys/class/tpm/tpm0/tpm_version_major").await, "2\n");
    let state = fs::read_dir(guest.path("tpm")).unwrap();
    assert!(state.count() > 0, "swtpm keeps nothing");

    let error = guest.machine().tpm("/nowhere/tpm").start().await.unwrap_err();
    assert!(error.to_string().contains("/nowhere/tpm, which is no directory; create it"), "{error}");
}

#[tokio::test]
async fn a_disk_is_taken_out_and_put_back_and_its_file_keeps_what_was_written() {
    let guest = Guest::new(&["virtio_pci", "virtio_blk"], "");
    let base = guest.path("base");
    fs::write(&base, vec![b'x'; DISK_BYTES as usize]).unwrap();
    let disk = Disk::raw(&base).overlay(guest.path("a, b")).await.unwrap();
    let kept = disk.clone().hot_plug().serial("kept").flush_to_memory();
    let mut vm = with_shell(&guest.machine().disk(kept)).await;
    sh(&mut vm, "printf new | dd of=/dev/vda bs=512 seek=1 conv=notrunc,sync,fsync 2>/dev/null").await;
    for _ in 0..2 {
        vm.unplug(0, LIMIT).await.unwrap();
        sh(&mut vm, "[ ! -e /sys/block/vda ]").await;
        vm.plug(0).await.unwrap();
        sh(&mut vm, "until [ -b /dev/vda ]; do usleep 100000; done; grep kept /sys/block/vda/serial").await;
    }
    vm.resize_disk(0, 2 * DISK_BYTES).await.unwrap();
    sh(&mut vm, "until grep -q ' 2048 vda' /proc/partitions; do usleep 100000; done").await;
    let refused = vm.plug(0).await.unwrap_err();
    assert!(refused.to_string().contains("disk0"), "{refused}");
    vm.cut_power().await.unwrap();

    assert_eq!(disk.read(512, 512).await.unwrap()[..4], *b"new\0");
    disk.write(700, b"other").await.unwrap();
    assert_eq!(disk.read(512, 1024).await.unwrap()[188..194], *b"other\0");
    disk.grow(4 * DISK_BYTES).await.unwrap();
    assert_eq!(disk.read(4 * DISK_BYTES - 512, 512).await.unwrap(), [0; 512]);
    let beyond = disk.write(4 * DISK_BYTES, b"more").await.unwrap_err();
    assert!(beyond.to_string().starts_with("`qemu-io -f qcow2"), "{beyond}");
}

#[tokio::test]
async fn a_usb_stick_is_removable_and_can_be_pulled() {
    let modules = ["virtio_pci", "virtio_blk", "xhci-pci", "usb-storage", "sd_mod"];
    let guest = Guest::new(&modules, "");
    for name in ["stick", "inside"] {
        fs::write(guest.path(name), vec![0; DISK_BYTES as usize]).unwrap();
    }
    let machine = guest
        .machine()
        .disk(Disk::raw(guest.path("stick")).usb().serial("stick"))
        .disk(Disk::raw(guest.path("inside")));
    let mut vm = with_shell(&machine).await;
    sh(&mut vm, "until [ -b /dev/sda ]; do usleep 100000; done").await;
    assert_eq!(sh(&mut vm, "cat /sys/block/sda/removable /sys/block/vda/removable").await, "1\n0\n");
    vm.unplug(0, LIMIT).await.unwrap();
    sh(&mut vm, "while [ -b /dev/sda ]; do usleep 100000; done").await;
    vm.plug(0).await.unwrap();
    sh(&mut vm, "until [ -b /dev/sd? ]; do usleep 100000; done").await;
    let fixed = vm.unplug(1, LIMIT).await.unwrap_err();
    assert!(fixed.to_string().contains("QEMU refuses device_del"), "{fixed}");
}

#[tokio::test]
async fn a_cable_is_pulled_and_plugged_in() {
    let guest = Guest::new(&["virtio_pci", "virtio_net"], "ip link set eth0 up");
    let mut vm = with_shell(&guest.machine().network(Network::user([]))).await;
    for (link, carrier) in [(Carrier::Down, 0), (Carrier::Up, 1)] {
        vm.set_link(0, link).await.unwrap();
        let waits = format!("until grep -q {carrier} /sys/class/net/eth0/carrier; do usleep 100000; done");
        sh(&mut vm, &waits).await;
    }
}

#[tokio::test]
async fn strings_of_the_firmware_are_read_in_the_guest() {
    let guest = Guest::new(&[], "");
    let mut vm = with_shell(&guest.machine().smbios_string("a=b c,d").smbios_string("second")).await;
    let shown = sh(&mut vm, "tr '\\0' '\\n' </sys/firmware/dmi/tables/DMI").await;
    assert!(shown.contains("a=b c,d\nsecond\n"), "{shown}");
}
