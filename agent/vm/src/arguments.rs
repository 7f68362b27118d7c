//! A machine as QEMU's command line.

use std::{
    ffi::OsString,
    os::{
        fd::RawFd,
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::Path,
};

use crate::{
    Accelerator, Access, Disk, Error, Kernel, Machine, Network, Result, Share,
    disk::{Flush, Slot},
    machine::{Firmware, OnReset},
    network::Link,
};

/// What virtio-blk has room for.
const SERIAL_MAX_BYTES: usize = 20;

/// Sockets that QEMU inherits, by their numbers there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wiring {
    pub qmp: RawFd,
    pub console: RawFd,
    pub tpm: Option<RawFd>,
}

/// QEMU's arguments. It starts paused, so that no event comes before someone listens.
pub(crate) fn build(machine: &Machine, wiring: Wiring) -> Result<Vec<OsString>> {
    check(machine)?;
    let mut list = List::default();
    list.words(&["-nodefaults", "-no-user-config", "-S", "-display", "none"]);
    match machine.on_reset {
        OnReset::End => list.words(&["-no-reboot"]),
        // A kernel that panicked resets by itself.
        OnReset::Reboot => list.option("-action", "panic=none"),
    }
    list.option("-M", "q35");
    list.option("-cpu", "max");
    list.option(
        "-accel",
        match machine.accelerator {
            Accelerator::Kvm => "kvm",
            // With a thread for each, one runs what another one has patched since: kernels that patch themselves
            // panic of it, once in tens of boots. After a reset, what was translated before is found wrong page
            // by page as memory is written: a small cache, which is emptied as a whole, halves such a boot.
            Accelerator::Tcg => "tcg,thread=single,tb-size=128",
        },
    );
    list.option("-smp", machine.cpus.to_string());
    list.option("-m", machine.memory_mib.to_string());
    machine.clock.iter().for_each(|starts_at| list.option("-rtc", format!("base={}", escape(starts_at))));
    list.option("-chardev", format!("socket,id=qmp,fd={}", wiring.qmp));
    list.option("-mon", "chardev=qmp,mode=control");
    list.console(wiring.console, machine.console_log.as_deref());
    list.option("-serial", "chardev:console");
    // By which a guest's kernel tells of its panic.
    list.option("-device", "pvpanic");
    machine.firmware.iter().for_each(|firmware| list.firmware(firmware));
    machine.kernel.iter().for_each(|kernel| list.kernel(kernel));
    machine.smbios_strings.iter().for_each(|text| {
        list.option("-smbios", format!("type=11,value={}", escape(text)));
    });
    if machine.disks.iter().any(|disk| disk.slot == Slot::Usb) {
        list.option("-device", "qemu-xhci,id=usb");
    }
    machine.disks.iter().enumerate().for_each(|(at, disk)| list.disk(at, disk));
    machine.networks.iter().enumerate().for_each(|(at, network)| list.network(at, network));
    machine.shares.iter().for_each(|share| list.share(share));
    if machine.watchdog {
        list.option("-device", "i6300esb");
        list.option("-action", "watchdog=reset");
    }
    if let Some(fd) = wiring.tpm {
        list.option("-chardev", format!("socket,id=tpm,fd={fd}"));
        list.option("-tpmdev", "emulator,id=tpm,chardev=tpm");
        list.option("-device", "tpm-crb,tpmdev=tpm");
    }
    Ok(list.words)
}

fn check(machine: &Machine) -> Result<()> {
    let invalid = |why: String| Err(Error::Invalid(why));
    if machine.kernel.is_none() && machine.disks.is_empty() {
        return invalid("it has neither a kernel nor a disk to boot".to_owned());
    }
    for serial in machine.disks.iter().filter_map(|disk| disk.serial.as_ref()) {
        if serial.len() > SERIAL_MAX_BYTES {
            return invalid(format!("the serial {serial:?} is longer than {SERIAL_MAX_BYTES} bytes"));
        }
    }
    Ok(())
}

#[derive(Default)]
struct List {
    words: Vec<OsString>,
}

impl List {
    fn words(&mut self, words: &[&str]) {
        self.words.extend(words.iter().map(OsString::from));
    }

    fn option(&mut self, name: &str, value: impl Into<OsString>) {
        self.words.extend([name.into(), value.into()]);
    }

    fn console(&mut self, fd: RawFd, log: Option<&Path>) {
        let socket = format!("socket,id=console,fd={fd}");
        self.option(
            "-chardev",
            match log {
                Some(log) => keyed(&format!("{socket},logfile="), log, ",logappend=on"),
                None => socket.into(),
            },
        );
    }

