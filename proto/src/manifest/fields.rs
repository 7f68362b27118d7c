//! Reads nodes as messages, along their descriptors.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
};

use prost_reflect::{
    DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage as _,
    Value,
};

use super::{
    error::{Place, Problem},
    form::{self, Form},
    scalar::{Meaning, Scalar},
    source::MAX_ERRORS,
    suggest,
    tree::{Entry, Node, Value as NodeValue},
};
use crate::{Size, parse_duration};

/// Reads the fields of one document; keeps where each stands and what is wrong.
#[derive(Default)]
pub(super) struct Walker {
    pub(super) problems: Vec<Problem>,
    places: BTreeMap<String, Place>,
}

/// The field of `message` that `key` names, in lowerCamelCase or snake_case.
pub(super) fn find(message: &MessageDescriptor, key: &str) -> Option<FieldDescriptor> {
    message.get_field_by_json_name(key).or_else(|| message.get_field_by_name(key))
}

/// `path.key`, or `key` at the top.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

impl Walker {
    /// Where the field `path` stands, or what it would be part of.
    pub(super) fn place(&self, path: &str) -> Option<Place> {
        let mut path = path;
        loop {
            if let Some(place) = self.places.get(path) {
                return Some(*place);
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }

    /// Notes that `entry` is the field `path`; false where another entry is already.
    pub(super) fn note(&mut self, path: &str, entry: &Entry) -> bool {
        let at = match entry.value.value {
            NodeValue::Scalar(_) => entry.value.at,
            NodeValue::List(_) | NodeValue::Map(_) => entry.key_at,
        };
        let Some(first) = self.places.insert(path.to_owned(), at) else { return true };
        let message = format!("this field is already set in line {}; keep one", first.line);
        self.refuse(path, entry.key_at, message);
        false
    }

    pub(super) fn refuse(&mut self, path: &str, at: Place, message: impl Into<String>) {
        self.problems.push(Problem::of(path, at, message));
    }

    /// `entry` is no field of what is at `path`, where the fields are `known`.
    pub(super) fn refuse_unknown(&mut self, path: &str, entry: &Entry, known: &[&str]) {
        let meant = suggest::nearest(&entry.key, known);
        let message = match meant {
            Some(meant) => format!("unknown field; did you mean {meant}?"),
            None => format!("unknown field; known here: {}", known.join(", ")),
        };
        let mut problem = Problem::of(&join(path, &shortened(&entry.key)), entry.key_at, message);
        problem.meant = meant.map(|meant| join(path, meant));
        self.problems.push(problem);
    }

    /// Reads `node` as a message; what is wrong with it is left out.
    fn message(&mut self, of: &MessageDescriptor, node: &Node, path: &str) -> Option<DynamicMessage> {
        let NodeValue::Map(entries) = &node.value else {
            self.refuse(path, node.at, format!("expected a map of fields, found {}", node.describe()));
            return None;
        };
        let mut message = DynamicMessage::new(of.clone());
        for entry in entries {
            self.field(&mut message, entry, path);
        }
        Some(message)
    }

    /// Reads `entry` as a field of `message`, which is at `path`.
    pub(super) fn field(&mut self, message: &mut DynamicMessage, entry: &Entry, path: &str) {
        if self.problems.len() > MAX_ERRORS {
            return;
        }
        let of = message.descriptor();
        let Some(field) = find(&of, &entry.key) else {
            let fields: Vec<FieldDescriptor> = of.fields().collect();
            let known: Vec<&str> = fields.iter().map(FieldDescriptor::json_name).collect();
            return self.refuse_unknown(path, entry, &known);
        };
        let path = join(path, field.json_name());
        if !self.note(&path, entry) || entry.value.is_null() {
            return;
        }
        if let Some(other) = rival(message, &field) {
            let message = format!("only one of {other} and {} can be set", field.json_name());
            return self.refuse(&path, entry.key_at, message);
        }
        if let Some(value) = self.value(&field, &entry.value, &path) {
            message.set_field(&field, value);
        }
    }

    fn value(&mut self, field: &FieldDescriptor, node: &Node, path: &str) -> Option<Value> {
        match (form::form(field), &node.value) {
            (Form::Env, NodeValue::Map(entries)) => Some(self.env(field, entries, path)),
            _ if field.is_map() => self.map(node, path),
            _ if field.is_list() => self.list(field, node, path),
            _ => self.single(field, node, path),
        }
    }

    /// An `env` that is written as a map: the order is kept.
    fn env(&mut self, field: &FieldDescriptor, entries: &[Entry], path: &str) -> Value {
        let mut variables = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let path = format!("{path}[{index}]");
            self.places.insert(format!("{path}.name"), entry.key_at);
            self.note(&path, entry);
            let Kind::Message(of) = field.kind() else { continue };
            let mut variable = DynamicMessage::new(of);
            variable.set_field_by_name("name", Value::String(entry.key.clone()));
            if let Some(text) = self.text(&entry.value, &join("env", &shortened(&entry.key))) {
                variable.set_field_by_name("value", Value::String(text));
            }
            variables.push(Value::Message(variable));
        }
        Value::List(variables)
    }

    /// A map of texts.
    fn map(&mut self, node: &Node, path: &str) -> Option<Value> {
        let NodeValue::Map(entries) = &node.value else {
            self.refuse(
                path,
                node.at,
                format!("expected a map of names to texts, found {}", node.describe()),
            );
            return None;
        };
        let mut map = HashMap::new();
        for entry in entries {
            let path = join(path, &entry.key);
            self.note(&path, entry);
            if let Some(text) = self.text(&entry.value, &path) {
                map.insert(MapKey::String(entry.key.clone()), Value::String(text));
            }
        }
        Some(Value::Map(map))
    }

    fn list(&mut self, field: &FieldDescriptor, node: &Node, path: &str) -> Option<Value> {
        let NodeValue::List(items) = &node.value else {
            let hint = match &node.value {
                NodeValue::Scalar(scalar) if field.kind() == Kind::String && scalar.text().len() <= 40 => {
                    format!("; write [{}]", super::text::inline(scalar.text()))
                }
                _ => String::new(),
            };
            self.refuse(path, node.at, format!("expected a list, found {}{hint}", node.describe()));
            return None;
        };
        let mut values = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let path = format!("{path}[{index}]");
            self.places.insert(path.clone(), item.at);
            // What is wrong keeps its place, so that the others keep theirs.
            let value = self.single(field, item, &path);
            values.push(value.unwrap_or_else(|| Value::default_value(&field.kind())));
        }
        Some(Value::List(values))
    }

