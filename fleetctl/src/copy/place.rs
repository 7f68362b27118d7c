//! What one argument of `cp` names.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

use crate::reference::WorkloadRef;

/// One end of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A path on this machine.
    Local(PathBuf),
    /// A path in a workload.
    Remote(WorkloadRef, String),
    /// `-`: a tar stream on stdin or stdout.
    Stream,
}

impl Place {
    /// Reads `WORKLOAD[@CAPSULE]:PATH`, `-`, or a local path. Text before a colon that has a `/`
    /// in it, or could name no workload, belongs to a local path: `./a:b`, `/a:b`, `C:\x`.
    pub fn parse(text: &OsStr) -> Result<Self, String> {
        if text == "-" {
            return Ok(Self::Stream);
        }
        let local = || Ok(Self::Local(PathBuf::from(text)));
        let Some(utf8) = text.to_str() else { return local() };
        let Some((before, after)) = split(utf8) else { return local() };
        if before.contains('/') {
            return local();
        }
        match before.parse::<WorkloadRef>() {
            Ok(_) if after.is_empty() => {
                Err(format!("{utf8:?} names no path in the workload; write {before}:/path"))
            }
            Ok(reference) => Ok(Self::Remote(reference, after.to_owned())),
            Err(_) => local(),
        }
    }
}

/// At the colon after the workload; one in `@host:port` or `@[v6]:port` is the address's.
fn split(text: &str) -> Option<(&str, &str)> {
    let colon = text.find(':')?;
    let Some(at) = text[..colon].find('@') else { return Some((&text[..colon], &text[colon + 1..])) };
    let address = &text[at + 1..];
    let from = if address.starts_with('[') { at + 1 + address.find(']')? + 1 } else { colon };
    let rest = text[from..].strip_prefix(':')?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let has_port = digits > 0 && rest[digits..].starts_with(':');
    let colon = if has_port { from + 1 + digits } else { from };
    Some((&text[..colon], &text[colon + 1..]))
}

/// The name that an archive's root takes from the path it was made of: its last component, or `.`
/// where the path means a directory's content (`dir/.`, `/`, `..`).
pub fn root_name(path: &Path) -> PathBuf {
    use std::os::unix::ffi::OsStrExt as _;
    let bytes = path.as_os_str().as_bytes();
    let is_content = bytes.ends_with(b"/.") || bytes == b".";
    match path.file_name() {
        Some(name) if !is_content => PathBuf::from(name),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    fn parse(text: &str) -> Place {
        Place::parse(OsStr::new(text)).unwrap()
    }

    fn remote(reference: &str, path: &str) -> Place {
        Place::Remote(reference.parse().unwrap(), path.into())
    }

    #[test]
    fn a_workload_before_the_colon_makes_a_place_remote() {
        assert_eq!(parse("web:/etc/x"), remote("web", "/etc/x"));
        assert_eq!(parse("web:a:b"), remote("web", "a:b"));
        assert_eq!(parse("web@nuc-1:/x"), remote("web@nuc-1", "/x"));
        assert_eq!(parse("web@10.0.0.1:50000:/x"), remote("web@10.0.0.1:50000", "/x"));
        assert_eq!(parse("web@[fd00::1]:50000:/x"), remote("web@[fd00::1]:50000", "/x"));
    }

    #[test]
    fn all_else_is_local() {
        for text in ["./a:b", "/a:b", "a/b:c", "C:\\x", "Web:/x", "file", "a b:c"] {
            assert_eq!(parse(text), Place::Local(text.into()), "{text}");
        }
        let odd = OsStr::from_bytes(b"web\xff:/x");
        assert_eq!(Place::parse(odd), Ok(Place::Local(odd.into())));
        assert_eq!(parse("-"), Place::Stream);
    }

    #[test]
    fn a_workload_without_a_path_is_refused() {
        assert!(Place::parse(OsStr::new("web:")).unwrap_err().contains("web:/path"));
    }

    #[test]
    fn a_root_is_named_after_its_last_component() {
        for (path, name) in [("a/b", "b"), ("a/b/", "b"), ("a/.", "."), (".", "."), ("/", "."), ("..", ".")] {
            assert_eq!(root_name(Path::new(path)), Path::new(name), "{path}");
        }
    }
}