    fn firmware(&mut self, firmware: &Firmware) {
        let flash = |unit, path: &Path, access| {
            let rest = format!(",if=pflash,unit={unit},format=raw,readonly={}", readonly(access));
            keyed("file=", path, &rest)
        };
        self.option("-drive", flash(0, &firmware.code, Access::Read));
        self.option("-drive", flash(1, &firmware.variables, Access::Write));
    }

    fn kernel(&mut self, kernel: &Kernel) {
        self.option("-kernel", &kernel.image);
        kernel.initramfs.iter().for_each(|path| self.option("-initrd", path));
        self.option("-append", kernel.command_line.to_string());
    }

    fn disk(&mut self, at: usize, disk: &Disk) {
        if disk.slot == Slot::Port {
            self.option("-device", format!("pcie-root-port,id=port{at},chassis={}", at + 1));
        }
        self.option("-drive", drive(at, disk));
        self.option("-device", disk_device(at, disk));
    }

    fn network(&mut self, at: usize, network: &Network) {
        let id = network_name(at);
        let link = match &network.link {
            Link::User(forwards) => {
                let forwards = forwards.iter().map(|forward| format!(",{forward}"));
                format!("user,id={id}{}", forwards.collect::<String>())
            }
            Link::Tap(name) => format!("tap,id={id},ifname={},script=no,downscript=no", escape(name)),
        };
        self.option("-netdev", link);
        let mac = network.mac.map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":"));
        let mac = mac.map_or_else(String::new, |mac| format!(",mac={mac}"));
        self.option("-device", format!("virtio-net-pci,netdev={id}{mac}"));
    }

    fn share(&mut self, share: &Share) {
        let tag = escape(&share.tag);
        let rest = format!(",security_model=none,multidevs=remap,readonly={}", readonly(share.access));
        self.option("-fsdev", keyed(&format!("local,id={tag},path="), &share.dir, &rest));
        self.option("-device", format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}"));
    }
}

/// What holds a disk's bytes, for `-drive` and for `drive_add`.
pub(crate) fn drive(at: usize, disk: &Disk) -> OsString {
    let flush = match disk.flush {
        Flush::Disk => "",
        Flush::Memory => ",cache=unsafe",
    };
    let (format, readonly) = (disk.format.name(), readonly(disk.access));
    let rest = format!(",if=none,id={},format={format},readonly={readonly}{flush}", drive_name(at));
    keyed("file=", &disk.path, &rest)
}

/// What the guest sees of it, for `-device` and for `device_add`.
pub(crate) fn disk_device(at: usize, disk: &Disk) -> String {
    let device = match disk.slot {
        Slot::Fixed => "virtio-blk-pci".to_owned(),
        Slot::Port => format!("virtio-blk-pci,bus=port{at}"),
        Slot::Usb => "usb-storage,bus=usb.0,removable=on".to_owned(),
    };
    let serial = disk.serial.as_ref().map_or_else(String::new, |name| format!(",serial={}", escape(name)));
    let index = disk.boot_index.map_or_else(String::new, |index| format!(",bootindex={index}"));
    format!("{device},id={},drive={}{serial}{index}", disk_name(at), drive_name(at))
}

/// Of the device at this place among a machine's disks.
pub(crate) fn disk_name(at: usize) -> String {
    format!("device{at}")
}

/// Of what holds its bytes.
pub(crate) fn drive_name(at: usize) -> String {
    format!("disk{at}")
}

/// Of the card at this place among a machine's networks.
pub(crate) fn network_name(at: usize) -> String {
    format!("net{at}")
}

/// A path among `key=value` pairs, where commas end values.
pub(crate) fn keyed(before: &str, path: &Path, after: &str) -> OsString {
    let path = path.as_os_str().as_bytes().split(|byte| *byte == b',');
    let path = path.collect::<Vec<_>>().join(&b",,"[..]);
    OsString::from_vec([before.as_bytes(), &path, after.as_bytes()].concat())
}

fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