    fn single(&mut self, field: &FieldDescriptor, node: &Node, path: &str) -> Option<Value> {
        match field.kind() {
            Kind::String => return self.text(node, path).map(Value::String),
            Kind::Message(of) if !form::is_duration(&of) => {
                return self.message(&of, node, path).map(Value::Message);
            }
            _ => {}
        }
        let result = match &node.value {
            NodeValue::Scalar(scalar) => from_scalar(field, scalar),
            _ => Err(format!("expected {}, found {}", expected(field), node.describe())),
        };
        result.map_err(|message| self.refuse(path, node.at, message)).ok()
    }

    /// A text; what looks like a number or a truth stands for its own writing.
    fn text(&mut self, node: &Node, path: &str) -> Option<String> {
        match &node.value {
            NodeValue::Scalar(scalar) if scalar.meaning() != Meaning::Null => Some(scalar.text().to_owned()),
            NodeValue::Scalar(_) => {
                self.refuse(path, node.at, "expected a text, found nothing; write \"\" for an empty one");
                None
            }
            _ => {
                self.refuse(path, node.at, format!("expected a text, found {}", node.describe()));
                None
            }
        }
    }
}

/// A key that is short enough to be shown in a path.
fn shortened(key: &str) -> Cow<'_, str> {
    match key.char_indices().nth(64) {
        Some((at, _)) => format!("{}…", &key[..at]).into(),
        None => key.into(),
    }
}

/// Another field that is set and excludes `field`.
fn rival(message: &DynamicMessage, field: &FieldDescriptor) -> Option<String> {
    let others = field.containing_oneof()?;
    let rival = others.fields().find(|other| other != field && message.has_field(other))?;
    Some(rival.json_name().to_owned())
}

