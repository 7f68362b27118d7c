//! Image references as docker reads them: `nginx` is `docker.io/library/nginx:latest`.

use oci_client::{ParseError, Reference};

use super::{
    ImageError,
    grammar::{self, is_tag},
};

/// Of a refused text in an error, at most.
const SHOWN_CHARS: usize = 128;

/// Parses and normalises: registry `docker.io` and its `library/`, tag `latest` where there is
/// neither tag nor digest.
pub fn parse(text: &str) -> Result<Reference, ImageError> {
    let refuse = |reason: String| ImageError::Reference { text: shown(text), reason };
    if let Some(reason) = obvious_mistake(text) {
        return Err(refuse(reason));
    }
    grammar::parse(text).map_err(|error| refuse(explain(text, &error)))
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARS).collect()
}

fn obvious_mistake(text: &str) -> Option<String> {
    let name = text.split('@').next().unwrap_or_default();
    if text.trim().is_empty() {
        return Some("it is empty; write for example `nginx:1.27`".into());
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        return Some(format!("it begins with {scheme}://; write only {rest}"));
    }
    if text.chars().any(char::is_whitespace) {
        return Some("it has white space".into());
    }
    if name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Some("it is a bare digest; write REPOSITORY@sha256:DIGEST".into());
    }
    None
}

fn explain(text: &str, error: &ParseError) -> String {
    let (name, digest) = text.split_once('@').map_or((text, None), |(name, digest)| (name, Some(digest)));
    let last = name.rsplit('/').next().unwrap_or_default();
    let (repository, tag) = last.split_once(':').map_or((last, None), |(left, tag)| (left, Some(tag)));
    let path = name.strip_suffix(last).unwrap_or_default();
    match error {
        ParseError::DigestInvalidLength => "the digest's length is wrong; sha256 has 64 hex digits".into(),
        ParseError::DigestUnsupported => "the digest's algorithm is not known; use sha256".into(),
        ParseError::NameTooLong => "the repository is longer than 255 characters".into(),
        _ if digest.is_some_and(|digest| !digest.contains(':')) => {
            "the digest after '@' lacks its algorithm; write @sha256: and 64 hex digits".into()
        }
        _ if tag == Some("") => "the tag after ':' is empty".into(),
        _ if repository.is_empty() => "the repository's name is missing".into(),
        _ if repository.chars().any(|c| c.is_ascii_uppercase()) || repository_has_uppercase(path) => {
            "a repository's name must be lower case".into()
        }
        _ if tag.is_some_and(|tag| !is_tag(tag)) => {
            "a tag has at most 128 of letters, digits, '_', '.' and '-', and begins with none of the last two"
                .into()
        }
        _ => "write [HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST], with a-z, 0-9 and single '.', '_', '-' or '/' \
              between them in REPOSITORY"
            .into(),
    }
}

/// In the parts between the host and the last.
fn repository_has_uppercase(path: &str) -> bool {
    path.split('/').skip(usize::from(path.contains(['.', ':']))).any(|part| part.contains(char::is_uppercase))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn what_docker_users_write_is_filled_in() {
        let digest = format!("sha256:{HEX}");
        for (text, whole) in [
            ("nginx", "docker.io/library/nginx:latest".to_owned()),
            ("nginx:1.27", "docker.io/library/nginx:1.27".into()),
            ("org/app", "docker.io/org/app:latest".into()),
            ("index.docker.io/nginx", "docker.io/library/nginx:latest".into()),
            ("ghcr.io/org/app:v1", "ghcr.io/org/app:v1".into()),
            ("localhost/app", "localhost/app:latest".into()),
            ("localhost:5000/app", "localhost:5000/app:latest".into()),
            ("127.0.0.1:5000/a/b/c:x", "127.0.0.1:5000/a/b/c:x".into()),
            (&format!("app@{digest}"), format!("docker.io/library/app@{digest}")),
            (&format!("r.example/app:v1@{digest}"), format!("r.example/app:v1@{digest}")),
        ] {
            assert_eq!(parse(text).unwrap().whole(), whole, "{text}");
        }
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        for (text, reason) in [
            ("", "empty"),
            ("  ", "empty"),
            ("https://ghcr.io/org/app", "write only ghcr.io/org/app"),
            ("nginx 1", "white space"),
            (HEX, "bare digest"),
            ("Nginx", "lower case"),
            ("ghcr.io/Org/app", "lower case"),
            ("nginx:", "tag after ':' is empty"),
            ("nginx:-x", "a tag has at most"),
            ("nginx@sha256:abc", "[HOST"),
            ("nginx@abc", "lacks its algorithm"),
            (&format!("nginx@sha256:{HEX}ff"), "64 hex digits"),
            (&format!("nginx@md5:{HEX}"), "use sha256"),
            (":tag", "name is missing"),
            ("a//b", "[HOST"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(
            host in prop::option::of("[a-z]{1,8}\\.[a-z]{2,3}(:[0-9]{2,5})?"),
            path in prop::collection::vec("[a-z0-9]{1,8}([._-][a-z0-9]{1,4})?", 1..4),
            tag in prop::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"),
            digest in prop::option::of("[0-9a-f]{64}"),
        ) {
            let mut text = host.map(|host| host + "/").unwrap_or_default() + &path.join("/");
            if let Some(tag) = tag { text = format!("{text}:{tag}"); }
            if let Some(digest) = digest { text = format!("{text}@sha256:{digest}"); }
            let once = parse(&text).unwrap().whole();
            prop_assert_eq!(parse(&once).unwrap().whole(), once.clone());
            prop_assert!(once.contains('/') && (once.contains(':')));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,80}") {
            let _ = parse(&text);
        }
    }
}