fn readonly(access: Access) -> &'static str {
    match access {
        Access::Read => "on",
        Access::Write => "off",
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4};

    use super::*;
    use crate::Forward;

    const WIRING: Wiring = Wiring { qmp: 7, console: 9, tpm: None };

    fn line(machine: &Machine) -> String {
        let words = build(machine, WIRING).unwrap();
        words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    fn bare() -> Machine {
        Machine::new("qemu").kernel(Kernel::new("k"))
    }

    /// What `machine` has more than the bare one, which ends with its kernel.
    fn beyond(machine: &Machine) -> String {
        line(machine).strip_prefix(&line(&bare())).expect("the same beginning").trim_start().to_owned()
    }

    #[test]
    fn a_bare_machine_starts_paused_with_its_two_sockets() {
        assert_eq!(
            line(&bare()),
            "-nodefaults -no-user-config -S -display none -no-reboot -M q35 -cpu max -accel \
             tcg,thread=single,tb-size=128 -smp 1 -m 256 -chardev socket,id=qmp,fd=7 -mon chardev=qmp,mode=control -chardev \
             socket,id=console,fd=9 -serial chardev:console -device pvpanic -kernel k -append \
             console=ttyS0 panic=-1"
        );
    }

    #[test]
    fn size_and_accelerator_are_what_was_asked_for() {
        let machine = bare().cpus(2).memory_mib(512).accelerator(Accelerator::Kvm);
        assert!(line(&machine).contains(" -accel kvm -smp 2 -m 512 "));
    }

    #[test]
    fn disks_keep_their_order_format_access_and_serial() {
        let machine =
            bare().disk(Disk::raw("a,b.img").serial("data")).disk(Disk::qcow2("c.qcow2").read_only());
        assert_eq!(
            beyond(&machine),
            "-drive file=a,,b.img,if=none,id=disk0,format=raw,readonly=off \
             -device virtio-blk-pci,id=device0,drive=disk0,serial=data \
             -drive file=c.qcow2,if=none,id=disk1,format=qcow2,readonly=on \
             -device virtio-blk-pci,id=device1,drive=disk1"
        );
    }

    #[test]
    fn a_disk_that_can_be_taken_out_has_a_port_of_its_own_or_usb() {
        let machine = bare()
            .disk(Disk::raw("a").hot_plug().boot_index(1))
            .disk(Disk::raw("b").usb().flush_to_memory().serial("stick").boot_index(0));
        assert_eq!(
            beyond(&machine),
            "-device qemu-xhci,id=usb -device pcie-root-port,id=port0,chassis=1 \
             -drive file=a,if=none,id=disk0,format=raw,readonly=off \
             -device virtio-blk-pci,bus=port0,id=device0,drive=disk0,bootindex=1 \
             -drive file=b,if=none,id=disk1,format=raw,readonly=off,cache=unsafe \
             -device usb-storage,bus=usb.0,removable=on,id=device1,drive=disk1,serial=stick,bootindex=0"
        );
    }

    #[test]
    fn a_machine_that_reboots_does_so_whatever_reset_it() {
        let line = line(&bare().reboots().watchdog());
        assert!(!line.contains("-no-reboot"), "{line}");
        assert!(line.contains("-action panic=none") && line.contains("-action watchdog=reset"), "{line}");
    }

    #[test]
    fn a_clock_may_be_years_behind() {
        assert!(line(&bare().clock("2020-01-01")).contains(" -rtc base=2020-01-01 "));
        assert!(!line(&bare()).contains("-rtc"));
    }

    #[test]
    fn strings_and_a_log_keep_their_commas() {
        let machine = bare().smbios_string("a=b,c").console_log("x,y.log");
        let line = line(&machine);
        assert!(line.contains(" -smbios type=11,value=a=b,,c"), "{line}");
        assert!(line.contains("socket,id=console,fd=9,logfile=x,,y.log,logappend=on "), "{line}");
    }

    #[test]
    fn networks_are_forwarded_or_taps() {
        let forward = Forward { host: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8022), guest: 22 };
        let tap = Network::tap("tap7").mac([2, 0, 0, 0, 0, 0xab]);
        assert_eq!(
            beyond(&bare().network(Network::user([forward])).network(tap)),
            "-netdev user,id=net0,hostfwd=tcp:127.0.0.1:8022-:22 -device virtio-net-pci,netdev=net0 \
             -netdev tap,id=net1,ifname=tap7,script=no,downscript=no \
             -device virtio-net-pci,netdev=net1,mac=02:00:00:00:00:ab"
        );
    }

    #[test]
    fn a_share_is_a_file_system_with_a_tag() {
        let share = Share { tag: "host".to_owned(), dir: "/".into(), access: Access::Read };
        assert_eq!(
            beyond(&bare().share(share)),
            "-fsdev local,id=host,path=/,security_model=none,multidevs=remap,readonly=on \
             -device virtio-9p-pci,fsdev=host,mount_tag=host"
        );
    }

    #[test]
    fn firmware_is_code_that_stays_and_variables_that_change() {
        let machine = bare().firmware(Firmware::new("code", "template", "vars"));
        assert!(line(&machine).contains(
            "-drive file=code,if=pflash,unit=0,format=raw,readonly=on \
             -drive file=vars,if=pflash,unit=1,format=raw,readonly=off -kernel"
        ));
    }

    #[test]
    fn what_qemu_would_misunderstand_is_refused() {
        let nothing = build(&Machine::new("qemu"), WIRING).unwrap_err();
        assert!(nothing.to_string().contains("neither a kernel nor a disk"), "{nothing}");
        let long = bare().disk(Disk::raw("a").serial("123456789012345678901"));
        assert!(build(&long, WIRING).unwrap_err().to_string().contains("longer than 20 bytes"));
    }
}
