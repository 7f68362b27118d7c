//! The whole appliance, built from real packages.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use capsule_bundle::{Bundle, ReleaseKey, Version};
use capsule_images::{
    elf, keys,
    materials::Materials,
    pipeline::{self, Inputs},
    root::{LIMIT_BYTES, Root},
    uki,
};

/// Stands for our programs: what they do does not matter here.
const PROGRAM: &str = env!("CARGO_BIN_EXE_capsule-images");
/// A package that the lists do not have.
const FURTHER: &str = "jq";

/// An image that was built.
struct Built {
    inputs: Inputs,
    root: Root,
}

impl Built {
    fn new(inputs: &Inputs, materials: &Materials, output: PathBuf) -> Self {
        let inputs = Inputs { output, ..inputs.clone() };
        let root = pipeline::assemble(&inputs, materials).unwrap();
        Self { inputs, root }
    }

    fn output(&self, name: &str) -> PathBuf {
        self.inputs.output.join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.output(name)).unwrap()
    }

    /// What became the root image, or an image on board.
    fn tree(&self, name: &str) -> PathBuf {
        self.inputs.work.join(name)
    }
}

/// With the packages that `make image` has fetched, if it has.
fn inputs(dir: &Path, trusted: &Path) -> Inputs {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    Inputs {
        agent: PROGRAM.into(),
        initramfs: PROGRAM.into(),
        version: Version::new(1, 2, 3),
        output: dir.to_owned(),
        cache: crate_dir.join("../target/image-cache"),
        work: dir.join("work"),
        contents: crate_dir.join("contents"),
        packages: vec![FURTHER.to_owned()],
        release_key: Some(dir.join("release.key")),
        trusted: vec![trusted.to_owned()],
        firmware: None,
        mirror: None,
    }
}

#[test]
fn root_an_image_is_the_same_each_time_and_has_what_it_needs_and_nothing_to_log_in_with() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let release = keys::release(None, &dir.path().join("release.key")).unwrap().key;
    let trusted = keys::release(None, &dir.path().join("other.key")).unwrap().key;
    let public = dir.path().join("other.pub");
    fs::write(&public, trusted.public_text()).unwrap();

    let inputs = inputs(dir.path(), &public);
    let materials = Materials::fetch(&inputs).unwrap();
    let first = Built::new(&inputs, &materials, dir.path().join("first"));
    let second = Built::new(&inputs, &materials, dir.path().join("second"));
    assert_eq!(first.root, second.root);
    assert_same(&first.output("kernel.efi"), &second.output("kernel.efi"));
    assert_eq!(first.text("sbom.spdx.json"), second.text("sbom.spdx.json"));

    assert!(first.root.bytes <= LIMIT_BYTES);
    verify(&first.output("root.img"), &first.root);
    let kernel = fs::read(first.output("kernel.efi")).unwrap();
    let command_line = String::from_utf8(uki::section(&kernel, ".cmdline").unwrap()).unwrap();
    assert!(command_line.starts_with(&first.root.argument()), "{command_line}");
    check_bundle(&first.output("capsule-1.2.3.update"), release.public());

    let packages = first.text("packages.txt");
    for name in ["containerd ", "criu ", "linux-image-6", "strace ", "libc6 ", "jq "] {
        assert!(packages.lines().any(|line| line.starts_with(name)), "{name}:\n{packages}");
    }
    assert!(!packages.contains("perl") && !packages.contains("systemd "), "{packages}");

    let root = first.tree("root");
    let accepted = root.join("usr/share/capsule/keys");
    assert_eq!(fs::read_to_string(accepted.join("trusted-1.pub")).unwrap(), trusted.public_text());
    check_programs(&root);
    let output =
        Command::new("chroot").arg(first.tree("debug")).args(["sh", "-c", "ip -V"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("iproute2"), "{output:?}");
    for name in ["root", "debug", "edge"] {
        every_program_finds_its_libraries(&first.tree(name));
    }
}

fn assert_same(one: &Path, other: &Path) {
    assert!(fs::read(one).unwrap() == fs::read(other).unwrap(), "{} differs", one.display());
}

fn verify(image: &Path, root: &Root) {
    let mut veritysetup = Command::new("veritysetup");
    veritysetup.arg("verify").arg(format!("--hash-offset={}", root.data_bytes));
    assert!(veritysetup.args([image, image]).arg(&root.hash).status().unwrap().success());
}

fn check_bundle(file: &Path, key: &ReleaseKey) {
    let mut bundle = Bundle::open(fs::File::open(file).unwrap()).unwrap();
    let manifest = bundle.signed().verify(std::slice::from_ref(key)).unwrap();
    assert_eq!(manifest.version, Version::new(1, 2, 3));
    bundle.check_content(|_| ()).unwrap();
}

/// Nobody can log in, install something or gain rights by it.
fn check_programs(root: &Path) {
    let mut programs = BTreeSet::new();
    for folder in ["usr/bin", "usr/sbin"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let entry = entry.unwrap();
            programs.insert(entry.file_name().into_string().unwrap());
            let mode = entry.metadata().unwrap().permissions().mode();
            assert!(entry.metadata().unwrap().is_symlink() || mode & 0o7000 == 0, "{:?}", entry.path());
        }
    }
    for name in
        ["capsuled", "containerd", "nft", "lvm", "thin_check", "mkfs.ext4", "iptables-restore", FURTHER]
    {
        assert!(programs.contains(name), "{name} is missing of {programs:?}");
    }
    for name in
        ["bash", "busybox", "login", "agetty", "su", "sshd", "apt", "dpkg", "systemctl", "perl", "python3"]
    {
        assert!(!programs.contains(name), "{name} is there");
    }
}

/// Asks the tree's own loader, in the tree.
fn every_program_finds_its_libraries(tree: &Path) {
    for folder in ["usr/bin", "usr/sbin"] {
        for entry in fs::read_dir(tree.join(folder)).unwrap() {
            let program = entry.unwrap().path();
            if program.is_symlink() || elf::needed(&program).unwrap().is_empty() {
                continue;
            }
            let inside = Path::new("/").join(program.strip_prefix(tree).unwrap());
            let mut chroot = Command::new("chroot");
            chroot.arg(tree).args(["/lib64/ld-linux-x86-64.so.2", "--list"]).arg(inside);
            let output = chroot.output().unwrap();
            assert!(output.status.success(), "{}: {output:?}", program.display());
        }
    }
}
