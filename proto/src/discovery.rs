//! What a capsule says of itself by multicast DNS (RFC 6762 and 6763): written by agents, read by who
//! looks for capsules. Anybody in the network may say anything here, so it is parsed strictly and
//! vouches for nothing.

use std::str;

use crate::v1::Mode;

/// Type of the service.
pub const SERVICE: &str = "_capsule._tcp.local.";
/// Version of what is announced; another one is not understood.
const PROTOCOL: &str = "1";
/// Longest host name, in bytes (RFC 1035, section 2.3.4).
const MAX_HOSTNAME: usize = 253;
/// Longest version, in bytes.
const MAX_VERSION: usize = 64;

/// `capsule-` and the first four digits of a capsule's id.
pub fn short_id(capsule_id: &str) -> String {
    format!("capsule-{}", capsule_id.chars().take(4).collect::<String>())
}

/// Whether a text looks like what [`short_id`] makes.
pub fn is_short_id(text: &str) -> bool {
    text.strip_prefix("capsule-").is_some_and(|digits| digits.len() == 4 && is_hex(digits))
}

/// The keys of the TXT record, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// UUID, in small letters and with hyphens.
    pub capsule_id: String,
    /// The host's name: any text without control characters.
    pub hostname: String,
    /// Whether an operator's key is enrolled.
    pub adopted: bool,
    /// Of the agent.
    pub version: String,
    /// Of the capsule.
    pub mode: Mode,
}

/// Why a TXT record is no capsule's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnouncementError {
    /// A key is missing.
    #[error("the announcement has no {0}")]
    Missing(&'static str),
    /// A value is not what it must be.
    #[error("the announcement's {0} makes no sense")]
    Malformed(&'static str),
}

impl Announcement {
    /// `capsule-a3f2`.
    pub fn short_id(&self) -> String {
        short_id(&self.capsule_id)
    }

    /// Keys and values of the TXT record, each pair within 255 bytes.
    pub fn to_txt(&self) -> Vec<(&'static str, String)> {
        vec![
            ("proto", PROTOCOL.to_owned()),
            ("id", self.capsule_id.clone()),
            ("short", self.short_id()),
            ("hostname", fit(&self.hostname, MAX_TXT_HOSTNAME)),
            ("adopted", self.adopted.to_string()),
            ("version", fit(&self.version, MAX_VERSION)),
            ("mode", self.mode.to_string()),
        ]
    }

    /// From the values that `of` has for keys.
    pub fn from_txt<'a>(of: impl Fn(&str) -> Option<&'a [u8]>) -> Result<Self, AnnouncementError> {
        let text = |key: &'static str| {
            let value = of(key).ok_or(AnnouncementError::Missing(key))?;
            str::from_utf8(value).map_err(|_| AnnouncementError::Malformed(key))
        };
        let checked = |key: &'static str, is_fine: &dyn Fn(&str) -> bool| {
            text(key).and_then(|value| {
                is_fine(value).then(|| value.to_owned()).ok_or(AnnouncementError::Malformed(key))
            })
        };
        checked("proto", &|value| value == PROTOCOL)?;
        let capsule_id = checked("id", &is_capsule_id)?;
        checked("short", &|value| value == short_id(&capsule_id))?;
        let printable = |value: &str| !value.is_empty() && !value.chars().any(char::is_control);
        Ok(Self {
            hostname: checked("hostname", &|value| printable(value) && value.len() <= MAX_HOSTNAME)?,
            adopted: checked("adopted", &|value| matches!(value, "true" | "false"))? == "true",
            version: checked("version", &|value| {
                value.len() <= MAX_VERSION
                    && !value.is_empty()
                    && value.bytes().all(|byte| byte.is_ascii_graphic())
            })?,
            mode: mode(text("mode")?)?,
            capsule_id,
        })
    }
}

/// What of a host name still fits into a string of 255 bytes with its key.
const MAX_TXT_HOSTNAME: usize = 255 - "hostname=".len();

