//! What is refused before anything changes and without asking the store.

use std::collections::HashSet;

use capsule_proto::{Name, v1};

use super::{WorkloadError, needs::ImageSource, spec};

/// A manifest that passed: its name parsed, its defaults filled in.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub name: Name,
    pub manifest: v1::Manifest,
}

impl Wanted {
    pub fn is_volume(&self) -> bool {
        self.manifest.kind() == v1::Kind::Volume
    }
}

/// All of them, or every reason why not.
pub(super) fn check(
    manifests: Vec<v1::Manifest>,
    images: &dyn ImageSource,
) -> Result<Vec<Wanted>, WorkloadError> {
    let mut wrong = Vec::new();
    let mut seen = HashSet::new();
    let mut wanted = Vec::new();
    for manifest in manifests {
        let shown = label(&manifest);
        wrong.extend(
            capsule_proto::validate(&manifest)
                .into_iter()
                .map(|violation| format!("{shown}: {}: {}", violation.path, violation.message)),
        );
        if manifest.kind() == v1::Kind::MicroVm {
            return Err(WorkloadError::NoMicroVm(shown));
        }
        if let Some(spec) = spec::container(&manifest)
            && let Err(error) = images.parse(&spec.image)
        {
            wrong.push(format!("{shown}: container.image: {error}"));
        }
        match manifest.name.parse::<Name>() {
            Ok(name) if !seen.insert((manifest.kind, name.clone())) => {
                wrong.push(format!("{shown}: it stands twice in this apply; keep one"));
            }
            Ok(name) => wanted.push(Wanted { name, manifest: spec::normalise(manifest) }),
            Err(error) => wrong.push(format!("{shown}: name: {error}")),
        }
    }
    wrong.dedup();
    if wrong.is_empty() { Ok(wanted) } else { Err(WorkloadError::Invalid(wrong.join("\n"))) }
}

fn label(manifest: &v1::Manifest) -> String {
    let kind = match manifest.kind() {
        v1::Kind::Volume => "Volume",
        v1::Kind::MicroVm => "MicroVM",
        _ => "Container",
    };
    format!("{kind} {}", manifest.name)
}
