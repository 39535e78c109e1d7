//! `sluice policy`: what policies decide, without a request.

use crate::failure::Failure;
use crate::serve::{environment, read_current};
use gateway::{ConfigFile, config::Tried};
use std::path::PathBuf;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Tries the examples beside the policies: each names the model that is to serve a request.
    Test(Arguments),
}

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The configuration; the policies of its folder `policies/` are tried, too.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A file with the [[models]] that the examples name, in place of those that can be reached here.
    #[arg(long, value_name = "FILE")]
    models: Option<PathBuf>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// An address nobody calls: names must resolve, nothing is started.
const NOBODY: &str = "http://127.0.0.1:9/v1";

pub(crate) fn run(command: Command) -> Result<(), Failure> {
    let Command::Test(arguments) = command;
    let file = read_current(arguments.config.as_deref())?;
    let config = match &arguments.models {
        None => {
            let simulator = file.needs_simulator(environment).then_some(NOBODY);
            file.check(environment, simulator)?
        }
        Some(models) => file.with_models_of(ConfigFile::read(models)?).check(|_| None, Some(NOBODY))?,
    };
    let tried = config.try_examples();
    if tried.is_empty() {
        return Err(Failure::Usage("no policy has an example; add [[examples]] with prompt and picks".to_owned()));
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&tried).map_err(std::io::Error::other)?);
    }
    let (left_out, tried): (Vec<Tried>, Vec<Tried>) = tried.into_iter().partition(|tried| tried.is_out_of_reach);
    let wrong = tried.iter().filter(|tried| !tried.is_right()).count();
    for tried in left_out.iter().filter(|_| !arguments.json) {
        println!("–      {:<14} nobody serves {} here", tried.policy, tried.picks);
    }
    for tried in tried.iter().filter(|_| !arguments.json) {
        let picked = tried.picked.as_deref().unwrap_or("nobody");
        let prompt: String = tried.prompt.lines().next().unwrap_or_default().chars().take(60).collect();
        if tried.is_right() {
            println!("ok     {:<14} {picked}: {prompt}", tried.policy);
        } else {
            println!(
                "WRONG  {:<14} {picked} instead of {}: {prompt}\n       {}",
                tried.policy, tried.picks, tried.reason
            );
        }
    }
    match wrong {
        0 if tried.is_empty() => {
            Err(Failure::Usage("nobody serves a model that an example names; see --models".to_owned()))
        }
        0 => Ok(()),
        _ => Err(Failure::Examples { wrong, all: tried.len() }),
    }
}
