//! Manifests as an operator can edit and apply them again.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, ReflectMessage as _, Value};

use super::{
    emit::{self, Doc},
    form::{self, Form},
};
use crate::{Size, format_duration, v1};

/// Longest name that is written as a key; YAML takes up to 1024 characters.
const MAX_KEY: usize = 256;

/// The manifest in YAML: [`super::parse`] reads a valid one back as the same.
pub fn to_yaml(manifest: &v1::Manifest) -> String {
    let mut message = DynamicMessage::new(form::message("Manifest"));
    // Both are the same message: what one writes the other reads.
    if message.transcode_from(manifest).is_err() {
        return String::new();
    }
    emit::emit(&fields(&message))
}

/// The fields that are set, in the order of the descriptors.
fn fields(message: &DynamicMessage) -> Vec<(String, Doc)> {
    let mut entries = Vec::new();
    for (field, value) in message.fields() {
        match value {
            // A volume's fields stand at the top.
            Value::Message(volume) if field.full_name() == "capsule.v1.Manifest.volume" => {
                entries.extend(fields(volume));
            }
            value => entries.push((field.json_name().to_owned(), doc(&field, value))),
        }
    }
    entries
}

fn doc(field: &FieldDescriptor, value: &Value) -> Doc {
    match (form::form(field), value) {
        (Form::Bytes, Value::U64(bytes)) => Doc::Plain(Size::from_bytes(*bytes).to_string()),
        (Form::Env, Value::List(variables)) => env(field, variables),
        (_, Value::List(items)) => Doc::List(items.iter().map(|item| doc(field, item)).collect()),
        (_, Value::Map(map)) => {
            let sorted: BTreeMap<String, Doc> = map
                .iter()
                .filter_map(|(key, value)| Some((key.as_str()?.to_owned(), doc(field, value))))
                .collect();
            Doc::Map(sorted.into_iter().collect())
        }
        (_, Value::Message(message)) if form::is_duration(&message.descriptor()) => duration(message),
        (_, Value::Message(message)) => Doc::Map(fields(message)),
        (_, Value::EnumNumber(number)) => enum_name(field, *number),
        (_, Value::String(text)) => Doc::Text(text.clone()),
        (_, Value::Bool(truth)) => Doc::Plain(truth.to_string()),
        (_, Value::U32(number)) => Doc::Plain(number.to_string()),
        (_, Value::U64(number)) => Doc::Plain(number.to_string()),
        (_, other) => Doc::Plain(other.to_string()),
    }
}

/// A map, where each name is set once and can be a key.
fn env(field: &FieldDescriptor, variables: &[Value]) -> Doc {
    let text = |variable: &DynamicMessage, name| {
        let value = variable.get_field_by_name(name);
        value.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
    };
    let pairs: Vec<(String, Doc)> = variables
        .iter()
        .filter_map(Value::as_message)
        .map(|variable| (text(variable, "name"), Doc::Text(text(variable, "value"))))
        .collect();
    let mut seen = HashSet::new();
    if pairs.iter().all(|(name, _)| name.len() <= MAX_KEY && seen.insert(name)) {
        return Doc::Map(pairs);
    }
    Doc::List(variables.iter().map(|variable| doc(field, variable)).collect())
}

fn duration(message: &DynamicMessage) -> Doc {
    let field = |name| message.get_field_by_name(name);
    let seconds = field("seconds").and_then(|value| value.as_i64()).unwrap_or_default();
    let nanos = field("nanos").and_then(|value| value.as_i32()).unwrap_or_default();
    let span = Duration::new(seconds.max(0) as u64, nanos.clamp(0, 999_999_999) as u32);
    Doc::Plain(format_duration(span))
}

fn enum_name(field: &FieldDescriptor, number: i32) -> Doc {
    let Kind::Enum(of) = field.kind() else { return Doc::Plain(number.to_string()) };
    match of.get_value(number) {
        Some(value) if number != 0 => Doc::Plain(form::short_name(&value)),
        Some(value) => Doc::Plain(value.name().to_owned()),
        None => Doc::Plain(number.to_string()),
    }
}
