//! `fleetctl image pull`.

use std::{
    env, fs,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use capsule_proto::{
    manifest::shown,
    v1::{PullImageRequest, RegistryAuth},
};
use clap::{Args, ValueHint};

use super::show;
use crate::{exit::Exit, failure::usage, gather::gather, session::Session, terminal};

/// Variable that carries a registry's password.
const PASSWORD_VARIABLE: &str = "FLEETCTL_REGISTRY_PASSWORD";

/// Have capsules pull an image from its registry
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl --all image pull nginx:1.27\n  \
                        fleetctl image pull ghcr.io/org/app:2 --username me --password-file token")]
pub struct Pull {
    reference: String,
    /// User at the registry; used for this pull and not kept
    #[arg(long, value_name = "USER")]
    username: Option<String>,
    /// File with the password or token, - for stdin; else the variable FLEETCTL_REGISTRY_PASSWORD;
    /// else the terminal is asked
    #[arg(long, value_name = "FILE|-", requires = "username", value_hint = ValueHint::FilePath)]
    password_file: Option<PathBuf>,
}

impl Pull {
    /// Pulls on every capsule.
    pub(super) async fn run(self, session: &Session) -> Result<Exit> {
        let targets = session.targets()?;
        let is_alone = targets.len() == 1;
        let request = PullImageRequest { reference: self.reference.clone(), auth: self.auth()? };
        let out = session.out;
        gather(session, targets, session.asked_timeout(), show::layout("pulled"), async |capsule| {
            let stream = capsule.images().pull(request.clone()).await?.into_inner();
            show::finish(&out, capsule.target(), is_alone, stream).await
        })
        .await
    }

    fn auth(&self) -> Result<Option<RegistryAuth>> {
        let Some(username) = self.username.clone() else { return Ok(None) };
        let password = match &self.password_file {
            Some(path) => read_password(path)?,
            None => match env::var(PASSWORD_VARIABLE) {
                Ok(password) => password,
                Err(_) => ask(&username)?,
            },
        };
        Ok(Some(RegistryAuth { username, password }))
    }
}

fn read_password(path: &Path) -> Result<String> {
    let text =
        if path.as_os_str() == "-" { io::read_to_string(io::stdin()) } else { fs::read_to_string(path) };
    let text = text.with_context(|| format!("cannot read the password from {}", shown(path)))?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

fn ask(username: &str) -> Result<String> {
    if !io::stdin().is_terminal() {
        return Err(usage(format!("no password: give --password-file, or set {PASSWORD_VARIABLE}")));
    }
    terminal::read_secret(&format!("Password of {username}: ")).context("cannot ask for the password")
}