/// The longest beginning of at most `most` bytes.
fn fit(text: &str, most: usize) -> String {
    text[..text.floor_char_boundary(most)].to_owned()
}

fn mode(text: &str) -> Result<Mode, AnnouncementError> {
    [Mode::Hosted, Mode::Appliance, Mode::Installer]
        .into_iter()
        .find(|mode| mode.to_string() == text)
        .ok_or(AnnouncementError::Malformed("mode"))
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// 8-4-4-4-12 hex digits, as RFC 9562 writes a UUID.
fn is_capsule_id(text: &str) -> bool {
    let lengths = text.split('-').map(|part| if is_hex(part) { part.len() } else { 0 });
    lengths.eq([8, 4, 4, 4, 12])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const ID: &str = "a3f2b1c0-0000-4000-8000-000000000001";

    fn announcement() -> Announcement {
        Announcement {
            capsule_id: ID.into(),
            hostname: "nuc-1".into(),
            adopted: true,
            version: "0.1.0".into(),
            mode: Mode::Appliance,
        }
    }

    fn read(txt: &BTreeMap<&str, Vec<u8>>) -> Result<Announcement, AnnouncementError> {
        Announcement::from_txt(|key| txt.get(key).map(Vec::as_slice))
    }

    fn written(announcement: &Announcement) -> BTreeMap<&'static str, Vec<u8>> {
        announcement.to_txt().into_iter().map(|(key, value)| (key, value.into_bytes())).collect()
    }

    #[test]
    fn what_is_announced_is_read_as_it_was_meant() {
        assert_eq!(read(&written(&announcement())), Ok(announcement()));
        assert_eq!(announcement().short_id(), "capsule-a3f2");
        assert!(is_short_id("capsule-a3f2") && !is_short_id("capsule-A3F2") && !is_short_id("capsule-a3f21"));
    }

    #[test]
    fn a_key_that_is_missing_or_makes_no_sense_is_named() {
        for (key, value) in [
            ("proto", "2"),
            ("id", "a3f2"),
            ("id", "a3f2b1c0-0000-4000-8000-00000000000\u{1b}"),
            ("short", "capsule-ffff"),
            ("hostname", ""),
            ("hostname", "nuc\u{1b}[2J"),
            ("adopted", "yes"),
            ("version", "0.1.0\n"),
            ("mode", "unspecified"),
        ] {
            let mut txt = written(&announcement());
            txt.insert(key, value.into());
            assert_eq!(read(&txt), Err(AnnouncementError::Malformed(key)), "{value:?}");
            txt.remove(key);
            assert_eq!(read(&txt), Err(AnnouncementError::Missing(key)));
        }
    }

    proptest! {
        #[test]
        fn every_pair_fits_its_string_and_whatever_was_cut_is_still_read(
            hostname in "\\PC{1,200}", version in "[!-~]{1,300}", adopted: bool,
        ) {
            let said = Announcement { hostname, adopted, version, ..announcement() };
            prop_assert!(said.to_txt().iter().all(|(key, value)| key.len() + 1 + value.len() <= 255));
            let heard = read(&written(&said)).unwrap();
            prop_assert!(said.hostname.starts_with(&heard.hostname));
            prop_assert_eq!(heard.adopted, said.adopted);
        }

        #[test]
        fn whatever_bytes_come_what_is_understood_is_bounded_and_printable(
            values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 7),
            own in prop::collection::vec(any::<bool>(), 7),
        ) {
            let mut txt = written(&announcement());
            for ((value, keeps), slot) in values.into_iter().zip(own).zip(txt.values_mut()) {
                if !keeps {
                    *slot = value;
                }
            }
            if let Ok(heard) = read(&txt) {
                let texts = [&heard.capsule_id, &heard.hostname, &heard.version];
                prop_assert!(texts.iter().all(|text| !text.is_empty() && text.len() <= MAX_HOSTNAME));
                prop_assert!(texts.iter().all(|text| !text.chars().any(char::is_control)));
                prop_assert!(is_short_id(&heard.short_id()));
            }
        }
    }
}
