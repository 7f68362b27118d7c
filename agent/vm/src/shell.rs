//! A shell on a console: logging in, and commands with their exit codes.
//!
//! A terminal echoes what is typed, so a mark that tells where output begins is typed in two halves
//! that only the shell puts together.

use std::time::Duration;

use tokio::time::Instant;

use crate::{Console, Error, Result};

/// A terminal takes no longer line (N_TTY_BUF_SIZE in Linux).
const LINE_MAX_BYTES: usize = 4095;
/// Between two attempts to be heard by a shell whose prompt is none of [`PROMPTS`]. A login program
/// takes less for its refusal: what is typed meanwhile would be the name of the next who logs in.
const KNOCK: Duration = Duration::from_secs(6);
/// How shells ask, by default.
const PROMPTS: [&str; 2] = ["# ", "$ "];
/// What every login program says.
const REFUSED: &str = "incorrect";
/// The first half of marks; the second is a number.
const MARK: &str = "vm-";

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// As a shell has it.
    pub code: i32,
    /// What it wrote.
    pub output: String,
}

impl Console {
    /// Runs a command in the POSIX shell that has the console. After a time-out the command goes on,
    /// and [`Console::interrupt`] ends it.
    pub async fn run_command(&mut self, command: &str, limit: Duration) -> Result<Outcome> {
        let end = Instant::now() + limit;
        let quoted = command.replace('\'', r"'\''");
        let mark = self.mark();
        let line = format!(
            r#"printf '%s%s\n' {MARK} {mark}-begin; eval '{quoted}'; printf '\n%s%s %s.\n' {MARK} {mark}-end "$?""#
        );
        if let Some(long) = line.lines().find(|line| line.len() > LINE_MAX_BYTES) {
            let why = format!("a terminal takes no line of {} bytes", long.len());
            return Err(Error::Invalid(why));
        }
        self.send_line(&line).await?;
        let before = self.place;
        let outcome = self.outcome(mark, end).await;
        outcome.map_err(|error| {
            self.place = before;
            error.named(&format!("`{command}`"), limit)
        })
    }

    async fn outcome(&mut self, mark: u64, end: Instant) -> Result<Outcome> {
        self.wait_for(&format!("{MARK}{mark}-begin\r\n"), left(end)).await?;
        let output = self.wait_for(&format!("\r\n{MARK}{mark}-end "), left(end)).await?;
        let code = self.wait_for(".\r\n", left(end)).await?;
        let code = code.parse().map_err(|_| Error::Garbled { found: code, tail: self.tail() })?;
        Ok(Outcome { code, output: output.replace("\r\n", "\n") })
    }

    /// Answers a login prompt, which may have come already, and waits for a shell that listens.
    pub async fn login(&mut self, user: &str, password: Option<&str>, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        let logged_in = self.answer(user, password, end).await;
        logged_in.map_err(|error| error.named(&format!("logging in as {user}"), limit))
    }

    async fn answer(&mut self, user: &str, password: Option<&str>, end: Instant) -> Result<()> {
        self.wait_for("login: ", left(end)).await?;
        self.send_line(user).await?;
        if let Some(password) = password {
            self.wait_for("assword: ", left(end)).await?;
            self.send_line(password).await?;
        }
        let mark = self.mark();
        let answers = [&format!("{MARK}{mark}\r\n"), REFUSED, PROMPTS[0], PROMPTS[1]];
        loop {
            match self.wait_for_any(&answers, left(end).min(KNOCK)).await {
                Ok((0, _)) => return Ok(()),
                Ok((1, _)) => return Err(Error::Login { user: user.to_owned(), tail: self.tail() }),
                Ok(_) => {}
                Err(Error::TimedOut { .. }) if Instant::now() < end => {}
                Err(other) => return Err(other),
            }
            // What is typed before the shell runs is discarded, so this may not be the last time.
            self.send_line(&format!(r"printf '%s%s\n' {MARK} {mark}")).await?;
        }
    }
}

fn left(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now())
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
        net::UnixStream,
    };

    use super::*;

    #[tokio::test]
    async fn an_echo_is_no_output() {
        let (near, far) = UnixStream::pair().unwrap();
        let mut console = Console::new(near);
        let shell = tokio::spawn(async move {
            let mut far = BufReader::new(far);
            let mut typed = String::new();
            far.read_line(&mut typed).await.unwrap();
            // As a terminal echoes; then as a shell answers.
            far.write_all(format!("$ {}\r\n", typed.trim_end()).as_bytes()).await.unwrap();
            far.write_all(b"vm-1-begin\r\nline\r\nno end\r\nvm-1-end 3.\r\n$ ").await.unwrap();
            typed
        });
        let outcome = console.run_command("echo 'x'", Duration::from_secs(10)).await.unwrap();
        assert_eq!(outcome, Outcome { code: 3, output: "line\nno end".to_owned() });
        assert!(shell.await.unwrap().contains(r"eval 'echo '\''x'\'''"));
    }

    #[tokio::test]
    async fn a_line_that_a_terminal_would_cut_is_refused() {
        let (near, _far) = UnixStream::pair().unwrap();
        let refused = Console::new(near).run_command(&"x".repeat(5000), Duration::from_secs(10)).await;
        assert!(refused.unwrap_err().to_string().contains("a terminal takes no line of"));
    }
}
