//! Contestants that take turns.

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::future::LocalBoxFuture;

use super::stats::Samples;

/// Does the job once and says how long the part that counts took; takes the number of the round.
pub type Turn<'a> = Box<dyn FnMut(usize) -> LocalBoxFuture<'a, Result<Duration>> + 'a>;

/// Who takes part.
pub struct Contestant<'a> {
    name: String,
    turn: Turn<'a>,
}

impl<'a> Contestant<'a> {
    /// A contestant; whatever `turn` does outside the time it returns is not counted.
    pub fn new<F, Fut>(name: &str, mut turn: F) -> Self
    where
        F: FnMut(usize) -> Fut + 'a,
        Fut: Future<Output = Result<Duration>> + 'a,
    {
        Self { name: name.to_owned(), turn: Box::new(move |round| Box::pin(turn(round))) }
    }
}

/// A round to warm up, numbered 0, and `rounds` that count, in each of which `count` contestants have a
/// turn; each begins with another one. Round and contestant of every turn.
pub fn turns(rounds: usize, count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..=rounds).flat_map(move |round| (0..count).map(move |place| (round, (round + place) % count)))
}

/// Runs a round to warm up and `rounds` that count; each begins with another contestant.
/// Milliseconds of each, in the order given.
pub async fn race(rounds: usize, contestants: &mut [Contestant<'_>]) -> Result<Vec<(String, Samples)>> {
    let mut results: Vec<(String, Samples)> =
        contestants.iter().map(|contestant| (contestant.name.clone(), Samples::default())).collect();
    for (round, at) in turns(rounds, contestants.len()) {
        let contestant = &mut contestants[at];
        let took = (contestant.turn)(round).await;
        let took = took.with_context(|| format!("{} failed in round {round}", contestant.name))?;
        if round > 0 {
            results[at].1.push(took.as_secs_f64() * 1000.0);
        }
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everyone_has_as_many_turns_and_the_first_does_not_count() {
        let turn = |ms: u64| move |_| std::future::ready(Ok(Duration::from_millis(ms)));
        let mut contestants = [Contestant::new("a", turn(2)), Contestant::new("b", turn(4))];
        let results = race(3, &mut contestants).await.unwrap();
        assert_eq!(results.iter().map(|(_, samples)| samples.len()).collect::<Vec<_>>(), [3, 3]);
        assert!((results[1].1.median() / results[0].1.median() - 2.0).abs() < f64::EPSILON);
    }
}
