//! The kernel's modules: which are taken, and the indexes by which they are found.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    thread,
};

use crate::{Error, Result, contents::Modules, packages::Packages, run::Program, tree::Tree};

/// Where they are, in every tree.
const FOLDER: &str = "usr/lib/modules";
/// What the kernel's package knows of them and depmod does not.
const FACTS: [&str; 3] = ["modules.order", "modules.builtin", "modules.builtin.modinfo"];
const SUFFIX: &str = ".xz";

/// A `modules.dep`: what each module needs, by path.
#[derive(Debug)]
pub struct Dependencies(BTreeMap<String, Vec<String>>);

/// The modules of a tree.
#[derive(Debug)]
pub struct Installed {
    /// The kernel's release, such as `6.12.90+deb13-amd64`.
    pub release: String,
    /// Their folder.
    pub folder: PathBuf,
    /// What they need.
    pub dependencies: Dependencies,
}

impl Dependencies {
    /// Reads the lines of a `modules.dep`.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        let needs = |needs: &str| needs.split_whitespace().map(str::to_owned).collect();
        Self(lines.map(|(path, list)| (path.to_owned(), needs(list))).collect())
    }

    /// The path of a module; `-` and `_` are the same in its name.
    pub fn path_of(&self, name: &str) -> Option<&str> {
        let name = plain(name);
        self.0.keys().find(|path| plain(name_of(path)) == name).map(String::as_str)
    }

    /// What the module at `path` needs, in the order in which they load.
    pub fn before(&self, path: &str) -> impl Iterator<Item = &str> {
        // depmod lists them the other way round.
        self.0.get(path).into_iter().flatten().rev().map(String::as_str)
    }

    /// Paths of those outside the `drop`ped folders, and of what they need.
    fn kept(&self, drop: &[String]) -> BTreeSet<&str> {
        let dropped = |path: &str| {
            let below = path.strip_prefix("kernel/").unwrap_or(path);
            drop.iter().any(|folder| Path::new(below).starts_with(folder))
        };
        let mut kept = BTreeSet::new();
        for (path, needs) in self.0.iter().filter(|(path, _)| !dropped(path)) {
            kept.insert(path.as_str());
            kept.extend(needs.iter().map(String::as_str));
        }
        kept
    }
}

/// Copies modules and unpacks them, for the root's own compression does better over all of them and
/// nothing need unpack them at boot.
pub fn install(packages: &Packages, wanted: &Modules, tree: &Tree) -> Result<Installed> {
    let release = release_of(&packages.tree)?;
    let source = packages.tree.join(FOLDER).join(&release);
    let all = index(&packages.tree, &release)?;
    let folder = Path::new(FOLDER).join(&release);
    for name in FACTS {
        tree.copy(&packages.tree, &folder.join(name))?;
    }
    let mut packed = Vec::new();
    for path in all.kept(&wanted.drop) {
        tree.copy(&packages.tree, &folder.join(path))?;
        if path.ends_with(SUFFIX) {
            packed.push(tree.path().join(&folder).join(path));
        }
    }
    if packed.is_empty() {
        return Err(Error::malformed(source, "it has no modules"));
    }
    unpack(&packed)?;
    let dependencies = index(tree.path(), &release)?;
    Ok(Installed { release, folder: tree.path().join(folder), dependencies })
}

/// The one kernel that a tree has.
fn release_of(tree: &Path) -> Result<String> {
    let folder = tree.join(FOLDER);
    let found = crate::tree::sorted(&folder)?;
    match found.as_slice() {
        [one] => Ok(one.file_name().unwrap_or_default().to_string_lossy().into_owned()),
        others => {
            Err(Error::malformed(&folder, format!("there are {} kernels instead of one", others.len())))
        }
    }
}

/// Runs depmod and reads what it found.
fn index(tree: &Path, release: &str) -> Result<Dependencies> {
    Program::new("depmod").arg("--basedir").arg(tree).arg(release).run()?;
    let list = tree.join(FOLDER).join(release).join("modules.dep");
    let text = std::fs::read_to_string(&list).map_err(Error::file("read", &list))?;
    Ok(Dependencies::parse(&text))
}

/// Unpacks files in place, on all processors.
fn unpack(files: &[PathBuf]) -> Result<()> {
    let share = files.len().div_ceil(thread::available_parallelism().map_or(1, usize::from));
    thread::scope(|scope| {
        let unpack = |part: &[PathBuf]| Program::new("xz").arg("--decompress").args(part).run();
        let workers: Vec<_> = files.chunks(share).map(|part| scope.spawn(move || unpack(part))).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(outcome) => outcome.map(drop),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

/// A module's name, from its path.
pub fn name_of(path: &str) -> &str {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file)
}

/// A name as the kernel tells it.
pub fn plain(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "kernel/drivers/gpu/drm.ko.xz:\n\
        kernel/drivers/gpu/radio.ko.xz: kernel/drivers/gpu/drm.ko.xz\n\
        kernel/fs/a-b.ko.xz: kernel/lib/two.ko.xz kernel/lib/one.ko.xz\n\
        kernel/lib/one.ko.xz:\n\
        kernel/lib/two.ko.xz: kernel/lib/one.ko.xz\n\
        kernel/vfio.ko.xz: kernel/drivers/gpu/drm.ko.xz\n";

    #[test]
    fn a_dropped_module_stays_where_another_needs_it() {
        let all = Dependencies::parse(LIST);
        let kept = all.kept(&["drivers/gpu".to_owned()]);
        assert!(kept.contains("kernel/drivers/gpu/drm.ko.xz"));
        assert!(!kept.contains("kernel/drivers/gpu/radio.ko.xz"));
        assert_eq!(kept.len(), 5);
    }

    #[test]
    fn a_folder_is_dropped_by_its_whole_name() {
        let all = Dependencies::parse(LIST);
        assert_eq!(all.kept(&["fs/a".to_owned()]).len(), 6);
    }

    #[test]
    fn modules_are_found_by_either_spelling_and_need_others_first() {
        let all = Dependencies::parse(LIST);
        let path = all.path_of("a_b").unwrap();
        assert_eq!(path, "kernel/fs/a-b.ko.xz");
        assert_eq!(all.before(path).collect::<Vec<_>>(), ["kernel/lib/one.ko.xz", "kernel/lib/two.ko.xz"]);
        assert!(all.path_of("c").is_none());
    }
}
