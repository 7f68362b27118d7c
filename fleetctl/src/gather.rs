//! One question to many capsules: answers are printed as they come and counted for the exit code.

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::Result;
use capsule_client::{CallError, Capsule, Target, fan_out};
use futures_util::{Stream, StreamExt as _, future::join_all};
use serde::Serialize;

use crate::{
    exit::{Exit, Tally},
    failure::Failure,
    output::answer::{Answer, Layout, Printer},
    session::Session,
};

/// Asks every capsule once.
pub async fn gather<T, F, Fut>(
    session: &Session,
    targets: Vec<Target>,
    timeout: impl Into<Option<Duration>>,
    layout: Layout<T>,
    call: F,
) -> Result<Exit>
where
    T: Serialize,
    F: Fn(Capsule) -> Fut,
    Fut: Future<Output = Result<T, Failure>>,
{
    let work = targets.into_iter().map(|target| (target, vec![()])).collect();
    gather_each(session, work, timeout, layout, |capsule, ()| call(capsule)).await
}

/// Asks every capsule once for each of its arguments, over one connection.
pub async fn gather_each<A, T, F, Fut>(
    session: &Session,
    work: Vec<(Target, Vec<A>)>,
    timeout: impl Into<Option<Duration>>,
    layout: Layout<T>,
    call: F,
) -> Result<Exit>
where
    A: Clone,
    T: Serialize,
    F: Fn(Capsule, A) -> Fut,
    Fut: Future<Output = Result<T, Failure>>,
{
    let printer = Printer::new(session.out, layout, work.len());
    let targets: Vec<Target> = work.iter().map(|(target, _)| target.clone()).collect();
    let order: HashMap<String, usize> = places(&targets);
    let arguments: Arc<HashMap<String, Vec<A>>> =
        Arc::new(work.into_iter().map(|(target, arguments)| (target.name, arguments)).collect());
    let call = Arc::new(call);
    let options = session.fan_out(timeout.into());
    let connector = session.connector()?;
    let calls = fan_out(&connector, targets, options, |capsule: Capsule| {
        let (call, arguments) = (call.clone(), arguments.clone());
        async move {
            let mine = arguments.get(&capsule.target().name).into_iter().flatten();
            Ok::<_, CallError>(join_all(mine.map(|argument| call(capsule.clone(), argument.clone()))).await)
        }
    });
    let answers = calls.map(|(target, results)| {
        let at = order.get(&target.name).copied().unwrap_or_default();
        let results = results.unwrap_or_else(|error| vec![Err(error.into())]);
        let answer = |result| Answer { at, capsule: target.name.clone(), result };
        results.into_iter().map(answer).collect()
    });
    Ok(print(answers, printer).await)
}

fn places(targets: &[Target]) -> HashMap<String, usize> {
    targets.iter().enumerate().map(|(at, target)| (target.name.clone(), at)).collect()
}

/// Prints the answers of each capsule as they come. A table's first batch is let out as soon as
/// nothing more comes for a moment, so that no live row waits for a dead capsule.
async fn print<T: Serialize>(
    mut answers: impl Stream<Item = Vec<Answer<T>>> + Unpin,
    mut printer: Printer<T>,
) -> Exit {
    let mut tally = Tally::default();
    loop {
        let next = match printer.patience() {
            None => answers.next().await,
            Some(patience) => {
                if let Ok(next) = tokio::time::timeout(patience, answers.next()).await {
                    next
                } else {
                    printer.flush();
                    continue;
                }
            }
        };
        let Some(of_capsule) = next else { break };
        for answer in &of_capsule {
            tally.count(&printer.outcome(answer));
        }
        printer.take(&of_capsule);
    }
    printer.flush();
    tally.exit()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use futures_util::stream;

    use super::*;
    use crate::output::{Format, Out, table::column};

    fn printer(expected: usize, seen: fn(&Out, &str)) -> Printer<String> {
        let out = Out {
            format: Format::Table,
            colour: false,
            terminal: false,
            error_terminal: false,
            draws_progress: false,
            quiet: true,
        };
        let layout = Layout::table(vec![column("NAME")], |name: &String| vec![vec![name.as_str().into()]]);
        Printer::new(out, layout, expected).writing_to(seen)
    }

    std::thread_local! {
        static WRITTEN: std::cell::RefCell<Vec<(Instant, String)>> = const { std::cell::RefCell::new(Vec::new()) };
    }

    #[tokio::test]
    async fn live_rows_are_out_while_a_dead_capsule_is_still_waited_for() {
        let started = Instant::now();
        let jobs = (0..4usize).map(|at| async move {
            let dead = at == 0;
            tokio::time::sleep(Duration::from_millis(if dead { 500 } else { at as u64 })).await;
            let failure = Failure::local("no answer");
            let result = if dead { Err(failure) } else { Ok(format!("w{at}")) };
            vec![Answer { at, capsule: format!("c{at}"), result }]
        });
        let answers = Box::pin(stream::iter(jobs).buffer_unordered(64));
        let seen = |_: &Out, text: &str| WRITTEN.with_borrow_mut(|w| w.push((Instant::now(), text.into())));
        assert_eq!(print(answers, printer(4, seen)).await, Exit::SOME);
        let written = WRITTEN.take();
        assert_eq!(written[0].1, "CAPSULE  NAME\nc1       w1\nc2       w2\nc3       w3\n");
        assert!(written[0].0 - started < Duration::from_millis(300), "{:?}", written[0].0 - started);
        assert_eq!(written[1].1, "c0       error: no answer\n");
    }

    #[tokio::test]
    async fn nothing_but_failures_is_none() {
        let answer = Answer { at: 0, capsule: "a".into(), result: Err(Failure::local("x")) };
        let exit = print(stream::iter([vec![answer]]), printer(1, |_, _| {})).await;
        assert_eq!(exit, Exit::NONE);
    }
}
