//! A fleet of machines that is there for a person, and not for a story.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Result, ensure};
use testbed::{
    scenario::{DIR, Operator, eventually},
    substrate::{State, Testbed},
    sys::{program, run},
};

use crate::release::Release;

const NAME: &str = "tup";
/// For a guest to power off, emulated.
const OFF_LIMIT: Duration = Duration::from_mins(2);

/// Takes the fleet down also where the story fails.
struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        if let Ok(Some(testbed)) = Testbed::open(NAME)
            && let Err(error) = testbed.remove(State::Remove)
        {
            eprintln!("{error:#}");
        }
    }
}

fn testbed(words: &[&str]) -> Result<String> {
    run(Command::new(program("testbed")?).args(words), "")
}

/// What is told of its machine; those of other stories are in the same list.
fn told() -> Result<String> {
    let status = testbed(&["status"])?;
    let own = status.lines().find(|line| line.split_whitespace().next() == Some(NAME));
    Ok(own.unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_fleet_that_is_brought_up_again_has_its_machines_on() -> Result<()> {
    let _guard = Guard;
    let up = ["up", "--name", NAME, "--substrate", "qemu", "--nodes", "1", "--bare"];
    testbed(&up)?;
    let operator = Operator::at(&Path::new(DIR).join(NAME).join("operator"));
    let info = operator.run(&["capsule", "info", "-o", "json"]).await?.ok()?.json()?;
    ensure!(info["result"]["version"] == Release::built()?.version, "{info}");

    operator.run(&["capsule", "reboot", "--power-off"]).await?.ok()?;
    eventually(OFF_LIMIT, async || {
        let told = told()?;
        ensure!(told.contains("is off: "), "{told}");
        Ok(())
    })
    .await?;
    testbed(&up)?;
    operator.run(&["whoami"]).await?.ok()?;
    let told = told()?;
    ensure!(told.contains("runs, PID "), "{told}");
    Ok(())
}
