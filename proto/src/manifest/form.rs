//! Where paper differs from proto3-JSON, and the short names of enum values.

use std::sync::LazyLock;

use prost_reflect::{
    DescriptorPool, EnumDescriptor, EnumValueDescriptor, FieldDescriptor, MessageDescriptor,
};

use crate::{DESCRIPTORS, display};

/// The API's messages.
static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).expect("protoc wrote the descriptors"));

/// The message `capsule.v1.{name}`.
pub(super) fn message(name: &str) -> MessageDescriptor {
    POOL.get_message_by_name(&format!("capsule.v1.{name}")).expect("build.rs compiles manifest.proto")
}

/// How a field is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As proto3-JSON has it.
    Json,
    /// A map of name to value, or a list of both.
    Env,
    /// A size; a bare number counts bytes.
    Bytes,
    /// A size; a bare number counts MiB.
    Mebibytes,
}

/// How `field` is written.
pub(super) fn form(field: &FieldDescriptor) -> Form {
    match (field.parent_message().name(), field.name()) {
        ("ContainerSpec" | "MicroVmSpec", "env") => Form::Env,
        ("VolumeSpec", "size") => Form::Bytes,
        ("Resources" | "MicroVmSpec", "memory_mib") => Form::Mebibytes,
        _ => Form::Json,
    }
}

/// Whether `message` is a span of time.
pub(super) fn is_duration(message: &MessageDescriptor) -> bool {
    message.full_name() == "google.protobuf.Duration"
}

/// The name of an enum's value as people write it: `on-failure`, `MicroVM`.
pub(super) fn short_name(value: &EnumValueDescriptor) -> String {
    let of = value.parent_enum();
    let default = of.default_value();
    let prefix = default.name().strip_suffix("UNSPECIFIED").unwrap_or_default();
    let name = value.name().strip_prefix(prefix).unwrap_or(value.name());
    if of.name() == "Kind" { display::kind(name) } else { display::kebab(name) }
}

/// The short names that can be written for an enum.
pub(super) fn short_names(of: &EnumDescriptor) -> Vec<String> {
    of.values().filter(|value| value.number() != 0).map(|value| short_name(&value)).collect()
}

/// The value that `text` names: in full, or short in any case and with any dashes.
pub(super) fn enum_value(of: &EnumDescriptor, text: &str) -> Option<EnumValueDescriptor> {
    let loose = |text: &str| text.to_ascii_lowercase().replace(['-', '_'], "");
    let is_meant = |value: &EnumValueDescriptor| {
        value.name() == text || (value.number() != 0 && loose(&short_name(value)) == loose(text))
    };
    of.values().find(is_meant)
}
