//! One document: its kind, its name and the body that fits the kind.

use prost_reflect::{DynamicMessage, FieldDescriptor, ReflectMessage as _, Value};

use super::{
    error::{Place, Problem},
    fields::{self, Walker},
    form,
    source::MAX_ERRORS,
    tree::{Entry, Node, Value as NodeValue},
};
use crate::{v1, validate};

/// A manifest and where it is described.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) manifest: v1::Manifest,
    /// Of its name, or of its beginning.
    pub(super) at: Place,
}

impl Document {
    /// What no two documents may share.
    pub(super) fn identity(&self) -> (i32, String) {
        (self.manifest.kind, self.manifest.name.clone())
    }

    /// `Container web`.
    pub(super) fn title(&self) -> String {
        format!("{} {}", self.manifest.kind(), self.manifest.name)
    }
}

/// Reads one document, or says everything that is wrong with it.
pub(super) fn read(node: &Node) -> Result<Document, Vec<Problem>> {
    let NodeValue::Map(entries) = &node.value else {
        let message = format!("expected a manifest with kind and name, found {}", node.describe());
        return Err(vec![Problem::new(node.at, message)]);
    };
    if let Some(problem) = foreign(node, entries) {
        return Err(vec![problem]);
    }
    let mut reader = Reader::new(kind_of(entries));
    for entry in entries {
        reader.entry(entry);
    }
    reader.finish(node.at)
}

/// Says of another program's file what it is, instead of all that is wrong with it here.
fn foreign(node: &Node, entries: &[Entry]) -> Option<Problem> {
    let has = |key: &str| entries.iter().any(|entry| entry.key == key);
    let whose = if has("apiVersion") {
        "this is a manifest for Kubernetes"
    } else if has("services") && !has("kind") {
        "this is a file for docker compose"
    } else {
        return None;
    };
    let message = format!(
        "{whose}; a capsule takes one document for each container, with kind: Container, name and container: at \
         its top (docs/manifest.md)"
    );
    Some(Problem::new(node.at, message))
}

/// The kind that the document names, if it is one.
fn kind_of(entries: &[Entry]) -> Option<v1::Kind> {
    let node = &entries.iter().find(|entry| entry.key == "kind")?.value;
    let NodeValue::Scalar(scalar) = &node.value else { return None };
    let kind = form::message("Manifest").get_field_by_name("kind")?.kind();
    let number = form::enum_value(kind.as_enum()?, scalar.text())?.number();
    v1::Kind::try_from(number).ok().filter(|kind| *kind != v1::Kind::Unspecified)
}

/// The field that holds the body of a kind.
fn body_name(kind: v1::Kind) -> &'static str {
    match kind {
        v1::Kind::MicroVm => "microVm",
        v1::Kind::Volume => "volume",
        v1::Kind::Container | v1::Kind::Unspecified => "container",
    }
}

struct Reader {
    kind: Option<v1::Kind>,
    walker: Walker,
    manifest: DynamicMessage,
    /// A volume's fields stand at the top.
    volume: DynamicMessage,
}

impl Reader {
    fn new(kind: Option<v1::Kind>) -> Self {
        let manifest = DynamicMessage::new(form::message("Manifest"));
        Self {
            kind,
            walker: Walker::default(),
            manifest,
            volume: DynamicMessage::new(form::message("VolumeSpec")),
        }
    }

    fn entry(&mut self, entry: &Entry) {
        let may_be_volume = self.kind.is_none_or(|kind| kind == v1::Kind::Volume);
        if self.walker.problems.len() > MAX_ERRORS {
            return;
        }
        match fields::find(&self.manifest.descriptor(), &entry.key) {
            Some(field) if self.is_other_body(&field) => self.refuse_body(&field, entry),
            Some(field) if field.name() == "volume" => self.volume_body(entry),
            Some(_) => self.walker.field(&mut self.manifest, entry, ""),
            None if may_be_volume && fields::find(&self.volume.descriptor(), &entry.key).is_some() => {
                self.walker.field(&mut self.volume, entry, "");
            }
            None => self.refuse_unknown(entry),
        }
    }

    /// Whether `field` is a body and not the one of this kind.
    fn is_other_body(&self, field: &FieldDescriptor) -> bool {
        self.kind
            .is_some_and(|kind| field.containing_oneof().is_some() && field.json_name() != body_name(kind))
    }

    fn refuse_body(&mut self, field: &FieldDescriptor, entry: &Entry) {
        let Some(kind) = self.kind else { return };
        let takes = match kind {
            v1::Kind::Volume => "its size at the top",
            kind => body_name(kind),
        };
        let name = field.json_name();
        let message = format!("a {kind} has no {name}; it takes {takes}, or another kind");
        self.walker.refuse(name, entry.key_at, message);
    }

    /// `volume: {…}`, as proto3-JSON has it: the same as its fields at the top.
    fn volume_body(&mut self, entry: &Entry) {
        match &entry.value.value {
            NodeValue::Map(fields) => {
                for field in fields {
                    self.walker.field(&mut self.volume, field, "");
                }
            }
            _ if entry.value.is_null() => {}
            _ => {
                let message = format!("expected a map of fields, found {}", entry.value.describe());
                self.walker.refuse("volume", entry.value.at, message);
            }
        }
    }

    fn refuse_unknown(&mut self, entry: &Entry) {
        let body = self.kind.map_or("container", body_name);
        let message = form::message(if body == "microVm" { "MicroVmSpec" } else { "ContainerSpec" });
        if body != "volume" && fields::find(&message, &entry.key).is_some() {
            let text = format!("it belongs below {body}: indent it there");
            let mut problem = Problem::of(&entry.key, entry.key_at, text);
            problem.meant = Some(body.to_owned());
            return self.walker.problems.push(problem);
        }
        let mut known = vec!["kind", "name", "labels"];
        match self.kind {
            Some(v1::Kind::Volume) => known.push("size"),
            Some(kind) => known.push(body_name(kind)),
            None => known.extend(["container", "microVm", "size"]),
        }
        self.walker.refuse_unknown("", entry, &known);
    }

    /// The manifest, if nothing is wrong with it.
    fn finish(mut self, begin: Place) -> Result<Document, Vec<Problem>> {
        let has_volume = self.volume.fields().next().is_some();
        if has_volume || self.kind == Some(v1::Kind::Volume) {
            self.manifest.set_field_by_name("volume", Value::Message(self.volume));
        }
        let at = self.walker.place("name").unwrap_or(begin);
        let mut problems = std::mem::take(&mut self.walker.problems);
        let manifest: v1::Manifest = match self.manifest.transcode_to() {
            Ok(manifest) => manifest,
            Err(error) => {
                problems.push(Problem::new(begin, error.to_string()));
                return Err(problems);
            }
        };
        let violations = validate(&manifest).into_iter();
        let violations: Vec<Problem> = violations
            .filter(|violation| !problems.iter().any(|problem| problem.explains(&violation.path)))
            .map(|v| Problem::of(&v.path, self.walker.place(&v.path).unwrap_or(begin), v.message))
            .collect();
        problems.extend(violations);
        if problems.is_empty() { Ok(Document { manifest, at }) } else { Err(problems) }
    }
}
