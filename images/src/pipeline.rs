//! All steps in order.

use std::{
    fs,
    path::{Path, PathBuf},
};

use capsule_bundle::{
    Version,
    write::{Content, SigningKey},
};

use crate::{
    Error, Result, disk,
    dress::Own,
    esp, initramfs, keys,
    materials::{Filled, Materials},
    root::{self, Root},
    sbom,
    steps::{mib, step},
    uki,
};

/// Where systemd's package has what the firmware starts.
const EFI: &str = "usr/lib/systemd/boot/efi";
/// After the root's hash: consoles of a screen and a serial port, no capsule stays in a panic, and firmware
/// that this machine alone needs is found where it can be put.
const COMMAND_LINE: &str =
    "console=tty0 console=ttyS0,115200 quiet panic=10 firmware_class.path=/perm/firmware";
/// In the cache, beside the packages.
const DEVELOPMENT_KEY: &str = "release.key";
const ARCHITECTURE: &str = "x86_64";
/// The oldest that an update may replace.
const MINIMUM_VERSION: Version = Version::new(0, 1, 0);

/// What an image is built from.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// `capsuled`.
    pub agent: PathBuf,
    /// The initramfs' program.
    pub initramfs: PathBuf,
    /// The image's.
    pub version: Version,
    /// Where the results go.
    pub output: PathBuf,
    /// Keeps packages, and a development key.
    pub cache: PathBuf,
    /// For what is in the making; a second build in the same place waits for the first.
    pub work: PathBuf,
    /// `images/contents`.
    pub contents: PathBuf,
    /// Further packages.
    pub packages: Vec<String>,
    /// The secret key that signs the bundle; a development key, if none is named.
    pub release_key: Option<PathBuf>,
    /// Public keys whose updates the image accepts besides that one's.
    pub trusted: Vec<PathBuf>,
    /// Firmware of devices.
    pub firmware: Option<PathBuf>,
    /// Instead of this system's.
    pub mirror: Option<String>,
}

/// Builds everything.
pub fn build(inputs: &Inputs) -> Result<Root> {
    let materials = step(
        "packages",
        || Materials::fetch(inputs),
        |materials| format!("{} packages of Debian", materials.packages.list.len()),
    )?;
    assemble(inputs, &materials)
}

/// Builds everything from packages that are fetched.
pub fn assemble(inputs: &Inputs, materials: &Materials) -> Result<Root> {
    make(&inputs.output)?;
    remove_old_bundles(&inputs.output)?;
    let release = keys::release(inputs.release_key.as_deref(), &inputs.cache.join(DEVELOPMENT_KEY))?;
    let version = inputs.version.to_string();
    let own = Own {
        files: &inputs.contents.join("files"),
        agent: &inputs.agent,
        initramfs: &inputs.initramfs,
        version: &version,
        keys: &accepted(&release.key, &inputs.trusted)?,
        firmware: inputs.firmware.as_deref(),
    };
    let build = Build { inputs, materials, own: &own };
    let filled = step(
        "the root's files",
        || materials.root(&own),
        |filled| format!("{} files, Linux {}", filled.files.len(), filled.modules.release),
    )?;
    let root = step(
        "the root image",
        || build.root(&filled),
        |root| format!("{}: {}, {}", build.output("root.img").display(), mib(root.bytes), root.hash),
    )?;
    step("the kernel image", || build.kernel(&filled, &root), |file| file.display().to_string())?;
    step("the disk", || build.disk(&root), |file| file.display().to_string())?;
    step(
        "the bundle",
        || build.bundle(&root, &release.key),
        |file| format!("{}, signed with {release}", file.display()),
    )?;
    build.lists(&filled, &root)?;
    Ok(root)
}

/// One build, whose results are files of its output folder.
struct Build<'b> {
    inputs: &'b Inputs,
    materials: &'b Materials,
    own: &'b Own<'b>,
}

