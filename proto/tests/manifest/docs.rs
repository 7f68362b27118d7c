//! The reference is true: it names every field, and its examples are read.

use std::{collections::BTreeSet, fs};

use capsule_proto::{
    DESCRIPTORS,
    manifest::{load, parse},
};
use prost_reflect::{DescriptorPool, Kind, MessageDescriptor};

fn reference() -> String {
    fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/manifest.md")).unwrap()
}

/// `message` and every message of the API in it.
fn collect(message: &MessageDescriptor, found: &mut BTreeSet<String>, fields: &mut BTreeSet<String>) {
    let is_ours = message.package_name() == "capsule.v1" && !message.is_map_entry();
    if !is_ours || !found.insert(message.full_name().to_owned()) {
        return;
    }
    for field in message.fields() {
        fields.insert(field.json_name().to_owned());
        if let Kind::Message(inner) = field.kind() {
            collect(&inner, found, fields);
        }
    }
}

#[test]
fn every_field_of_a_manifest_is_in_the_reference() {
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let (mut messages, mut fields) = (BTreeSet::new(), BTreeSet::new());
    collect(&pool.get_message_by_name("capsule.v1.Manifest").unwrap(), &mut messages, &mut fields);
    let text = reference();
    let missing: Vec<&String> = fields.iter().filter(|field| !text.contains(&format!("`{field}`"))).collect();
    assert!(fields.len() > 40, "{fields:?}");
    assert!(missing.is_empty(), "docs/manifest.md does not mention {missing:?}");
}

#[test]
fn the_example_manifests_are_read() {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples");
    assert!(!load(examples.as_ref()).unwrap_or_else(|error| panic!("{error}")).is_empty());
}

#[test]
fn every_example_of_the_reference_is_read() {
    let text = reference();
    let mut count = 0;
    for block in text.split("```").skip(1).step_by(2) {
        let (language, example) = block.split_once('\n').unwrap_or_default();
        if matches!(language, "yaml" | "json") {
            parse(&format!("example.{language}"), example)
                .unwrap_or_else(|errors| panic!("{errors}\n{example}"));
            count += 1;
        }
    }
    assert!(count >= 8, "only {count} examples");
}
