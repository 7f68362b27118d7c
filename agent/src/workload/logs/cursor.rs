//! Places in a workload's logs that outlive a connection.

use std::str::FromStr;

use super::Segment;
use crate::workload::WorkloadError;

/// Before a byte of a segment; ordered by age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub segment: Segment,
    pub offset: u64,
}

/// Behind a record. A line of the other stream may have begun before it and end after it: then
/// reading goes on where that line began, and what has been seen since is left out.
///
/// As text `RUN.SEGMENT.OFFSET` of the end, and `-` and the same of that beginning where there is
/// one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::workload) struct Cursor {
    pub(super) from: Place,
    pub(super) seen: Place,
}

impl Cursor {
    /// `None` of an empty text.
    pub fn parse(text: &str) -> Result<Option<Self>, WorkloadError> {
        let wrong = || WorkloadError::Invalid(format!("{text:?} is no cursor of a log record"));
        if text.is_empty() {
            return Ok(None);
        }
        let (seen, from) = text.split_once('-').unwrap_or((text, text));
        let place = |text: &str| text.parse::<Place>().map_err(|()| wrong());
        Ok(Some(Self { from: place(from)?, seen: place(seen)? }))
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.seen)?;
        if self.from == self.seen { Ok(()) } else { write!(f, "-{}", self.from) }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.segment.run, self.segment.number, self.offset)
    }
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let numbers: Result<Vec<u64>, _> = text.split('.').map(str::parse).collect();
        match numbers.map_err(drop)?[..] {
            [run, number, offset] => Ok(Self { segment: Segment { run, number }, offset }),
            _ => Err(()),
        }
    }
}
