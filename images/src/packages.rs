//! Debian's packages: fetched and unpacked by mmdebstrap, whose `extract` variant runs none of their
//! scripts; and what each of them is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use crate::{Error, Result, lock::Lock, run::Program};

/// The release of Debian that the image is made of.
const SUITE: &str = "trixie";
/// Whose signatures count.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const ARCHITECTURE: &str = "amd64";
/// Takes what an earlier build fetched, so that apt fetches only what is new.
const TAKE: &str = r#"mkdir -p "$1/var/cache/apt/archives"
find "$CAPSULE_DEBS" -name '*.deb' -exec cp --link --target-directory="$1/var/cache/apt/archives" {} +"#;
/// Keeps what this build needed, and nothing that Debian has replaced.
const KEEP: &str = r#"APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get --quiet --quiet --yes autoclean
find "$CAPSULE_DEBS" -name '*.deb' -delete
cp --link --target-directory="$CAPSULE_DEBS" "$1"/var/cache/apt/archives/*.deb"#;

/// Everything that was fetched.
#[derive(Debug)]
pub struct Packages {
    /// Where it is unpacked.
    pub tree: PathBuf,
    /// Sorted by name.
    pub list: Vec<Package>,
}

/// One package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Such as `runc`.
    pub name: String,
    /// Debian's.
    pub version: String,
    /// The source package that it is built from.
    pub source: String,
    /// That one's version.
    pub source_version: String,
    /// Names of packages that it cannot do without; of alternatives the first.
    pub needs: Vec<String>,
    /// Paths of its regular files, without the leading `/`.
    pub files: Vec<String>,
    archive: PathBuf,
}

/// Fetches the packages of these names and what they depend on, and unpacks them into `tree`, which is
/// made anew. `cache` keeps the archives from build to build; `mirror` is used instead of the one that
/// this system's apt has.
pub fn fetch(names: &BTreeSet<String>, mirror: Option<&str>, cache: &Path, tree: &Path) -> Result<Packages> {
    let debs = cache.join("debs");
    let _alone = Lock::take(&debs)?;
    crate::tree::remove(tree)?;
    let sources = match mirror {
        Some(mirror) => vec![source(mirror, SUITE)],
        None => configured()?,
    };
    Program::new("mmdebstrap")
        .arg("--variant=extract")
        .arg(format!("--architectures={ARCHITECTURE}"))
        .arg(format!("--include={}", names.iter().map(String::as_str).collect::<Vec<_>>().join(",")))
        .arg("--aptopt=APT::Install-Recommends false")
        .args(["--skip=cleanup", "--quiet"])
        .arg(format!("--setup-hook={TAKE}"))
        .arg(format!("--extract-hook={KEEP}"))
        .arg(SUITE)
        .arg(tree)
        .args(sources)
        .env("CAPSULE_DEBS", fs::canonicalize(&debs).map_err(Error::file("find", &debs))?)
        .run()?;
    crate::tree::Tree::unpacked(tree)?;
    let mut list = Vec::new();
    let archives = crate::tree::sorted(&debs)?.into_iter();
    for archive in archives.filter(|path| path.extension().is_some_and(|kind| kind == "deb")) {
        list.push(Package::read(archive)?);
    }
    Ok(Packages { tree: tree.to_owned(), list })
}

/// Where this system gets its packages, for the image's release.
fn configured() -> Result<Vec<String>> {
    let targets = Program::new("apt-get")
        .args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"])
        .text()?;
    let mirror = |end: &str| targets.lines().find(|uri| uri.ends_with(end));
    let main = mirror("/debian/").ok_or(Error::NoMirror)?;
    let mut sources = vec![source(main, SUITE), source(main, &format!("{SUITE}-updates"))];
    sources.extend(mirror("/debian-security/").map(|uri| source(uri, &format!("{SUITE}-security"))));
    Ok(sources)
}

fn source(mirror: &str, suite: &str) -> String {
    format!("deb [signed-by={KEYS}] {mirror} {suite} main")
}

impl Package {
    fn read(archive: PathBuf) -> Result<Self> {
        let format =
            "${Package}\t${Version}\t${source:Package}\t${source:Version}\t${Pre-Depends},${Depends}";
        let facts = Program::new("dpkg-deb").args(["--show", "--showformat", format]).arg(&archive).text()?;
        let sums = Program::new("dpkg-deb").arg("--info").arg(&archive).arg("md5sums").text();
        let [name, version, source, source_version, needs] =
            facts.splitn(5, '\t').collect::<Vec<_>>().try_into().map_err(|_| {
                Error::malformed(&archive, "dpkg-deb does not tell name, version, source and dependencies")
            })?;
        Ok(Self {
            name: name.to_owned(),
            version: version.to_owned(),
            source: source.to_owned(),
            source_version: source_version.to_owned(),
            needs: needs_of(needs),
            // A package of nothing but directories has no sums.
            files: sums.map(|sums| files_of(&sums)).unwrap_or_default(),
            archive,
        })
    }

    /// Everything in it but directories: paths without the leading `/`.
    pub fn contents(&self) -> Result<Vec<PathBuf>> {
        let stream = Program::new("dpkg-deb").arg("--fsys-tarfile").arg(&self.archive).run()?;
        let broken = |error| Error::malformed(&self.archive, error);
        let mut paths = Vec::new();
        for entry in tar::Archive::new(stream.as_slice()).entries().map_err(broken)? {
            let entry = entry.map_err(broken)?;
            if !entry.header().entry_type().is_dir() {
                let path = entry.path().map_err(broken)?;
                paths.push(path.strip_prefix(".").unwrap_or(&path).to_owned());
            }
        }
        Ok(paths)
    }
}

impl Packages {
    /// The package of that name.
    pub fn named(&self, name: &str) -> Option<&Package> {
        self.list.iter().find(|package| package.name == name)
    }

    /// These packages and all that they depend on.
    pub fn with_dependencies(&self, names: &[String]) -> Vec<&Package> {
        let mut found = BTreeMap::new();
        let mut next: Vec<&str> = names.iter().map(String::as_str).collect();
        while let Some(name) = next.pop() {
            if let Some(package) = self.named(name).filter(|package| !found.contains_key(&package.name)) {
                found.insert(package.name.clone(), package);
                next.extend(package.needs.iter().map(String::as_str));
            }
        }
        found.into_values().collect()
    }
}

/// Names in a `Depends` field.
fn needs_of(field: &str) -> Vec<String> {
    let name = |need: &str| {
        let first = need.split('|').next().unwrap_or_default().trim();
        first.split([' ', ':', '(']).next().unwrap_or_default().to_owned()
    };
    field.trim().split(',').map(name).filter(|name| !name.is_empty()).collect()
}

/// Paths in a list of MD5 sums.
fn files_of(sums: &str) -> Vec<String> {
    sums.lines().filter_map(|line| line.split_once("  ")).map(|(_, path)| path.to_owned()).collect()
}

#[cfg(test)]
impl Package {
    /// One that was never fetched.
    pub(crate) fn fake(name: &str, version: &str, files: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            source: name.to_owned(),
            source_version: version.to_owned(),
            needs: Vec::new(),
            files: files.iter().map(|&file| file.to_owned()).collect(),
            archive: PathBuf::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_told_by_name_and_the_first_of_alternatives() {
        let field = "libc6 (>= 2.38), debconf (>= 0.5) | debconf-2.0, perl:any,, init-system-helpers\n";
        assert_eq!(needs_of(field), ["libc6", "debconf", "perl", "init-system-helpers"]);
        assert!(needs_of(",").is_empty());
    }

    #[test]
    fn sums_name_files_with_spaces_too() {
        let sums = "d41d8cd98f00b204e9800998ecf8427e  usr/bin/runc\n0cc175b9c0f1b6a831c399e269772661  usr/share/a b\n";
        assert_eq!(files_of(sums), ["usr/bin/runc", "usr/share/a b"]);
    }

    #[test]
    fn packages_come_with_what_they_depend_on_and_circles_end() {
        let package = |name: &str, needs: &[&str]| Package {
            needs: needs.iter().map(|&need| need.to_owned()).collect(),
            ..Package::fake(name, "1", &[])
        };
        let list = vec![package("a", &["b", "virtual"]), package("b", &["a"]), package("c", &[])];
        let packages = Packages { tree: PathBuf::new(), list };
        let names =
            |found: Vec<&Package>| found.iter().map(|package| package.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(packages.with_dependencies(&["a".to_owned()])), ["a", "b"]);
    }
}
