//! All steps in order.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use capsule_bundle::{
    Version,
    write::{Content, SigningKey},
};

use crate::{
    Error, Result,
    contents::{Contents, Modules},
    disk,
    dress::{self, Own},
    esp, initramfs, keys,
    modules::{self, Installed},
    oci::Image,
    packages::{self, Packages},
    root::{self, Maker, Root},
    sbom,
    steps::{mib, step},
    tree::Tree,
    uki,
};

/// Where systemd's package has what the firmware starts.
const EFI: &str = "usr/lib/systemd/boot/efi";
/// After the root's hash: consoles of a screen and a serial port, and no capsule stays in a panic.
const COMMAND_LINE: &str = "console=tty0 console=ttyS0,115200 quiet panic=10";
/// In the cache, beside the packages.
const DEVELOPMENT_KEY: &str = "release.key";
/// The oldest that an update may replace.
const MINIMUM_VERSION: Version = Version::new(0, 1, 0);
/// Names of the images on board.
const DEBUG: Image<'_> = Image { reference: "capsule.local/debug:latest", command: &["/usr/bin/sh"] };
const EDGE: Image<'_> = Image { reference: "capsule.local/edge:latest", command: &["/usr/bin/caddy", "run"] };

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
    /// Keeps packages.
    pub cache: PathBuf,
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
    let work = inputs.cache.join("work");
    make(&inputs.output)?;
    remove_old_bundles(&inputs.output)?;
    make(&work)?;
    let lists = Lists::read(&inputs.contents)?;
    let version = inputs.version.to_string();
    let release = keys::release(inputs.release_key.as_deref(), &inputs.cache.join(DEVELOPMENT_KEY))?;
    if release.is_new {
        println!("  made a development key that signs updates: {}", release.file.display());
    }
    let packages = step(
        "packages",
        || {
            packages::fetch(
                &lists.names(&inputs.packages),
                inputs.mirror.as_deref(),
                &inputs.cache,
                &work.join("packages"),
            )
        },
        |packages| format!("packages: {} fetched and unpacked", packages.list.len()),
    )?;
    let own = Own {
        files: &inputs.contents.join("files"),
        agent: &inputs.agent,
        version: &version,
        keys: &accepted(&release.key, &inputs.trusted)?,
        firmware: inputs.firmware.as_deref(),
    };
    let debug =
        step("the debug image", || debug_tree(&packages, &lists, &work), |_| "image debug".to_owned())?;
    let edge = step("the edge image", || edge_tree(&packages, &lists, &work), |_| "image edge".to_owned())?;
    let (tree, modules) = step(
        "the root's files",
        || {
            let tree = Tree::new(work.join("root"))?;
            tree.take(&packages, &lists.root)?;
            tree.take_whole(&packages, &inputs.packages)?;
            tree.file("usr/share/capsule/images/debug.tar", DEBUG.archive(&debug)?)?;
            tree.file("usr/share/capsule/images/edge.tar", EDGE.archive(&edge)?)?;
            own.put(&tree)?;
            tree.complete(&packages)?;
            dress::certificates(&packages, &tree)?;
            dress::loader(&tree)?;
            let modules = modules::install(&packages, &lists.modules, &tree)?;
            Ok((tree, modules))
        },
        |(_, modules)| format!("root: files, modules of {}", modules.release),
    )?;
    let files = named_files(&[&tree, &debug, &edge])?;
    let image = inputs.output.join("root.img");
    let root = step(
        "the root image",
        || {
            Maker { tree: packages.tree.clone() }.erofs(tree.path(), &image)?;
            root::protect(&image)
        },
        |root| format!("root.img: {}, {}", mib(root.bytes), root.hash),
    )?;
    step(
        "the kernel image",
        || kernel(inputs, &own, &packages, &lists, &modules, &root),
        |bytes| format!("kernel.efi: {}", mib(*bytes)),
    )?;
    step("the disk", || disk_image(inputs, &packages, &image, &root, &work), |()| "capsule.img".to_owned())?;
    step("the bundle", || bundle(inputs, &root, &release.key), |file| file.display().to_string())?;
    let present = sbom::present(&packages, &files);
    write(&inputs.output.join("packages.txt"), sbom::list(&present))?;
    let bill = sbom::spdx(&present, &packages.tree, &version, &root.hash)?;
    write(&inputs.output.join("sbom.spdx.json"), format!("{bill:#}\n"))?;
    Ok(root)
}

