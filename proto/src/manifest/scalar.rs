//! What a scalar means: YAML 1.2's core schema (section 10.3), of which JSON's literals are a part.

/// A scalar as it is written, and whether its writing says that it is a text.
#[derive(Debug)]
pub(super) struct Scalar {
    text: String,
    is_text: bool,
}

/// What a scalar means.
#[derive(Debug, PartialEq)]
pub(super) enum Meaning {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text,
}

/// Numbers below this are exact as a double.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Longest part of a text that an error repeats, in characters.
const SHOWN: usize = 40;

impl Scalar {
    /// `is_text` where it is quoted.
    pub(super) fn new(text: String, is_text: bool) -> Self {
        Self { text, is_text }
    }

    /// As it is written, escapes resolved.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// As [`Scalar::text`].
    pub(super) fn into_text(self) -> String {
        self.text
    }

    /// Whether nothing is written at all.
    pub(super) fn is_absent(&self) -> bool {
        self.text.is_empty() && !self.is_text
    }

    /// Whether it stands for no value.
    pub(super) fn is_null(&self) -> bool {
        self.meaning() == Meaning::Null
    }

    /// What it means.
    pub(super) fn meaning(&self) -> Meaning {
        if self.is_text { Meaning::Text } else { meaning(&self.text) }
    }

    /// The scalar in an error's words.
    pub(super) fn describe(&self) -> String {
        let mut shown: String = self.text.chars().take(SHOWN).collect();
        if shown.len() < self.text.len() {
            shown.push('…');
        }
        match self.meaning() {
            Meaning::Null => "nothing".into(),
            Meaning::Bool(_) => shown,
            Meaning::Integer(_) | Meaning::Float(_) => format!("the number {shown}"),
            Meaning::Text => format!("the text {shown:?}"),
        }
    }

    /// The whole number it stands for; digits in quotes too, as proto3-JSON has them.
    pub(super) fn integer(&self) -> Result<i128, String> {
        let expected = || format!("expected a whole number, found {}", self.describe());
        match self.meaning() {
            Meaning::Integer(_) if has_leading_zero(&self.text) => {
                let digits = self.text.trim_start_matches(['+', '-', '0']);
                let octal = "is octal to some readers and decimal to others";
                Err(format!("{} {octal}; write {digits}, or 0o{digits} for octal", self.text))
            }
            Meaning::Integer(number) => Ok(number),
            Meaning::Float(number) if number.fract() == 0.0 && number.abs() < EXACT => Ok(number as i128),
            Meaning::Text => match meaning(&self.text) {
                Meaning::Integer(number) if !has_leading_zero(&self.text) => Ok(number),
                _ => Err(expected()),
            },
            _ => Err(expected()),
        }
    }

    /// The truth it stands for.
    pub(super) fn bool(&self) -> Result<bool, String> {
        let hint = |truth| format!("expected true or false, found {}; write {truth}", self.describe());
        match (self.meaning(), self.text.to_ascii_lowercase().as_str()) {
            (Meaning::Bool(truth), _) => Ok(truth),
            (Meaning::Text, "yes" | "on" | "y" | "true") => Err(hint(true)),
            (Meaning::Text, "no" | "off" | "n" | "false") => Err(hint(false)),
            _ => Err(format!("expected true or false, found {}", self.describe())),
        }
    }
}

/// Whether a decimal number has a zero in front that says nothing.
fn has_leading_zero(text: &str) -> bool {
    let digits = text.trim_start_matches(['+', '-']);
    digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// What a text without quotes means.
pub(super) fn meaning(text: &str) -> Meaning {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Meaning::Null,
        "true" | "True" | "TRUE" => Meaning::Bool(true),
        "false" | "False" | "FALSE" => Meaning::Bool(false),
        ".nan" | ".NaN" | ".NAN" => Meaning::Float(f64::NAN),
        _ => number(text).unwrap_or(Meaning::Text),
    }
}

fn number(text: &str) -> Option<Meaning> {
    let integer = |digits: &str, radix| {
        let valid = !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
        valid.then(|| {
            i128::from_str_radix(digits, radix).map_or(Meaning::Float(f64::INFINITY), Meaning::Integer)
        })
    };
    if let Some(digits) = text.strip_prefix("0x") {
        return integer(digits, 16);
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return integer(digits, 8);
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    match unsigned {
        ".inf" | ".Inf" | ".INF" => return Some(Meaning::Float(f64::INFINITY)),
        _ if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') => return None,
        _ => {}
    }
    if unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(text.parse().map_or(Meaning::Float(f64::INFINITY), Meaning::Integer));
    }
    let of_float = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-');
    if !unsigned.chars().all(of_float) {
        return None;
    }
    text.parse().ok().map(Meaning::Float)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_mean_what_the_core_schema_says() {
        assert_eq!(meaning("~"), Meaning::Null);
        assert_eq!(meaning("True"), Meaning::Bool(true));
        assert_eq!(meaning("-12"), Meaning::Integer(-12));
        assert_eq!(meaning("0x1F"), Meaning::Integer(31));
        assert_eq!(meaning("0o17"), Meaning::Integer(15));
        assert_eq!(meaning("1e3"), Meaning::Float(1000.0));
        assert_eq!(meaning(".5"), Meaning::Float(0.5));
        for text in ["yes", "no", "on", "y", "none", "1_000", "0b1", "12:30", "1.2.3", "inf", "-", ".", "0x"]
        {
            assert_eq!(meaning(text), Meaning::Text, "{text}");
        }
    }

    #[test]
    fn whole_numbers_are_read_from_every_unambiguous_writing() {
        let integer = |text: &str, is_text| Scalar::new(text.into(), is_text).integer();
        assert_eq!(integer("8080", false), Ok(8080));
        assert_eq!(integer("8080", true), Ok(8080));
        assert_eq!(integer("1e3", false), Ok(1000));
        assert!(integer("0755", false).unwrap_err().contains("write 755, or 0o755"));
        assert!(integer("1.5", false).unwrap_err().contains("found the number 1.5"));
        assert!(integer("many", false).unwrap_err().contains("found the text \"many\""));
        assert!(integer("99999999999999999999999999999999999999999999", false).is_err());
    }

    #[test]
    fn yes_is_a_text_and_the_error_says_what_to_write() {
        let error = Scalar::new("yes".into(), false).bool().unwrap_err();
        assert_eq!(error, "expected true or false, found the text \"yes\"; write true");
    }
}