impl Build<'_> {
    fn output(&self, name: &str) -> PathBuf {
        self.inputs.output.join(name)
    }

    fn root(&self, filled: &Filled) -> Result<Root> {
        let image = self.output("root.img");
        root::erofs(&self.materials.packages.tree, filled.tree.path(), &image)?;
        root::protect(&image)
    }

    /// With what it is made of beside it.
    fn kernel(&self, filled: &Filled, root: &Root) -> Result<PathBuf> {
        let packages = &self.materials.packages.tree;
        let archive = self.output("initramfs.cpio.zst");
        initramfs::build(
            &self.inputs.initramfs,
            &filled.modules,
            &self.materials.modules.initramfs,
            &archive,
        )?;
        let linux = read(&packages.join(format!("boot/vmlinuz-{}", filled.modules.release)))?;
        write(&self.output("vmlinuz"), &linux)?;
        let parts = uki::Parts {
            stub: read(&packages.join(EFI).join("linuxx64.efi.stub"))?,
            linux,
            initrd: read(&archive)?,
            command_line: format!("{} {COMMAND_LINE}", root.argument()),
            os_release: self.own.os_release(),
            release: filled.modules.release.clone(),
        };
        let image = self.output("kernel.efi");
        write(&image, uki::build(&parts)?)?;
        Ok(image)
    }

    fn disk(&self, root: &Root) -> Result<PathBuf> {
        let partition = self.inputs.work.join("esp");
        let parts = esp::Parts {
            loader: &self.materials.packages.tree.join(EFI).join("systemd-bootx64.efi"),
            kernel: &self.output("kernel.efi"),
            version: self.own.version,
        };
        esp::build(&parts, &partition)?;
        let disk = self.output("capsule.img");
        disk::build(&partition, &self.output("root.img"), root, &disk)?;
        Ok(disk)
    }

    /// With the key that it is signed with beside it.
    fn bundle(&self, root: &Root, key: &SigningKey) -> Result<PathBuf> {
        write(&self.output("release.pub"), key.public_text())?;
        let bundle = self.output(&format!("capsule-{}.update", self.inputs.version));
        let content = Content {
            version: self.inputs.version.clone(),
            minimum_version: MINIMUM_VERSION,
            architecture: ARCHITECTURE,
            kernel: &self.output("kernel.efi"),
            root: &self.output("root.img"),
            roothash: root.hash.parse().map_err(|error| Error::malformed("the root hash", error))?,
            data_bytes: root.data_bytes,
        };
        capsule_bundle::write::write(&content, key, &bundle)?;
        Ok(bundle)
    }

    fn lists(&self, filled: &Filled, root: &Root) -> Result<()> {
        let packages = &self.materials.packages;
        let present = sbom::present(packages, &filled.files);
        write(&self.output("packages.txt"), sbom::list(&present))?;
        let bill = sbom::spdx(&present, &packages.tree, self.own.version, &root.hash)?;
        write(&self.output("sbom.spdx.json"), format!("{bill:#}\n"))
    }
}

/// Names and texts of the public keys whose updates an image accepts.
fn accepted(key: &SigningKey, trusted: &[PathBuf]) -> Result<Vec<(String, String)>> {
    let mut keys = vec![("release.pub".to_owned(), key.public_text())];
    for (number, path) in trusted.iter().enumerate() {
        keys.push((format!("trusted-{}.pub", number + 1), keys::trusted(path)?));
    }
    Ok(keys)
}

/// Of other versions: whoever pushes `*.update` means the one that was made last.
fn remove_old_bundles(output: &Path) -> Result<()> {
    for path in crate::tree::sorted(output)? {
        if path.extension().is_some_and(|kind| kind == "update") {
            fs::remove_file(&path).map_err(Error::file("remove", &path))?;
        }
    }
    Ok(())
}

fn make(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::file("make", path))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(Error::file("read", path))
}

fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    fs::write(path, content).map_err(Error::file("write", path))
}