/// What a field takes, in an error's words.
fn expected(field: &FieldDescriptor) -> &'static str {
    match (form::form(field), field.kind()) {
        (Form::Bytes | Form::Mebibytes, _) => "a size such as 512M",
        (_, Kind::Bool) => "true or false",
        (_, Kind::Enum(_)) => "a name",
        (_, Kind::Message(_)) => "a span of time such as 2s",
        _ => "a whole number",
    }
}

fn from_scalar(field: &FieldDescriptor, scalar: &Scalar) -> Result<Value, String> {
    match (form::form(field), field.kind()) {
        (Form::Bytes, _) => size(scalar, Size::from_bytes(1)).map(|size| Value::U64(size.bytes())),
        (Form::Mebibytes, _) => mebibytes(scalar).map(Value::U64),
        (_, Kind::Bool) => scalar.bool().map(Value::Bool),
        (_, Kind::Enum(of)) => enum_number(&of, scalar).map(Value::EnumNumber),
        (_, Kind::Message(of)) => duration(of, scalar).map(Value::Message),
        (_, Kind::Uint32) => integer(scalar, u32::MAX).map(Value::U32),
        (_, Kind::Uint64) => integer(scalar, u64::MAX).map(Value::U64),
        (_, kind) => Err(format!("a manifest cannot hold a {kind:?}")),
    }
}

fn integer<T: TryFrom<i128> + Copy + std::fmt::Display>(scalar: &Scalar, most: T) -> Result<T, String> {
    let number = scalar.integer()?;
    T::try_from(number).map_err(|_| format!("{number} is out of range; it lies between 0 and {most}"))
}

fn size(scalar: &Scalar, unit: Size) -> Result<Size, String> {
    match scalar.meaning() {
        // Also 1e9, which no size has.
        Meaning::Integer(_) => {
            let number: u64 = integer(scalar, u64::MAX)?;
            let bytes = number.checked_mul(unit.bytes()).ok_or_else(|| format!("{number} is too large"))?;
            Ok(Size::from_bytes(bytes))
        }
        Meaning::Null | Meaning::Bool(_) => {
            Err(format!("expected a size such as 512M, found {}", scalar.describe()))
        }
        Meaning::Float(_) | Meaning::Text => {
            Size::parse_in(scalar.text(), unit).map_err(|error| error.to_string())
        }
    }
}

/// Whole MiB.
fn mebibytes(scalar: &Scalar) -> Result<u64, String> {
    // A bare number may be of any size: it is not counted in bytes before it has been checked.
    if let (Meaning::Integer(_), Ok(number)) = (scalar.meaning(), integer(scalar, u64::MAX)) {
        return Ok(number);
    }
    if let (Meaning::Text, Ok(number)) = (scalar.meaning(), scalar.text().parse()) {
        return Ok(number);
    }
    let size = size(scalar, Size::MIB)?;
    let mib = size.bytes() / Size::MIB.bytes();
    if size.bytes() % Size::MIB.bytes() != 0 {
        return Err(format!("{} is not a whole number of MiB; the next is {}MiB", scalar.text(), mib + 1));
    }
    Ok(mib)
}

fn duration(of: MessageDescriptor, scalar: &Scalar) -> Result<DynamicMessage, String> {
    let span = parse_duration(scalar.text()).map_err(|error| error.to_string())?;
    let seconds = i64::try_from(span.as_secs()).map_err(|_| format!("{} is too long", scalar.text()))?;
    let mut message = DynamicMessage::new(of);
    message.set_field_by_name("seconds", Value::I64(seconds));
    message.set_field_by_name("nanos", Value::I32(span.subsec_nanos() as i32));
    Ok(message)
}

fn enum_number(of: &EnumDescriptor, scalar: &Scalar) -> Result<i32, String> {
    let value = match scalar.meaning() {
        Meaning::Integer(number) => i32::try_from(number).ok().and_then(|number| of.get_value(number)),
        _ => form::enum_value(of, scalar.text()),
    };
    value.map(|value| value.number()).ok_or_else(|| {
        let names = form::short_names(of);
        let known: Vec<&str> = names.iter().map(String::as_str).collect();
        let hint = suggest::nearest(scalar.text(), &known).map(|name| format!("; did you mean {name}?"));
        let found = scalar.describe();
        format!("expected one of {}, found {found}{}", names.join(", "), hint.unwrap_or_default())
    })
}
