//! A command on many capsules: output line by line, each with its capsule's prefix.

use std::collections::HashMap;

use anyhow::Result;
use capsule_client::{CallError, Capsule, Target, fan_out};
use capsule_proto::v1::{ExecInput, ExecStart, ExitStatus, exec_input::Input, exec_output::Output};
use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    commands::workload::show::exit_text,
    exit::{Exit, Tally},
    failure::Failure,
    named,
    output::{
        Out,
        lines::{Prefixes, Sink, Splitter, write_line},
    },
    print_failure,
    session::Session,
};

pub(super) async fn run(session: &Session, targets: Vec<Target>, start: ExecStart) -> Result<Exit> {
    let out = session.out;
    let names: Vec<String> = targets.iter().map(|target| target.name.clone()).collect();
    let prefixes = Prefixes::new(&names, out.colour);
    let places: HashMap<String, usize> = names.into_iter().enumerate().map(|(at, name)| (name, at)).collect();
    let options = session.fan_out(session.asked_timeout());
    let connector = session.connector()?;
    let mut ends = fan_out(&connector, targets, options, async |capsule: Capsule| {
        let at = places.get(&capsule.target().name).copied().unwrap_or_default();
        Ok::<_, CallError>(exec(&out, prefixes.of(at), &capsule, start.clone()).await)
    });
    let mut tally = Tally::default();
    while let Some((target, outcome)) = ends.next().await {
        let outcome = outcome.map_err(Failure::from).and_then(|outcome| outcome).and_then(succeeded);
        tally.count(&outcome);
        if let Err(failure) = outcome {
            print_failure(&out, &target.name, failure);
        }
    }
    Ok(tally.exit())
}

fn succeeded(exit: ExitStatus) -> Result<(), Failure> {
    match exit.code {
        0 => Ok(()),
        _ => Err(Failure { code: "exited", message: format!("the command ended with {}", exit_text(&exit)) }),
    }
}

async fn exec(out: &Out, prefix: &str, capsule: &Capsule, start: ExecStart) -> Result<ExitStatus, Failure> {
    let name = start.name.clone();
    // The sender lives as long as the call: the command ends when its input stream does.
    let (sender, receiver) = mpsc::channel(1);
    let _ = sender.send(ExecInput { input: Some(Input::Start(start)) }).await;
    let answer = capsule.workloads().exec(ReceiverStream::new(receiver)).await;
    let mut output = named::workload(capsule, &name, answer).await?.into_inner();
    let (mut stdout, mut stderr) = (Splitter::default(), Splitter::default());
    while let Some(message) = output.message().await? {
        match message.output {
            Some(Output::Stdout(bytes)) => {
                stdout.push(&bytes, |line| write_line(out, Sink::Out, prefix, line));
            }
            Some(Output::Stderr(bytes)) => {
                stderr.push(&bytes, |line| write_line(out, Sink::Error, prefix, line));
            }
            Some(Output::NotStarted(why)) => return Err(Failure { code: "not-started", message: why }),
            Some(Output::Exit(exit)) => {
                stdout.finish(|line| write_line(out, Sink::Out, prefix, line));
                stderr.finish(|line| write_line(out, Sink::Error, prefix, line));
                return Ok(exit);
            }
            _ => {}
        }
    }
    Err(Failure::local("the capsule ended the stream and told no exit code"))
}
