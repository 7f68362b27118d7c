//! Files, directories and what is wrong with them.

use std::{fs, path::Path};

use capsule_proto::{
    manifest::{LoadError, load, load_all},
    v1,
};
use tempfile::TempDir;

use crate::fixture;

const WEB: &str = "kind: Container\nname: web\ncontainer: {image: a}\n";

fn directory(files: &[(&str, &[u8])]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(directory.path().join(name), bytes).unwrap();
    }
    directory
}

fn names(manifests: &[v1::Manifest]) -> Vec<&str> {
    manifests.iter().map(|manifest| manifest.name.as_str()).collect()
}

/// Why `path` cannot be loaded, without the directory it is in.
#[track_caller]
fn refusal(path: &Path) -> String {
    let directory = if path.is_dir() { path } else { path.parent().unwrap() };
    let error = load(path).expect_err("it cannot be loaded").to_string();
    error.replace(&format!("{}/", directory.display()), "").replace(&directory.display().to_string(), "DIR")
}

#[test]
fn the_fixtures_are_read_in_the_order_they_are_named() {
    let manifests = load_all(&[fixture("stack.yaml"), fixture("host.yaml"), fixture("vm.json")]).unwrap();
    assert_eq!(names(&manifests), ["data", "db", "web", "monitor", "builder", "cache"]);
}

#[test]
fn a_directory_is_read_in_order_without_what_is_no_manifest() {
    let other = WEB.replace("web", "api");
    let files: [(&str, &[u8]); 4] =
        [("2.yml", WEB.as_bytes()), ("1.YAML", other.as_bytes()), ("README.md", b"{"), ("3.json", b"")];
    let directory = directory(&files);
    fs::create_dir(directory.path().join("sub.yaml")).unwrap();
    assert_eq!(names(&load(directory.path()).unwrap()), ["api", "web"]);
}

#[test]
fn two_files_do_not_describe_the_same_thing() {
    let directory = directory(&[("a.yaml", WEB.as_bytes()), ("b.yaml", WEB.as_bytes())]);
    let wanted = "b.yaml:2:7: name: Container web is already described at a.yaml:2:7";
    assert_eq!(refusal(directory.path()), wanted);
}

#[test]
fn the_errors_of_all_files_are_reported_together() {
    let directory = directory(&[("a.yaml", b"kind: Volume\nname: a"), ("b.json", b"{")]);
    let wanted = "a.yaml:1:1: size: it is missing; write a size, such as 10GiB\n\
                  b.json:1:2: this is not valid JSON: expected a key in double quotes, found the end";
    assert_eq!(refusal(directory.path()), wanted);
}

#[test]
fn what_cannot_be_read_is_named() {
    let directory = directory(&[]);
    assert!(refusal(directory.path()).starts_with("DIR has no *.yaml"));
    let missing = load(&directory.path().join("none.yaml"));
    assert!(matches!(missing, Err(LoadError::Read { .. })), "{missing:?}");
}

#[test]
fn a_file_that_is_no_utf8_says_where() {
    let directory =
        directory(&[("a.yaml", b"kind: \xff"), ("b.yaml", b"\xff\xfek\0"), ("c.yaml", b"\n\xc3\xa9\xc3(")]);
    let refused = |name| refusal(&directory.path().join(name));
    assert_eq!(refused("a.yaml"), "a.yaml:1:7: the byte 0xFF is not UTF-8; save the file as UTF-8");
    assert_eq!(refused("b.yaml"), "b.yaml:1:1: the file is in UTF-16; save it as UTF-8");
    assert_eq!(refused("c.yaml"), "c.yaml:2:2: the byte 0xC3 is not UTF-8; save the file as UTF-8");
}

#[test]
fn a_file_that_never_ends_is_refused() {
    let error = load(Path::new("/dev/zero")).unwrap_err().to_string();
    assert!(error.contains("more than 4 MiB"), "{error}");
}
