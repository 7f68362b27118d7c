//! A directory tree in the making: files are copied from where packages are unpacked.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use crate::{Error, Result, contents::Contents, elf, packages::Packages};

/// Debian's merged `/usr`.
const MERGED: [(&str, &str); 4] =
    [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")];
/// What nobody reads on a capsule.
const UNREAD: [&str; 9] = [
    "usr/share/doc",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/lintian",
    "usr/share/bash-completion",
    "usr/share/zsh",
    "usr/share/fish",
    "usr/share/bug",
];

/// A root directory that is being filled.
#[derive(Debug)]
pub struct Tree(PathBuf);

impl Tree {
    /// An empty one, in place of what was there.
    pub fn new(path: impl Into<PathBuf>) -> Result<Self> {
        let tree = Self(path.into());
        remove(&tree.0)?;
        tree.merge()?;
        Ok(tree)
    }

    /// One that is there, whose `/usr` gets merged if it is not.
    pub fn unpacked(path: impl Into<PathBuf>) -> Result<Self> {
        let tree = Self(path.into());
        tree.merge()?;
        Ok(tree)
    }

    fn merge(&self) -> Result<()> {
        for (name, target) in MERGED {
            self.directory(target)?;
            if !self.has(name) {
                self.link(name, target)?;
            }
        }
        Ok(())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Whether there is something of that name.
    pub fn has(&self, name: impl AsRef<Path>) -> bool {
        self.0.join(name).symlink_metadata().is_ok()
    }

    /// Makes a directory and those above it.
    pub fn directory(&self, name: impl AsRef<Path>) -> Result<()> {
        let path = self.0.join(name);
        fs::create_dir_all(&path).map_err(Error::file("make", &path))
    }

    /// Writes a file.
    pub fn file(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.place(name.as_ref())?;
        fs::write(&path, content).map_err(Error::file("write", &path))
    }

    /// Writes a program.
    pub fn program(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Result<()> {
        self.file(&name, content)?;
        let path = self.0.join(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(Error::file("change", &path))
    }

    /// Makes a symbolic link.
    pub fn link(&self, name: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<()> {
        let path = self.place(name.as_ref())?;
        symlink(target, &path).map_err(Error::file("make", &path))
    }

    /// Copies `name` out of another tree: a file, a symbolic link, or a directory with all that is in it.
    pub fn copy(&self, from: &Path, name: &Path) -> Result<()> {
        self.copy_into(&from.join(name), name)
    }

    /// Copies something of another place, which is called `name` here.
    pub fn copy_into(&self, source: &Path, name: &Path) -> Result<()> {
        let facts = source.symlink_metadata().map_err(Error::file("read", source))?;
        if facts.is_dir() {
            self.directory(name)?;
            for entry in sorted(source)? {
                self.copy_into(&entry, &name.join(entry.file_name().unwrap_or_default()))?;
            }
        } else if !self.has(name) {
            let target = self.place(name)?;
            if facts.is_symlink() {
                let to = fs::read_link(source).map_err(Error::file("read", source))?;
                symlink(to, &target).map_err(Error::file("make", &target))?;
            } else {
                fs::copy(source, &target).map_err(Error::file("copy", source))?;
                // Nobody gains rights by running a file of the image.
                let mode = fs::Permissions::from_mode(facts.permissions().mode() & 0o777);
                fs::set_permissions(&target, mode).map_err(Error::file("change", &target))?;
            }
        }
        Ok(())
    }

    /// Copies what a list names, with the links that it adds.
    pub fn take(&self, packages: &Packages, contents: &Contents) -> Result<()> {
        for (package, files) in &contents.packages {
            for pattern in &files.keep {
                let found = matches(&packages.tree, pattern);
                if found.is_empty() {
                    return Err(Error::NotInPackage {
                        package: package.clone(),
                        pattern: pattern.clone(),
                        list: contents.list.clone(),
                    });
                }
                for name in found {
                    self.copy(&packages.tree, &name)?;
                }
            }
            for (name, target) in &files.links {
                self.link(name, target)?;
            }
        }
        Ok(())
    }

    /// Copies whole packages and what they depend on, without what is written for people.
    pub fn take_whole(&self, packages: &Packages, names: &[String]) -> Result<()> {
        for package in packages.with_dependencies(names) {
            for name in package.contents()? {
                let read = !UNREAD.iter().any(|unread| name.starts_with(unread));
                if read && !name.starts_with("boot") {
                    self.copy(&packages.tree, &name)?;
                }
            }
        }
        Ok(())
    }

    /// Copies the libraries that programs and libraries of this tree need, until none is missing.
    pub fn complete(&self, packages: &Packages) -> Result<()> {
        let mut open = self.files()?;
        while let Some(name) = open.pop() {
            for library in elf::needed(&self.0.join(&name))? {
                if let Some(copied) = self.copy_library(packages, &name, &library)? {
                    open.push(copied);
                }
            }
        }
        Ok(())
    }

    /// Every regular file, sorted.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        self.walk(Path::new(""), &mut |name, facts| {
            if facts.is_file() {
                files.push(name.to_owned());
            }
        })?;
        Ok(files)
    }

    /// Visits everything below a directory of this tree, sorted, each directory before what is in it.
    pub fn walk(&self, name: &Path, visit: &mut dyn FnMut(&Path, &fs::Metadata)) -> Result<()> {
        for path in sorted(&self.0.join(name))? {
            let facts = path.symlink_metadata().map_err(Error::file("read", &path))?;
            let name = name.join(path.file_name().unwrap_or_default());
            visit(&name, &facts);
            if facts.is_dir() {
                self.walk(&name, visit)?;
            }
        }
        Ok(())
    }

    /// Copies a library unless it is there; tells the file that came with it.
    fn copy_library(&self, packages: &Packages, program: &Path, library: &str) -> Result<Option<PathBuf>> {
        let missing = || Error::NoLibrary { program: program.to_owned(), library: library.to_owned() };
        let found = elf::LIBRARIES.iter().map(|folder| Path::new(folder).join(library));
        let Some(name) = found.clone().find(|name| packages.tree.join(name).exists()) else {
            // A library beside the program that needs it is not looked for.
            let beside = program.parent().is_some_and(|folder| self.has(folder.join(library)));
            return if beside { Ok(None) } else { Err(missing()) };
        };
        if self.has(&name) {
            return Ok(None);
        }
        self.copy(&packages.tree, &name)?;
        let path = packages.tree.join(&name);
        let real = fs::canonicalize(&path).map_err(Error::file("find", &path))?;
        let tree = fs::canonicalize(&packages.tree).map_err(Error::file("find", &packages.tree))?;
        let real = real.strip_prefix(&tree).map_err(|_| missing())?.to_owned();
        self.copy(&packages.tree, &real)?;
        Ok(Some(real))
    }

    /// The path of something new, whose directory is made.
    fn place(&self, name: &Path) -> Result<PathBuf> {
        self.directory(name.parent().unwrap_or(Path::new("")))?;
        Ok(self.0.join(name))
    }
}

/// Names of a tree that fit a pattern.
fn matches(tree: &Path, pattern: &str) -> Vec<PathBuf> {
    let pattern =
        format!("{}/{}", glob::Pattern::escape(&tree.to_string_lossy()), pattern.trim_end_matches('/'));
    let found = glob::glob(&pattern).into_iter().flatten().filter_map(Result::ok);
    found.filter_map(|path| path.strip_prefix(tree).map(Path::to_owned).ok()).collect()
}

/// What is in a directory, sorted by name.
pub fn sorted(dir: &Path) -> Result<Vec<PathBuf>> {
    let failed = || Error::file("read", dir);
    let entries = fs::read_dir(dir).map_err(failed())?.collect::<Result<Vec<_>, _>>().map_err(failed())?;
    let mut paths: Vec<PathBuf> = entries.iter().map(fs::DirEntry::path).collect();
    paths.sort();
    Ok(paths)
}

/// Removes a directory with all that is in it, if there is one.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::file("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::contents::Files;

    /// Packages that are unpacked in a folder: a program that needs the C library, and some texts.
    fn packages(dir: &Path) -> Packages {
        let unpacked = Tree::new(dir.join("packages")).unwrap();
        let program = std::env::current_exe().unwrap();
        unpacked.copy_into(&program, Path::new("usr/bin/tool")).unwrap();
        for library in elf::needed(&program).unwrap() {
            let folder = Path::new(elf::LIBRARIES[0]);
            let file = format!("{library}.1");
            unpacked.file(folder.join(&file), "no program").unwrap();
            unpacked.link(folder.join(&library), &file).unwrap();
        }
        unpacked.file("usr/share/data/deep/file", "data").unwrap();
        unpacked.file("usr/share/data/other", "data").unwrap();
        Packages { tree: unpacked.path().to_owned(), list: Vec::new() }
    }

    fn contents(keep: &[&str], links: &[(&str, &str)]) -> Contents {
        let files = Files {
            why: String::new(),
            keep: keep.iter().map(|&pattern| pattern.to_owned()).collect(),
            links: links.iter().map(|(name, target)| (name.into(), target.into())).collect(),
        };
        let packages = BTreeMap::from([("tool".to_owned(), files)]);
        Contents { list: "root.toml".into(), packages }
    }

    #[test]
    fn only_what_is_named_is_taken_and_directories_with_all_that_is_in_them() {
        let dir = tempfile::tempdir().unwrap();
        let packages = packages(dir.path());
        let tree = Tree::new(dir.path().join("root")).unwrap();
        tree.take(&packages, &contents(&["usr/share/data/d*/"], &[("usr/bin/sh", "tool")])).unwrap();
        assert!(tree.has("usr/share/data/deep/file") && tree.has("bin/sh"));
        assert!(!tree.has("usr/share/data/other") && !tree.has("usr/bin/tool"));
    }

    #[test]
    fn a_pattern_that_fits_nothing_is_told_with_its_package_and_list() {
        let dir = tempfile::tempdir().unwrap();
        let packages = packages(dir.path());
        let tree = Tree::new(dir.path().join("root")).unwrap();
        let error = tree.take(&packages, &contents(&["usr/bin/toll"], &[])).unwrap_err().to_string();
        assert_eq!(error, "package tool has no usr/bin/toll; correct root.toml");
    }

    #[test]
    fn libraries_come_with_the_programs_that_need_them_and_one_that_nobody_has_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let packages = packages(dir.path());
        let tree = Tree::new(dir.path().join("root")).unwrap();
        tree.take(&packages, &contents(&["usr/bin/tool"], &[])).unwrap();
        tree.complete(&packages).unwrap();
        let library = Path::new(elf::LIBRARIES[0]).join("libc.so.6");
        assert!(tree.path().join(&library).is_file());

        fs::remove_file(packages.tree.join(&library)).unwrap();
        let other = Tree::new(dir.path().join("other")).unwrap();
        other.take(&packages, &contents(&["usr/bin/tool"], &[])).unwrap();
        let error = other.complete(&packages).unwrap_err().to_string();
        assert_eq!(
            error,
            "usr/bin/tool needs libc.so.6, which no package here has; add its package to the list"
        );
    }

    #[test]
    fn nobody_gains_rights_by_a_file_of_an_image() {
        let dir = tempfile::tempdir().unwrap();
        let mount = dir.path().join("mount");
        fs::write(&mount, "").unwrap();
        fs::set_permissions(&mount, fs::Permissions::from_mode(0o4755)).unwrap();
        let tree = Tree::new(dir.path().join("root")).unwrap();
        tree.copy_into(&mount, Path::new("usr/bin/mount")).unwrap();
        let mode = fs::metadata(tree.path().join("usr/bin/mount")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755);
    }

    #[test]
    fn a_new_tree_replaces_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        Tree::new(dir.path().join("root")).unwrap().file("old", "").unwrap();
        assert!(!Tree::new(dir.path().join("root")).unwrap().has("old"));
    }
}
