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

/// As it is written: a volume's fields stand at the top, and names of enums are short.
fn on_paper(manifest: &v1::Manifest) -> Value {
    let mut value = serde_json::to_value(manifest).unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        if let Some(Value::Object(volume)) = object.remove("volume") {
            object.extend(volume);
        }
        // Labels may have any key, and so are left alone.
        object.iter_mut().filter(|(key, _)| *key != "labels").for_each(|(key, value)| shorten(key, value));
    }
    value
}

/// `NETWORK_MODE_HOST` as `host`, wherever the field of this key holds one.
fn shorten(key: &str, value: &mut Value) {
    match value {
        Value::Object(fields) => fields.iter_mut().for_each(|(key, value)| shorten(key, value)),
        Value::Array(items) => items.iter_mut().for_each(|item| shorten(key, item)),
        Value::String(name) => {
            let short = match key {
                "kind" => v1::Kind::from_str_name(name).map(|kind| kind.to_string()),
                "networkMode" => v1::NetworkMode::from_str_name(name).map(|mode| mode.to_string()),
                "protocol" => v1::Protocol::from_str_name(name).map(|protocol| protocol.to_string()),
                "restartPolicy" => v1::RestartPolicy::from_str_name(name).map(|policy| policy.to_string()),
                "backend" => v1::MicroVmBackend::from_str_name(name).map(|backend| backend.to_string()),
                _ => None,
            };
            if let Some(short) = short {
                *name = short;
            }
        }
        _ => {}
    }
}

fn compare(path: &str, old: &Value, new: &Value, found: &mut Vec<v1::FieldChange>) {
    let empty = Value::Object(Map::new());
    let none = Value::Array(Vec::new());
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => objects(path, old, new, found),
        // A block that is there and says nothing: `fabric: {}` is not the same as no fabric.
        (Value::Null, Value::Object(fields)) | (Value::Object(fields), Value::Null) if fields.is_empty() => {
            found.push(v1::FieldChange { path: path.to_owned(), old: text(old), new: text(new) });
        }
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
    fn an_empty_block_is_a_change() {
        let mut new = web("a:1", None);
        if let Some(Spec::Container(spec)) = &mut new.spec {
            spec.fabric = Some(v1::FabricSpec::default());
        }
        let changes = changes(Some(&web("a:1", None)), &new);
        let lines: Vec<_> = changes.iter().map(|c| format!("{}: {} {}", c.path, c.old, c.new)).collect();
        assert_eq!(lines, ["container.fabric:  {}"]);
    }

    #[test]
    fn enums_are_named_as_a_manifest_names_them() {
        let mut new = web("a:1", None);
        new.labels.insert("protocol".into(), "PROTOCOL_UDP".into());
        if let Some(Spec::Container(spec)) = &mut new.spec {
            spec.set_network_mode(v1::NetworkMode::Host);
            spec.set_restart_policy(v1::RestartPolicy::OnFailure);
            spec.ports[0].set_protocol(v1::Protocol::Udp);
        }
        let changes = changes(None, &new);
        let of = |path: &str| changes.iter().find(|c| c.path == path).map(|c| c.new.as_str());
        assert_eq!(of("kind"), Some(r#""Container""#));
        assert_eq!(of("container.networkMode"), Some(r#""host""#));
        assert_eq!(of("container.restartPolicy"), Some(r#""on-failure""#));
        assert_eq!(of("container.ports[0].protocol"), Some(r#""udp""#));
        assert_eq!(of("labels.protocol"), Some(r#""PROTOCOL_UDP""#), "a label is nobody's enum");
    }

    #[test]
    fn a_volumes_size_stands_at_the_top() {
        let volume =
            |size| v1::Manifest { spec: Some(Spec::Volume(v1::VolumeSpec { size })), ..Default::default() };
        assert_eq!(changes(Some(&volume(1)), &volume(2))[0].path, "size");
    }
}
