//! What is said of many measurements.

/// Measurements of one contestant.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds one.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The middle one; of an even number, the mean of the two in the middle. NaN without any.
    pub fn median(&self) -> f64 {
        let sorted = self.sorted();
        match sorted.len() {
            0 => f64::NAN,
            odd if odd % 2 == 1 => sorted[odd / 2],
            even => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
        }
    }

    /// The smallest one that at least 95 % do not exceed (nearest rank). NaN without any.
    pub fn p95(&self) -> f64 {
        let sorted = self.sorted();
        let rank = (sorted.len() * 95).div_ceil(100);
        rank.checked_sub(1).map_or(f64::NAN, |at| sorted[at])
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<T: IntoIterator<Item = f64>>(values: T) -> Self {
        Self(values.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ranks_are_those_of_the_textbook() {
        let samples: Samples = (1..=20).rev().map(f64::from).collect();
        assert!((samples.median() - 10.5).abs() < f64::EPSILON);
        assert!((samples.p95() - 19.0).abs() < f64::EPSILON);
        let one: Samples = [7.0].into_iter().collect();
        assert!((one.median() - 7.0).abs() < f64::EPSILON && (one.p95() - 7.0).abs() < f64::EPSILON);
        assert!(Samples::default().median().is_nan() && Samples::default().p95().is_nan());
    }
}
