//! `capsule-images`: builds the appliance.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use capsule_bundle::Version;
use capsule_images::pipeline::{self, Inputs};
use clap::Parser;

/// Builds the appliance's image: a disk to flash or boot, an update bundle, and a list of what is in them.
#[derive(Debug, Parser)]
#[command(name = "capsule-images", version)]
struct Cli {
    /// The agent, `capsuled`.
    #[arg(long, value_name = "PROGRAM")]
    agent: PathBuf,
    /// The initramfs' program, linked statically.
    #[arg(long, value_name = "PROGRAM")]
    initramfs: PathBuf,
    /// The image's version.
    #[arg(long, value_name = "VERSION")]
    image_version: Version,
    /// Where the results go.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Keeps fetched packages from build to build.
    #[arg(long, value_name = "DIR", default_value = "target/image-cache")]
    cache: PathBuf,
    /// The lists of what an image is made of.
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/contents"))]
    contents: PathBuf,
    /// A further package of Debian, whole, with what it depends on; may be repeated.
    #[arg(long = "package", value_name = "NAME")]
    packages: Vec<String>,
    /// Firmware of devices, laid out as in /usr/lib/firmware.
    #[arg(long, value_name = "DIR")]
    firmware: Option<PathBuf>,
    /// The minisign secret key that signs the bundle; without one, a development key is made in the cache.
    #[arg(long, value_name = "FILE")]
    release_key: Option<PathBuf>,
    /// A minisign public key whose updates the image accepts besides that one's; may be repeated.
    #[arg(long = "trust", value_name = "FILE")]
    trusted: Vec<PathBuf>,
    /// Debian's mirror, instead of the one that this system uses.
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    pipeline::build(&Inputs {
        agent: cli.agent,
        initramfs: cli.initramfs,
        version: cli.image_version,
        output: cli.output,
        work: cli.cache.join("work"),
        cache: cli.cache,
        contents: cli.contents,
        packages: cli.packages,
        release_key: cli.release_key,
        trusted: cli.trusted,
        firmware: cli.firmware,
        mirror: cli.mirror,
    })?;
    Ok(())
}
