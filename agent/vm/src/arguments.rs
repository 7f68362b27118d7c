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
    Accelerator, Access, Disk, Error, Kernel, Machine, Network, Result, Share, machine::Firmware,
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
    list.words(&["-nodefaults", "-no-user-config", "-no-reboot", "-S", "-display", "none"]);
    list.option("-M", "q35");
    list.option("-cpu", "max");
    list.option(
        "-accel",
        match machine.accelerator {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg,thread=multi",
        },
    );
    list.option("-smp", machine.cpus.to_string());
    list.option("-m", machine.memory_mib.to_string());
    list.option("-chardev", format!("socket,id=qmp,fd={}", wiring.qmp));
    list.option("-mon", "chardev=qmp,mode=control");
    list.option("-chardev", format!("socket,id=console,fd={}", wiring.console));
    list.option("-serial", "chardev:console");
    // By which a guest's kernel tells of its panic.
    list.option("-device", "pvpanic");
    machine.firmware.iter().for_each(|firmware| list.firmware(firmware));
    machine.kernel.iter().for_each(|kernel| list.kernel(kernel));
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
        let rest =
            format!(",if=none,id=disk{at},format={},readonly={}", disk.format.name(), readonly(disk.access));
        self.option("-drive", keyed("file=", &disk.path, &rest));
        let serial =
            disk.serial.as_ref().map_or_else(String::new, |name| format!(",serial={}", escape(name)));
        self.option("-device", format!("virtio-blk-pci,drive=disk{at}{serial}"));
    }

    fn network(&mut self, at: usize, network: &Network) {
        let link = match &network.link {
            Link::User(forwards) => {
                let forwards = forwards.iter().map(|forward| format!(",{forward}"));
                format!("user,id=net{at}{}", forwards.collect::<String>())
            }
            Link::Tap(name) => format!("tap,id=net{at},ifname={},script=no,downscript=no", escape(name)),
        };
        self.option("-netdev", link);
        let mac = network.mac.map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":"));
        let mac = mac.map_or_else(String::new, |mac| format!(",mac={mac}"));
        self.option("-device", format!("virtio-net-pci,netdev=net{at}{mac}"));
    }

    fn share(&mut self, share: &Share) {
        let tag = escape(&share.tag);
        let rest = format!(",security_model=none,multidevs=remap,readonly={}", readonly(share.access));
        self.option("-fsdev", keyed(&format!("local,id={tag},path="), &share.dir, &rest));
        self.option("-device", format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}"));
    }
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
            "-nodefaults -no-user-config -no-reboot -S -display none -M q35 -cpu max -accel tcg,thread=multi \
             -smp 1 -m 256 -chardev socket,id=qmp,fd=7 -mon chardev=qmp,mode=control -chardev \
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
             -device virtio-blk-pci,drive=disk0,serial=data \
             -drive file=c.qcow2,if=none,id=disk1,format=qcow2,readonly=on \
             -device virtio-blk-pci,drive=disk1"
        );
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
