//! A document as nodes that know where they stand.

use std::collections::HashMap;

use super::{
    error::{Place, Problem},
    scalar::Scalar,
};

/// Deepest nesting of lists and maps; a manifest needs seven.
const MAX_DEPTH: usize = 32;

/// The documents of a text and what is wrong with its syntax.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) documents: Vec<Node>,
    pub(super) problems: Vec<Problem>,
}

/// A value and where it begins.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) at: Place,
    pub(super) value: Value,
}

/// What a node is.
#[derive(Debug)]
pub(super) enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key, where it stands, and its value.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_at: Place,
    pub(super) value: Node,
}

impl Node {
    /// Whether it stands for no value.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(scalar) if scalar.is_null())
    }

    /// The node in an error's words.
    pub(super) fn describe(&self) -> String {
        match &self.value {
            Value::Scalar(scalar) => scalar.describe(),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "a map".into(),
        }
    }
}

/// A list or map that has not ended.
enum Open {
    List { at: Place, items: Vec<Node> },
    Map { at: Place, entries: Vec<Entry>, keys: HashMap<String, Place>, key: Option<Key> },
}

/// A key whose value comes next.
struct Key {
    text: String,
    at: Place,
    repeated: bool,
}

/// Builds a [`Tree`] from the events of a parser, without recursion.
#[derive(Default)]
pub(super) struct Builder {
    tree: Tree,
    open: Vec<Open>,
}

impl Builder {
    /// A scalar: a key where one is due, else a value.
    pub(super) fn scalar(&mut self, at: Place, scalar: Scalar) {
        match self.open.last_mut() {
            Some(Open::Map { keys, key: key @ None, .. }) => {
                let first = keys.get(scalar.text()).copied();
                if let Some(first) = first {
                    let message = format!(
                        "the key {:?} is already set in line {}; keep one",
                        scalar.text(),
                        first.line
                    );
                    self.tree.problems.push(Problem::new(at, message));
                } else {
                    keys.insert(scalar.text().to_owned(), at);
                }
                *key = Some(Key { text: scalar.into_text(), at, repeated: first.is_some() });
            }
            // A value that is not there has no place of its own: its key has.
            Some(Open::Map { key: Some(Key { at: key_at, .. }), .. }) if scalar.is_absent() => {
                let at = *key_at;
                self.node(Node { at, value: Value::Scalar(scalar) });
            }
            _ => self.node(Node { at, value: Value::Scalar(scalar) }),
        }
    }

    /// A list begins.
    pub(super) fn open_list(&mut self, at: Place) -> Result<(), Problem> {
        self.check_nesting(at)?;
        self.open.push(Open::List { at, items: Vec::new() });
        Ok(())
    }

    /// A map begins.
    pub(super) fn open_map(&mut self, at: Place) -> Result<(), Problem> {
        self.check_nesting(at)?;
        self.open.push(Open::Map { at, entries: Vec::new(), keys: HashMap::new(), key: None });
        Ok(())
    }

    /// The innermost list or map ends.
    pub(super) fn close(&mut self) {
        match self.open.pop() {
            Some(Open::List { at, items }) => self.node(Node { at, value: Value::List(items) }),
            Some(Open::Map { at, entries, .. }) => self.node(Node { at, value: Value::Map(entries) }),
            None => {}
        }
    }

    /// What has been built; with the problem that ended it early.
    pub(super) fn finish(mut self, problem: Option<Problem>) -> Tree {
        self.tree.problems.extend(problem);
        self.tree
    }

    fn check_nesting(&self, at: Place) -> Result<(), Problem> {
        if self.open.len() >= MAX_DEPTH {
            return Err(Problem::new(at, format!("lists and maps are nested more than {MAX_DEPTH} deep")));
        }
        match self.open.last() {
            Some(Open::Map { key: None, .. }) => {
                Err(Problem::new(at, "a key is a text, not a list or a map"))
            }
            _ => Ok(()),
        }
    }

    /// Puts a finished node where it belongs.
    fn node(&mut self, node: Node) {
        match self.open.last_mut() {
            None if node.is_null() => {}
            None => self.tree.documents.push(node),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Map { entries, key, .. }) => {
                if let Some(Key { text, at, repeated: false }) = key.take() {
                    entries.push(Entry { key: text, key_at: at, value: node });
                }
            }
        }
    }
}
