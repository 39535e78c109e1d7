//! `sluice check`: a configuration file without starting it.

use crate::failure::Failure;
use crate::serve::{environment, read_current};
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The configuration file.
    file: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let file = read_current(Some(&arguments.file))?;
    // An address nobody calls: names must resolve, nothing is started.
    let simulator = file.needs_simulator(environment).then_some("http://127.0.0.1:9/v1");
    let config = file.check(environment, simulator)?;
    let models = config.catalog.models().count();
    let (providers, policies) = (config.providers.len(), config.policies.len());
    println!("{}: good; {providers} providers, {models} models, {policies} policies", arguments.file.display());
    for notice in &config.notices {
        println!("  * {notice}");
    }
    Ok(())
}
