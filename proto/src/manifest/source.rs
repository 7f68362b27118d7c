//! From a text to its documents: what holds for YAML and JSON alike.

use std::collections::HashMap;

use super::{
    ManifestError, ManifestErrors,
    document::{self, Document},
    error::{Place, Problem},
    json,
    tree::{Node, Tree, Value},
    yaml,
};

/// Largest text that is read, in bytes.
pub const MAX_BYTES: usize = 4 << 20;

/// Errors that are shown of one text; what has more is read no further.
pub(super) const MAX_ERRORS: usize = 100;

/// Every document of `text`, or everything that is wrong with them.
pub(super) fn documents(file: &str, text: &str) -> Result<Vec<Document>, ManifestErrors> {
    let (mut documents, mut problems) = (Vec::new(), Vec::new());
    match check_text(text) {
        Ok(()) => {
            let tree = read(file, text.strip_prefix('\u{feff}').unwrap_or(text));
            problems.extend(tree.problems);
            for node in tree.documents.iter().flat_map(members) {
                match document::read(node) {
                    Ok(document) => documents.push(document),
                    Err(found) => problems.extend(found),
                }
                if problems.len() > MAX_ERRORS {
                    break;
                }
            }
        }
        Err(problem) => problems.push(problem),
    }
    problems.extend(repeated(&documents));
    if problems.is_empty() { Ok(documents) } else { Err(errors(file, problems)) }
}

/// The documents of a list, or the one document that it is.
fn members(root: &Node) -> &[Node] {
    match &root.value {
        Value::List(items) => items,
        _ => std::slice::from_ref(root),
    }
}

/// JSON is tried first where the text may be some: unlike YAML it joins surrogate escapes and lets
/// values follow each other. What is no JSON may be a flow mapping of YAML.
fn read(file: &str, text: &str) -> Tree {
    let may_be_json = text.trim_start().starts_with(['{', '[']);
    let is_called_json = file.to_ascii_lowercase().ends_with(".json");
    if may_be_json || is_called_json {
        match json::read(text) {
            Ok(tree) => return tree,
            Err(problem) if is_called_json => return Tree { documents: Vec::new(), problems: vec![problem] },
            Err(_) => {}
        }
    }
    yaml::read(text)
}

/// The text is of a size and of characters that YAML and JSON allow.
fn check_text(text: &str) -> Result<(), Problem> {
    if text.len() > MAX_BYTES {
        return Err(Problem::new(Place::START, too_long()));
    }
    let strange = |c: &char| *c < ' ' && !matches!(c, '\n' | '\r' | '\t');
    let Some((offset, found)) = text.char_indices().find(|(_, c)| strange(c)) else { return Ok(()) };
    let message = format!("the control character U+{:04X} is not allowed in a manifest", u32::from(found));
    Err(Problem::new(place_of(text, offset), message))
}

/// A text may have been read no further than the limit, so that its whole size is not known.
pub(super) fn too_long() -> String {
    format!("this has more than {} MiB, which is the most that manifests may have; split it", MAX_BYTES >> 20)
}

/// Line and column of a byte offset, which is at a character's start.
pub(super) fn place_of(text: &str, offset: usize) -> Place {
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    let column = before[line_start..].trim_start_matches('\u{feff}').chars().count() + 1;
    Place { line, column }
}

/// A problem for each document whose kind and name an earlier one has.
fn repeated(documents: &[Document]) -> Vec<Problem> {
    let mut seen = HashMap::new();
    let mut problems = Vec::new();
    for document in documents {
        if let Some(first) = seen.insert(document.identity(), document.at) {
            let message = format!("{} is already described in line {}", document.title(), first.line);
            problems.push(Problem::of("name", document.at, message));
        }
    }
    problems
}

/// The first [`MAX_ERRORS`] problems, in the order of the text.
fn errors(file: &str, mut problems: Vec<Problem>) -> ManifestErrors {
    problems.sort_by_key(|problem| problem.at);
    let is_cut = problems.len() > MAX_ERRORS;
    problems.truncate(MAX_ERRORS);
    let mut errors: Vec<ManifestError> = problems.into_iter().map(|problem| problem.in_file(file)).collect();
    if let Some(last) = errors.last().filter(|_| is_cut).cloned() {
        let message = format!("there are more errors; the first {MAX_ERRORS} are shown");
        errors.push(ManifestError { path: String::new(), message, ..last });
    }
    ManifestErrors(errors)
}
