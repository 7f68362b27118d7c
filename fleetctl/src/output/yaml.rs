//! JSON values as YAML, for `-o yaml`. Any scalar that YAML could read as something else is
//! written as a JSON string, which YAML 1.2 reads alike.

use std::fmt::Write as _;

use serde_json::Value;

/// `value` as one YAML document without its `---`, ending in a line end.
pub fn document(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => fields(&mut text, map, 0, false),
        Value::Array(list) if !list.is_empty() => items(&mut text, list, 0),
        scalar => writeln!(text, "{}", inline(scalar)).unwrap_or_default(),
    }
    text
}

fn fields(text: &mut String, map: &serde_json::Map<String, Value>, depth: usize, first_is_inline: bool) {
    for (at, (key, value)) in map.iter().enumerate() {
        let indent = if at == 0 && first_is_inline { 0 } else { depth * 2 };
        let _ = write!(text, "{:indent$}{}:", "", plain_or_quoted(key));
        child(text, value, depth);
    }
}

fn items(text: &mut String, list: &[Value], depth: usize) {
    for value in list {
        let _ = write!(text, "{:indent$}-", "", indent = depth * 2);
        match value {
            Value::Object(map) if !map.is_empty() => {
                text.push(' ');
                fields(text, map, depth + 1, true);
            }
            other => child(text, other, depth),
        }
    }
}

fn child(text: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            text.push('\n');
            fields(text, map, depth + 1, false);
        }
        Value::Array(list) if !list.is_empty() => {
            text.push('\n');
            items(text, list, depth + 1);
        }
        scalar => {
            let _ = writeln!(text, " {}", inline(scalar));
        }
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => plain_or_quoted(text),
        other => other.to_string(),
    }
}

fn plain_or_quoted(text: &str) -> String {
    const WORDS: [&str; 12] =
        ["null", "true", "false", "yes", "no", "on", "off", "~", "y", "n", ".inf", ".nan"];
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '@' | '+');
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '_')
        && text.chars().all(safe)
        && !WORDS.contains(&text.to_ascii_lowercase().as_str());
    if plain { text.to_owned() } else { Value::String(text.to_owned()).to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nesting_reads_as_yaml() {
        let value = json!({"capsule": "a", "result": {"ports": [{"containerPort": 80}, 7], "args": [], "count": "5"}});
        let text =
            "capsule: a\nresult:\n  args: []\n  count: \"5\"\n  ports:\n    - containerPort: 80\n    - 7\n";
        assert_eq!(document(&value), text);
    }

    #[test]
    fn what_yaml_would_misread_is_quoted() {
        for (text, quoted) in [("no", true), ("1e3", true), ("web-1", false), ("a: b", true), ("", true)] {
            assert_eq!(plain_or_quoted(text).starts_with('"'), quoted, "{text}");
        }
    }
}
