//! What is in an image: a list for people and scripts, and a bill of materials in SPDX 2.3 as JSON
//! (<https://spdx.github.io/spdx-spec/v2.3/>).

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::{Value, json};

use crate::{
    Error, Result,
    packages::{Package, Packages},
    root::uuid_of,
};

const CREATED: &str = "1970-01-01T00:00:00Z";
/// What is in it that is no package.
const PROGRAMS: [&str; 2] = ["capsuled", "capsule-initramfs"];
/// Short names of licences in Debian's copyright files (the machine-readable format 1.0), and SPDX's.
const LICENCES: [(&str, &str); 30] = [
    ("0BSD", "0BSD"),
    ("Apache-2", "Apache-2.0"),
    ("Apache-2.0", "Apache-2.0"),
    ("BSD-2-clause", "BSD-2-Clause"),
    ("BSD-2-Clause", "BSD-2-Clause"),
    ("BSD-3-clause", "BSD-3-Clause"),
    ("BSD-3-Clause", "BSD-3-Clause"),
    ("BSD-4-clause", "BSD-4-Clause"),
    ("BSL-1.0", "BSL-1.0"),
    ("CC0-1.0", "CC0-1.0"),
    ("Expat", "MIT"),
    ("GPL-2", "GPL-2.0-only"),
    ("GPL-2+", "GPL-2.0-or-later"),
    ("GPL-2.0", "GPL-2.0-only"),
    ("GPL-2.0+", "GPL-2.0-or-later"),
    ("GPL-3", "GPL-3.0-only"),
    ("GPL-3+", "GPL-3.0-or-later"),
    ("ISC", "ISC"),
    ("LGPL-2", "LGPL-2.0-only"),
    ("LGPL-2+", "LGPL-2.0-or-later"),
    ("LGPL-2.1", "LGPL-2.1-only"),
    ("LGPL-2.1+", "LGPL-2.1-or-later"),
    ("LGPL-3", "LGPL-3.0-only"),
    ("LGPL-3+", "LGPL-3.0-or-later"),
    ("MIT", "MIT"),
    ("MPL-2.0", "MPL-2.0"),
    ("OpenSSL", "OpenSSL"),
    ("Unlicense", "Unlicense"),
    ("Zlib", "Zlib"),
    ("zlib", "Zlib"),
];

/// Packages of which at least one of these files is; sorted by name.
pub fn present<'p>(packages: &'p Packages, files: &BTreeSet<String>) -> Vec<&'p Package> {
    let has = |package: &&Package| package.files.iter().any(|file| files.contains(file));
    packages.list.iter().filter(has).collect()
}

/// One line each: name and version.
pub fn list(packages: &[&Package]) -> String {
    packages.iter().map(|package| format!("{} {}\n", package.name, package.version)).collect()
}

/// The bill of materials of an image of that version; licences are read where packages are unpacked.
pub fn spdx(packages: &[&Package], tree: &Path, version: &str, root_hash: &str) -> Result<Value> {
    let image = json!({
        "SPDXID": "SPDXRef-image",
        "name": "capsule",
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "primaryPackagePurpose": "OPERATING-SYSTEM",
    });
    let mut listed = vec![image];
    let mut relations = vec![relation("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-image")];
    for program in PROGRAMS {
        let id = format!("SPDXRef-{program}");
        relations.push(relation("SPDXRef-image", "CONTAINS", &id));
        listed.push(json!({
            "SPDXID": id,
            "name": program,
            "versionInfo": version,
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": false,
            "licenseConcluded": "Apache-2.0",
            "licenseDeclared": "Apache-2.0",
        }));
    }
    let mut named = BTreeSet::new();
    for package in packages {
        let licences = licences(tree, &package.name)?;
        let id = format!("SPDXRef-{}", package.name.replace('+', "-"));
        relations.push(relation("SPDXRef-image", "CONTAINS", &id));
        listed.push(of_debian(package, &id, &expression(&licences)));
        named.extend(licences);
    }
    Ok(json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("capsule-{version}"),
        "documentNamespace": format!("urn:uuid:{}", uuid_of(&["sbom", version, root_hash])),
        "creationInfo": { "created": CREATED, "creators": ["Tool: capsule-images"] },
        "packages": listed,
        "hasExtractedLicensingInfos": named.iter().filter_map(Licence::explained).collect::<Vec<_>>(),
        "relationships": relations,
    }))
}

fn of_debian(package: &Package, id: &str, licence: &str) -> Value {
    json!({
        "SPDXID": id,
        "name": package.name,
        "versionInfo": package.version,
        "supplier": "Organization: Debian",
        "sourceInfo": format!("built from {} {}", package.source, package.source_version),
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": licence,
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": format!("pkg:deb/debian/{}@{}?arch=amd64", package.name, escaped(&package.version)),
        }],
    })
}

