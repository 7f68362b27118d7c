//! The grammar of the distribution project's `reference` package, by hand: as a regular expression
//! it compiles to an automaton of five MiB, which an agent would keep for as long as it runs.

use oci_client::{ParseError, Reference};

const HUB: &str = "docker.io";
const HUB_LEGACY: &str = "index.docker.io";
/// The hub keeps images without an owner here.
const HUB_OFFICIAL: &str = "library";
const DEFAULT_TAG: &str = "latest";
/// Of a repository, in characters.
const REPOSITORY_MAX: usize = 255;
/// Of a tag, in characters.
const TAG_MAX: usize = 128;
/// Fewer hex digits than this are no digest of any algorithm.
const DIGEST_HEX_MIN: usize = 32;

/// `[HOST[:PORT]/]PATH[/PATH]…[:TAG][@DIGEST]`, filled in as docker does.
pub(super) fn parse(text: &str) -> Result<Reference, ParseError> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(check_digest(digest)?)),
        None => (text, None),
    };
    // A colon before the last slash is a port's.
    let path = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[path..].split_once(':') {
        Some((last, tag)) => (&rest[..path + last.len()], Some(tag)),
        None => (rest, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err(ParseError::ReferenceInvalidFormat);
    }
    let (registry, repository) = split_name(name)?;
    Ok(match (tag.map(str::to_owned), digest.map(str::to_owned)) {
        (Some(tag), Some(digest)) => Reference::with_tag_and_digest(registry, repository, tag, digest),
        (None, Some(digest)) => Reference::with_digest(registry, repository, digest),
        (tag, None) => {
            Reference::with_tag(registry, repository, tag.unwrap_or_else(|| DEFAULT_TAG.to_owned()))
        }
    })
}

/// What may follow a colon.
pub(super) fn is_tag(tag: &str) -> bool {
    (1..=TAG_MAX).contains(&tag.len())
        && !tag.starts_with(['.', '-'])
        && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

fn split_name(name: &str) -> Result<(String, String), ParseError> {
    let is_host = |part: &str| part.contains(['.', ':']) || part == "localhost";
    let (registry, path) = name.split_once('/').filter(|(first, _)| is_host(first)).unwrap_or((HUB, name));
    if !is_domain(registry) || !path.split('/').all(is_component) {
        return Err(ParseError::ReferenceInvalidFormat);
    }
    let registry = if registry == HUB_LEGACY { HUB } else { registry };
    let repository = if registry == HUB && !path.contains('/') {
        format!("{HUB_OFFICIAL}/{path}")
    } else {
        path.to_owned()
    };
    if repository.len() > REPOSITORY_MAX {
        return Err(ParseError::NameTooLong);
    }
    Ok((registry.to_owned(), repository))
}

fn is_domain(text: &str) -> bool {
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    host.split('.').all(label) && port.is_none_or(is_port)
}

/// Lower-case words, joined by `.`, `_`, `__` or any number of `-`.
fn is_component(text: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_joint = |joint: &str| matches!(joint, "." | "_" | "__") || joint.bytes().all(|byte| byte == b'-');
    let ends_well = text.starts_with(is_word) && text.ends_with(is_word);
    ends_well && text.split(is_word).all(is_joint)
}

fn check_digest(digest: &str) -> Result<&str, ParseError> {
    let (algorithm, hex) = digest.split_once(':').ok_or(ParseError::ReferenceInvalidFormat)?;
    if hex.len() < DIGEST_HEX_MIN || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(ParseError::ReferenceInvalidFormat);
    }
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err(ParseError::DigestUnsupported),
    };
    if hex.len() == length { Ok(digest) } else { Err(ParseError::DigestInvalidLength) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_the_library_takes_for_a_host_with_an_underscore_is_refused() {
        assert!(parse("a_b.c/app").is_err() && parse("a_b/app").is_ok());
    }

    #[test]
    fn what_the_library_takes_for_an_owner_in_upper_case_is_refused() {
        assert!(parse("Org/app").is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn texts_are_read_as_the_library_reads_them(
            text in "([a-z0-9.-]{1,6}(:[0-9]{0,4})?/)?[a-z0-9._/-]{1,12}(:[a-zA-Z0-9_.-]{0,8})?(@(sha256|md5):[0-9a-f]{31,66})?"
        ) {
            // The library takes `a_b.c` for a host, which no name of a host can be.
            let host = text.split_once('/').map_or("", |(host, _)| host);
            prop_assume!(!(host.contains('_') && host.contains('.')));
            prop_assert_eq!(parse(&text).ok(), text.parse::<Reference>().ok());
        }

        #[test]
        fn digests_are_read_as_the_library_reads_them(
            text in "[a-z]{1,3}(:[a-z]{1,3})?@sha(256:[0-9a-f]{63,65}|512:[0-9a-f]{128}|384:[0-9a-f]{96})"
        ) {
            prop_assert_eq!(parse(&text).ok(), text.parse::<Reference>().ok());
        }
    }
}
