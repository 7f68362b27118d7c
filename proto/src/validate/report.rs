//! Collects violations while a manifest is walked.

use super::Violation;

/// Violations so far and the path of the part that is being looked at.
#[derive(Default)]
pub(super) struct Report {
    path: String,
    found: Vec<Violation>,
}

impl Report {
    /// Looks at `field` of the present part.
    pub(super) fn at(&mut self, field: &str, check: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(field);
        check(self);
        self.path.truncate(length);
    }

    /// Looks at each of `items` of the list `field`.
    pub(super) fn each<'a, T>(
        &mut self,
        field: &str,
        items: &'a [T],
        mut check: impl FnMut(&mut Self, usize, &'a T),
    ) {
        for (index, item) in items.iter().enumerate() {
            self.at(&format!("{field}[{index}]"), |report| check(report, index, item));
        }
    }

    /// The present part is wrong.
    pub(super) fn add(&mut self, message: impl Into<String>) {
        self.found.push(Violation { path: self.path.clone(), message: message.into() });
    }

    /// `field` of the present part is wrong.
    pub(super) fn add_at(&mut self, field: &str, message: impl Into<String>) {
        self.at(field, |report| report.add(message));
    }

    /// An enum's number is one this version knows.
    pub(super) fn check_enum<E: TryFrom<i32>>(&mut self, field: &str, value: i32) {
        if E::try_from(value).is_err() {
            self.add_at(field, format!("this version does not know the value {value}"));
        }
    }

    /// All violations.
    pub(super) fn done(self) -> Vec<Violation> {
        self.found
    }
}