fn relation(from: &str, kind: &str, to: &str) -> Value {
    json!({ "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to })
}

/// A package URL's version.
fn escaped(version: &str) -> String {
    version.replace('%', "%25").replace(':', "%3A").replace('+', "%2B")
}

/// What a package's copyright file names; nothing if it has none.
fn licences(tree: &Path, package: &str) -> Result<BTreeSet<Licence>> {
    let path = tree.join("usr/share/doc").join(package).join("copyright");
    match fs::read(&path) {
        Ok(text) => Ok(declared(&String::from_utf8_lossy(&text))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(Error::file("read", path)(error)),
    }
}

/// All licences that a copyright file names, if it is in the machine-readable format.
fn declared(text: &str) -> BTreeSet<Licence> {
    if !text.starts_with("Format:") {
        return BTreeSet::new();
    }
    let names = text.lines().filter_map(|line| line.strip_prefix("License:")).map(str::trim);
    names.filter(|name| !name.is_empty()).map(Licence::of).collect()
}

/// A licence, by its name in SPDX's list, or by Debian's where that has none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Licence {
    id: String,
    /// Debian's name of one that is not in SPDX's list.
    name: Option<String>,
}

impl Licence {
    fn of(name: &str) -> Self {
        if let Some((_, spdx)) = LICENCES.iter().find(|(debian, _)| *debian == name) {
            return Self { id: (*spdx).to_owned(), name: None };
        }
        let letters = name.chars().map(|letter| match letter {
            '+' => "-or-later".to_owned(),
            letter if letter.is_ascii_alphanumeric() || letter == '.' => letter.to_string(),
            _ => "-".to_owned(),
        });
        Self { id: format!("LicenseRef-Debian-{}", letters.collect::<String>()), name: Some(name.to_owned()) }
    }

    fn explained(&self) -> Option<Value> {
        let name = self.name.as_ref()?;
        Some(json!({
            "licenseId": self.id,
            "name": name,
            "extractedText": format!("{name}, as the package's copyright file in Debian has it"),
        }))
    }
}

fn expression(licences: &BTreeSet<Licence>) -> String {
    if licences.is_empty() {
        return "NOASSERTION".to_owned();
    }
    licences.iter().map(|licence| licence.id.as_str()).collect::<Vec<_>>().join(" AND ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_are_told_by_the_names_of_spdx_and_otherwise_by_debians() {
        let text = "Format: https://…\n\nFiles: *\nLicense: GPL-2+\n text\n\nFiles: a\nLicense: Expat\n\n\
            License: GPL-2+ with odd exception\n\nLicense: Expat\n";
        let found = declared(text);
        assert_eq!(
            expression(&found),
            "GPL-2.0-or-later AND LicenseRef-Debian-GPL-2-or-later-with-odd-exception AND MIT"
        );
        assert_eq!(found.iter().filter_map(Licence::explained).count(), 1);
        let free = "This package was debianized by a person.\nLicense: GPL-2+\n";
        assert_eq!(expression(&declared(free)), "NOASSERTION");
    }

    #[test]
    fn a_bill_has_our_programs_and_each_package_with_what_it_is_built_from() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("usr/share/doc/runc");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("copyright"), "Format: 1.0\nLicense: Apache-2.0\nLicense: odd\n").unwrap();
        let package = Package::fake("runc", "1.1+x:2", &["usr/sbin/runc"]);
        let bill = spdx(&[&package], dir.path(), "0.1.0", "c0ffee").unwrap();
        let runc = bill["packages"].as_array().unwrap().last().unwrap();
        assert_eq!(runc["licenseDeclared"], "Apache-2.0 AND LicenseRef-Debian-odd");
        assert_eq!(runc["sourceInfo"], "built from runc 1.1+x:2");
        assert_eq!(runc["externalRefs"][0]["referenceLocator"], "pkg:deb/debian/runc@1.1%2Bx%3A2?arch=amd64");
        assert_eq!(bill["hasExtractedLicensingInfos"][0]["name"], "odd");
        assert_eq!(bill["packages"][1]["name"], "capsuled");
    }

    #[test]
    fn only_packages_that_have_a_file_in_it_are_listed() {
        let packages = vec![Package::fake("a", "1", &["usr/bin/a"]), Package::fake("b", "2", &["usr/bin/b"])];
        let packages = Packages { tree: "".into(), list: packages };
        let files = BTreeSet::from(["usr/bin/b".to_owned()]);
        assert_eq!(list(&present(&packages, &files)), "b 2\n");
    }
}
