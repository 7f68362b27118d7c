//! What images are made of, and the trees that become them.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use crate::{
    Result,
    contents::{Contents, Modules},
    dress::{self, Own},
    lock::Lock,
    modules::{self, Installed},
    oci::Image,
    packages::{self, Packages},
    pipeline::Inputs,
    tree::Tree,
};

/// The image of `fleetctl debug`.
const DEBUG: Image<'_> = Image { reference: "capsule.local/debug:latest", command: &["/usr/bin/sh"] };
/// The image of an edge's ingress.
const EDGE: Image<'_> = Image { reference: "capsule.local/edge:latest", command: &["/usr/bin/caddy", "run"] };
/// Where they are on board.
const ON_BOARD: &str = "usr/share/capsule/images";

/// Lists and the packages that they name; nobody else builds here as long as this lives.
pub struct Materials {
    /// Unpacked.
    pub packages: Packages,
    /// Which modules are taken.
    pub modules: Modules,
    lists: Lists,
    further: Vec<String>,
    work: PathBuf,
    _alone: Lock,
}

/// A root that is complete.
pub struct Filled {
    /// Its files.
    pub tree: Tree,
    /// Its modules.
    pub modules: Installed,
    /// Names of the files that it and the images on board have.
    pub files: BTreeSet<String>,
}

struct Lists {
    root: Contents,
    debug: Contents,
    edge: Contents,
    tools: Contents,
}

impl Materials {
    /// Reads the lists and fetches the packages.
    pub fn fetch(inputs: &Inputs) -> Result<Self> {
        let alone = Lock::take(&inputs.work)?;
        let lists = Lists::read(&inputs.contents)?;
        let tree = inputs.work.join("packages");
        let names = lists.names(&inputs.packages);
        Ok(Self {
            packages: packages::fetch(&names, inputs.mirror.as_deref(), &inputs.cache, &tree)?,
            modules: Modules::read(&inputs.contents)?,
            lists,
            further: inputs.packages.clone(),
            work: inputs.work.clone(),
            _alone: alone,
        })
    }

    /// Makes the root's tree, with the images on board.
    pub fn root(&self, own: &Own) -> Result<Filled> {
        let (debug, edge) = (self.debug()?, self.edge()?);
        let tree = Tree::new(self.work.join("root"))?;
        tree.take(&self.packages, &self.lists.root)?;
        tree.take_whole(&self.packages, &self.further)?;
        tree.file(Path::new(ON_BOARD).join("debug.tar"), DEBUG.archive(&debug)?)?;
        tree.file(Path::new(ON_BOARD).join("edge.tar"), EDGE.archive(&edge)?)?;
        own.put(&tree)?;
        tree.complete(&self.packages)?;
        dress::certificates(&self.packages, &tree)?;
        dress::loader(&tree)?;
        let modules = modules::install(&self.packages, &self.modules, &tree)?;
        let mut files = BTreeSet::new();
        for tree in [&tree, &debug, &edge] {
            files.extend(tree.files()?.iter().map(|path| path.to_string_lossy().into_owned()));
        }
        Ok(Filled { tree, modules, files })
    }

    fn debug(&self) -> Result<Tree> {
        let tree = Tree::new(self.work.join("debug"))?;
        tree.take(&self.packages, &self.lists.debug)?;
        // Where a shell begins, and where it leaves what it records.
        ["root", "tmp"].into_iter().try_for_each(|dir| tree.directory(dir))?;
        tree.complete(&self.packages)?;
        dress::busybox(&tree)?;
        dress::loader(&tree)?;
        Ok(tree)
    }

    fn edge(&self) -> Result<Tree> {
        let tree = Tree::new(self.work.join("edge"))?;
        tree.take(&self.packages, &self.lists.edge)?;
        tree.complete(&self.packages)?;
        dress::certificates(&self.packages, &tree)?;
        dress::loader(&tree)?;
        Ok(tree)
    }
}

impl Lists {
    fn read(contents: &Path) -> Result<Self> {
        Ok(Self {
            root: Contents::read(contents, "root")?,
            debug: Contents::read(contents, "debug")?,
            edge: Contents::read(contents, "edge")?,
            tools: Contents::read(contents, "tools")?,
        })
    }

    /// Of every package that has a part in the build.
    fn names(&self, further: &[String]) -> BTreeSet<String> {
        let lists = [&self.root, &self.debug, &self.edge, &self.tools];
        let listed = lists.iter().flat_map(|list| list.packages.keys());
        listed.chain(further).cloned().collect()
    }
}
