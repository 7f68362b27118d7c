//! Manifests from `-f`, and what is wrong with them, shown where it is.

use std::{fs, path::PathBuf};

use anyhow::Result;
use capsule_proto::{
    manifest::{LoadError, ManifestError, load_all, shown},
    v1::Manifest,
};

use crate::{failure::usage, output::clean};

/// Reads files, directories and, for `-`, stdin. Nothing at all is an error, because an operator
/// who names a directory expects something in it.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Manifest>> {
    let manifests = load_all(paths).map_err(|error| usage(explain(&error)))?;
    if manifests.is_empty() {
        let named: Vec<_> = paths.iter().map(|path| shown(path)).collect();
        return Err(usage(format!(
            "{} holds no manifest; see docs/manifest.md for their shape",
            named.join(", ")
        )));
    }
    Ok(manifests)
}

fn explain(error: &LoadError) -> String {
    let LoadError::Invalid(errors) = error else { return crate::failure::causes(error) };
    let shown: Vec<String> =
        errors.0.iter().map(|error| with_source(error, line_of(error).as_deref())).collect();
    format!("the manifests cannot be used, and nothing was sent:\n{}", shown.join("\n"))
}

/// The line that an error is about, where its file can be read again.
fn line_of(error: &ManifestError) -> Option<String> {
    let text = fs::read_to_string(&error.file).ok()?;
    text.lines().nth(error.line.checked_sub(1)?).map(str::to_owned)
}

/// The error, and below it the source line with a caret under the column.
fn with_source(error: &ManifestError, line: Option<&str>) -> String {
    let Some(line) = line else { return error.to_string() };
    let line = clean::one_line(line);
    let number = error.line.to_string();
    let blank = " ".repeat(number.len());
    let caret = " ".repeat(error.column.saturating_sub(1).min(line.chars().count()));
    format!("{error}\n{blank} |\n{number} | {line}\n{blank} | {caret}^")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_points_at_its_place() {
        let error = ManifestError {
            file: "web.yaml".into(),
            line: 12,
            column: 3,
            path: "container.imag".into(),
            message: "there is no such field; did you mean image?".into(),
        };
        let expected = "web.yaml:12:3: container.imag: there is no such field; did you mean image?\n   \
                        |\n12 |   imag: x\n   |   ^";
        assert_eq!(with_source(&error, Some("  imag: x")), expected);
        assert_eq!(with_source(&error, None), error.to_string());
    }
}