/// What `images/contents` says.
struct Lists {
    root: Contents,
    debug: Contents,
    edge: Contents,
    tools: Contents,
    modules: Modules,
}

impl Lists {
    fn read(contents: &Path) -> Result<Self> {
        Ok(Self {
            root: Contents::read(contents, "root")?,
            debug: Contents::read(contents, "debug")?,
            edge: Contents::read(contents, "edge")?,
            tools: Contents::read(contents, "tools")?,
            modules: Modules::read(contents)?,
        })
    }

    /// Of every package that has a part in the build.
    fn names(&self, further: &[String]) -> BTreeSet<String> {
        let lists = [&self.root, &self.debug, &self.edge, &self.tools];
        let listed = lists.iter().flat_map(|list| list.packages.keys());
        listed.chain(further).cloned().collect()
    }
}

fn debug_tree(packages: &Packages, lists: &Lists, work: &Path) -> Result<Tree> {
    let tree = Tree::new(work.join("debug"))?;
    tree.take(packages, &lists.debug)?;
    tree.complete(packages)?;
    dress::busybox(&tree)?;
    dress::loader(&tree)?;
    Ok(tree)
}

fn edge_tree(packages: &Packages, lists: &Lists, work: &Path) -> Result<Tree> {
    let tree = Tree::new(work.join("edge"))?;
    tree.take(packages, &lists.edge)?;
    tree.complete(packages)?;
    dress::certificates(packages, &tree)?;
    Ok(tree)
}

fn named_files(trees: &[&Tree]) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for tree in trees {
        names.extend(tree.files()?.iter().map(|path| path.to_string_lossy().into_owned()));
    }
    Ok(names)
}

/// Makes the kernel image and what it is made of; tells its size.
fn kernel(
    inputs: &Inputs,
    own: &Own,
    packages: &Packages,
    lists: &Lists,
    modules: &Installed,
    root: &Root,
) -> Result<u64> {
    let archive = inputs.output.join("initramfs.cpio.zst");
    initramfs::build(&inputs.initramfs, modules, &lists.modules.initramfs, &archive)?;
    let linux = read(&packages.tree.join(format!("boot/vmlinuz-{}", modules.release)))?;
    write(&inputs.output.join("vmlinuz"), &linux)?;
    let parts = uki::Parts {
        stub: read(&packages.tree.join(EFI).join("linuxx64.efi.stub"))?,
        linux,
        initrd: read(&archive)?,
        command_line: format!("{} {COMMAND_LINE}", root.argument()),
        os_release: own.os_release(),
        release: modules.release.clone(),
    };
    let image = uki::build(&parts)?;
    write(&inputs.output.join("kernel.efi"), &image)?;
    Ok(image.len() as u64)
}

fn disk_image(inputs: &Inputs, packages: &Packages, image: &Path, root: &Root, work: &Path) -> Result<()> {
    let partition = work.join("esp");
    let parts = esp::Parts {
        loader: &packages.tree.join(EFI).join("systemd-bootx64.efi"),
        kernel: &inputs.output.join("kernel.efi"),
        version: &inputs.version.to_string(),
    };
    esp::build(&parts, &partition)?;
    disk::build(&partition, image, root, &inputs.output.join("capsule.img"))
}

/// Writes the bundle, and the key that it is signed with; tells the bundle's file.
fn bundle(inputs: &Inputs, root: &Root, key: &SigningKey) -> Result<PathBuf> {
    let file = inputs.output.join(format!("capsule-{}.update", inputs.version));
    let content = Content {
        version: inputs.version.clone(),
        minimum_version: MINIMUM_VERSION,
        architecture: "x86_64",
        kernel: &inputs.output.join("kernel.efi"),
        root: &inputs.output.join("root.img"),
        roothash: root.hash.parse().map_err(|error| Error::malformed("the root hash", error))?,
        data_bytes: root.data_bytes,
    };
    write(&inputs.output.join("release.pub"), key.public_text())?;
    capsule_bundle::write::write(&content, key, &file)?;
    Ok(file)
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
