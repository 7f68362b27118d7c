//! `testbed image`.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::steps::say;
use crate::fixtures::{self, Image};

/// Write a fixture image as an archive that `fleetctl image push` takes.
#[derive(Args, Debug)]
pub struct ImageArgs {
    /// Which one
    #[arg(value_enum)]
    image: Which,
    /// Where to
    file: PathBuf,
    /// As `docker save` before version 25 wrote it, instead of an OCI layout
    #[arg(long)]
    docker: bool,
    /// Size of the random layer
    #[arg(long, default_value_t = 100)]
    mib: usize,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Which {
    /// Shell and small tools
    Busybox,
    /// Answers on HTTP, TCP and UDP; from scratch
    Echo,
    /// One big layer
    Random,
}

impl ImageArgs {
    pub fn run(self) -> Result<()> {
        let image = match self.image {
            Which::Busybox => fixtures::busybox()?,
            Which::Echo => fixtures::echo()?,
            Which::Random => fixtures::random("localhost/random:1", 1, self.mib << 20, 1)?,
        };
        let write = if self.docker { Image::write_docker } else { Image::write_oci };
        write(&image, &self.file)?;
        say(format!("{} holds {}", self.file.display(), image.reference()))
    }
}
