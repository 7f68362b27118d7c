//! What the kernel begins with: our static program as `/init`, and the modules that it may need to
//! find the disk and open the root.
//!
//! `/modules` has them in one folder, `order` names those that are always loaded, in order, and
//! `modules.dep` and `modules.alias` are the kernel's own indexes, of these modules alone.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path};

use capsule_vm::initramfs::Archive;

use crate::{
    Error, Result,
    contents::Early,
    elf,
    modules::{self, Installed},
};

/// Small enough, and unpacked fastest of what the kernel knows.
const ZSTD_LEVEL: i32 = 19;

/// Makes the archive, compressed.
pub fn build(init: &Path, installed: &Installed, wanted: &Early, into: &Path) -> Result<()> {
    let program = elf::stripped(init)?;
    let mut archive = Archive::new().program("init", &program);
    for folder in ["dev", "proc", "sys", "run", "root", "modules"] {
        archive = archive.directory(folder);
    }
    let always = closure(installed, &wanted.always)?;
    let mut all = always.clone();
    for path in closure(installed, &wanted.drivers)? {
        if !all.contains(&path) {
            all.push(path);
        }
    }
    for path in &all {
        let file = installed.folder.join(path);
        let content = fs::read(&file).map_err(Error::file("read", &file))?;
        archive = archive.file(&format!("modules/{}", file_of(path)), &content);
    }
    let order: String = always.iter().map(|path| format!("{}\n", file_of(path))).collect();
    let list = installed.folder.join("modules.alias");
    let aliases = fs::read_to_string(&list).map_err(Error::file("read", &list))?;
    let archive = archive
        .file("modules/order", order.as_bytes())
        .file("modules/modules.dep", needs(installed, &all).as_bytes())
        .file("modules/modules.alias", aliases_of(&aliases, &all).as_bytes());
    let packed =
        zstd::encode_all(archive.build().as_slice(), ZSTD_LEVEL).map_err(Error::file("write", into))?;
    fs::write(into, packed).map_err(Error::file("write", into))
}

/// Paths of modules and of what they need, which comes first. What the kernel has built in needs none.
fn closure<'i>(installed: &'i Installed, names: &[String]) -> Result<Vec<&'i str>> {
    let built_in = installed.folder.join("modules.builtin");
    let built_in = fs::read_to_string(&built_in).map_err(Error::file("read", &built_in))?;
    let mut order: Vec<&str> = Vec::new();
    for name in names {
        let Some(path) = installed.dependencies.path_of(name) else {
            if built_in.lines().any(|path| modules::plain(modules::name_of(path)) == modules::plain(name)) {
                continue;
            }
            return Err(Error::NoModule(name.clone()));
        };
        for path in installed.dependencies.before(path).chain([path]) {
            if !order.contains(&path) {
                order.push(path);
            }
        }
    }
    Ok(order)
}

/// A `modules.dep` of a folder that has only these.
fn needs(installed: &Installed, paths: &[&str]) -> String {
    let mut text = String::new();
    for path in paths {
        let mut before: Vec<&str> = installed.dependencies.before(path).map(file_of).collect();
        before.reverse();
        let _ = writeln!(text, "{}: {}", file_of(path), before.join(" "));
    }
    text
}

/// The lines of a `modules.alias` that lead to one of these.
fn aliases_of(aliases: &str, paths: &[&str]) -> String {
    let names: BTreeSet<String> = paths.iter().map(|path| modules::plain(modules::name_of(path))).collect();
    let leads =
        |line: &&str| line.rsplit(' ').next().is_some_and(|name| names.contains(&modules::plain(name)));
    aliases.lines().filter(leads).map(|line| format!("{line}\n")).collect()
}

fn file_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::modules::Dependencies;

    /// A folder with a few modules, as depmod leaves it.
    fn installed(dir: &Path) -> Installed {
        let dep = "kernel/drivers/disk.ko: kernel/drivers/bus.ko\nkernel/drivers/bus.ko:\nkernel/fs/root.ko:\n\
            kernel/drivers/other.ko:\n";
        for name in ["drivers/disk", "drivers/bus", "drivers/other", "fs/root"] {
            let path = dir.join(format!("kernel/{name}.ko"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        fs::write(dir.join("modules.builtin"), "kernel/crypto/sum.ko\n").unwrap();
        let aliases = "alias pci:v1 disk\nalias pci:v2 other\nalias virtio:d1 bus\n";
        fs::write(dir.join("modules.alias"), aliases).unwrap();
        Installed { release: "6".to_owned(), folder: dir.to_owned(), dependencies: Dependencies::parse(dep) }
    }

    #[test]
    fn an_archive_has_the_program_and_the_modules_that_are_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let installed = installed(dir.path());
        let program = std::env::current_exe().unwrap();
        let wanted =
            Early { always: vec!["root".to_owned(), "sum".to_owned()], drivers: vec!["disk".to_owned()] };
        let archive = dir.path().join("initramfs");
        build(&program, &installed, &wanted, &archive).unwrap();

        let plain = zstd::decode_all(fs::read(&archive).unwrap().as_slice()).unwrap();
        fs::write(&archive, plain).unwrap();
        let out = dir.path().join("out");
        fs::create_dir(&out).unwrap();
        let mut cpio = Command::new("/bin/busybox");
        assert!(cpio.args(["cpio", "-i", "-F"]).arg(&archive).current_dir(&out).status().unwrap().success());
        let text = |name: &str| fs::read_to_string(out.join(name)).unwrap();
        assert!(elf::needed(&out.join("init")).unwrap().contains(&"libc.so.6".to_owned()));
        assert_eq!(text("modules/order"), "root.ko\n");
        assert_eq!(text("modules/modules.dep"), "root.ko: \nbus.ko: \ndisk.ko: bus.ko\n");
        assert_eq!(text("modules/modules.alias"), "alias pci:v1 disk\nalias virtio:d1 bus\n");
        assert_eq!(text("modules/disk.ko"), "drivers/disk");
        assert!(!out.join("modules/other.ko").exists());
    }

    #[test]
    fn a_module_that_the_kernel_lacks_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let installed = installed(dir.path());
        let error = closure(&installed, &["quantum".to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), "the kernel has no module quantum; correct modules.toml");
    }
}
