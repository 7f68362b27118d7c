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
/// Short names of licences in Debian's copyright files (the machine-readable format 1.0), and SPDX's.
const LICENCES: [(&str, &str); 24] = [
    ("Apache-2.0", "Apache-2.0"),
    ("BSD-2-clause", "BSD-2-Clause"),
    ("BSD-3-clause", "BSD-3-Clause"),
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
        "licenseDeclared": "Apache-2.0",
        "primaryPackagePurpose": "OPERATING-SYSTEM",
    });
    let mut listed = vec![image];
    let mut relations = vec![relation("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-image")];
    for package in packages {
        let id = format!("SPDXRef-{}", package.name.replace('+', "-"));
        relations.push(relation("SPDXRef-image", "CONTAINS", &id));
        listed.push(json!({
            "SPDXID": id,
            "name": package.name,
            "versionInfo": package.version,
            "supplier": "Organization: Debian",
            "sourceInfo": format!("built from {} {}", package.source, package.source_version),
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": false,
            "licenseConcluded": "NOASSERTION",
            "licenseDeclared": licence(tree, &package.name)?,
            "externalRefs": [{
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": format!("pkg:deb/debian/{}@{}?arch=amd64", package.name, escaped(&package.version)),
            }],
        }));
    }
    Ok(json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("capsule-{version}"),
        "documentNamespace": format!("urn:uuid:{}", uuid_of(&["sbom", version, root_hash])),
        "creationInfo": { "created": CREATED, "creators": ["Tool: capsule-images"] },
        "packages": listed,
        "relationships": relations,
    }))
}

fn relation(from: &str, kind: &str, to: &str) -> Value {
    json!({ "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to })
}

/// A package URL's version.
fn escaped(version: &str) -> String {
    version.replace('%', "%25").replace(':', "%3A").replace('+', "%2B")
}

fn licence(tree: &Path, package: &str) -> Result<String> {
    let path = tree.join("usr/share/doc").join(package).join("copyright");
    match fs::read(&path) {
        Ok(text) => Ok(declared(&String::from_utf8_lossy(&text))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok("NOASSERTION".to_owned()),
        Err(error) => Err(Error::file("read", path)(error)),
    }
}

/// All licences that a copyright file names, if it is in the machine-readable format and SPDX knows
/// each of them.
fn declared(text: &str) -> String {
    let unknown = || "NOASSERTION".to_owned();
    if !text.starts_with("Format:") {
        return unknown();
    }
    let names = text.lines().filter_map(|line| line.strip_prefix("License:")).map(str::trim);
    let spdx = |name: &str| LICENCES.iter().find(|(debian, _)| *debian == name).map(|(_, spdx)| *spdx);
    let found: Option<BTreeSet<&str>> = names.filter(|name| !name.is_empty()).map(spdx).collect();
    match found {
        Some(found) if !found.is_empty() => found.into_iter().collect::<Vec<_>>().join(" AND "),
        _ => unknown(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_are_told_only_where_each_of_them_is_known() {
        let known = "Format: https://…\n\nFiles: *\nLicense: GPL-2+\n text\n\nFiles: a\nLicense: Expat\n\nLicense: Expat\n";
        assert_eq!(declared(known), "GPL-2.0-or-later AND MIT");
        assert_eq!(declared(&known.replace("Expat", "homemade")), "NOASSERTION");
        assert_eq!(declared("This package was debianized by a person.\nLicense: GPL-2+\n"), "NOASSERTION");
    }
}
