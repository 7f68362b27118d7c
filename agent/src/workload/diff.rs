//! What changed between two manifests, field by field, in the words of a manifest.

use capsule_proto::v1;
use serde_json::{Map, Value};

/// Leaves that differ, in the order of their paths; `old` is `None` for a new workload.
pub(super) fn changes(old: Option<&v1::Manifest>, new: &v1::Manifest) -> Vec<v1::FieldChange> {
    let mut found = Vec::new();
    let old = old.map_or(Value::Null, on_paper);
    compare("", &old, &on_paper(new), &mut found);
    found
}

/// As it is written: a volume's fields stand at the top.
fn on_paper(manifest: &v1::Manifest) -> Value {
    let mut value = serde_json::to_value(manifest).unwrap_or_default();
    if let Some(object) = value.as_object_mut()
        && let Some(Value::Object(volume)) = object.remove("volume")
    {
        object.extend(volume);
    }
    value
}

fn compare(path: &str, old: &Value, new: &Value, found: &mut Vec<v1::FieldChange>) {
    let empty = Value::Object(Map::new());
    let none = Value::Array(Vec::new());
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => objects(path, old, new, found),
        (Value::Null, Value::Object(_)) => compare(path, &empty, new, found),
        (Value::Object(_), Value::Null) => compare(path, old, &empty, found),
        (Value::Array(old), Value::Array(new)) => arrays(path, old, new, found),
        (Value::Null, Value::Array(_)) => compare(path, &none, new, found),
        (Value::Array(_), Value::Null) => compare(path, old, &none, found),
        _ if old == new => {}
        _ => found.push(v1::FieldChange { path: path.to_owned(), old: text(old), new: text(new) }),
    }
}

fn objects(path: &str, old: &Map<String, Value>, new: &Map<String, Value>, found: &mut Vec<v1::FieldChange>) {
    let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let null = Value::Null;
        compare(&below, old.get(key).unwrap_or(&null), new.get(key).unwrap_or(&null), found);
    }
}

fn arrays(path: &str, old: &[Value], new: &[Value], found: &mut Vec<v1::FieldChange>) {
    for at in 0..old.len().max(new.len()) {
        let null = Value::Null;
        let below = format!("{path}[{at}]");
        compare(&below, old.get(at).unwrap_or(&null), new.get(at).unwrap_or(&null), found);
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use capsule_proto::v1::manifest::Spec;

    use super::*;

    fn web(image: &str, host_port: Option<u32>) -> v1::Manifest {
        v1::Manifest {
            kind: v1::Kind::Container as i32,
            name: "web".into(),
            spec: Some(Spec::Container(v1::ContainerSpec {
                image: image.into(),
                ports: vec![v1::Port { container_port: 80, host_port, ..Default::default() }],
                ..Default::default()
            })),
            ..Default::default()
        }
    }

    #[test]
    fn a_changed_leaf_is_named_by_its_path_on_paper() {
        let changes = changes(Some(&web("a:1", None)), &web("a:2", Some(8080)));
        let lines: Vec<_> = changes.iter().map(|c| format!("{} {} {}", c.path, c.old, c.new)).collect();
        assert_eq!(
            lines,
            [r#"container.image "a:1" "a:2""#.to_owned(), "container.ports[0].hostPort  8080".to_owned()]
        );
    }

    #[test]
    fn a_new_workload_shows_every_leaf_and_an_equal_one_none() {
        let new = changes(None, &web("a:1", None));
        assert!(new.iter().all(|change| change.old.is_empty()));
        assert!(new.iter().any(|change| change.path == "container.image"));
        assert!(changes(Some(&web("a:1", None)), &web("a:1", None)).is_empty());
    }

    #[test]
    fn a_volumes_size_stands_at_the_top() {
        let volume =
            |size| v1::Manifest { spec: Some(Spec::Volume(v1::VolumeSpec { size })), ..Default::default() };
        assert_eq!(changes(Some(&volume(1)), &volume(2))[0].path, "size");
    }
}
