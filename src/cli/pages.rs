//! Commands that only print: completions, man pages, a model, the resolved configuration.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::CommandFactory;
use longwave::config::{self, Config};
use longwave::inspect;
use longwave::model::Model;

use super::args::Cli;
use super::exit::Outcome;

/// `completions SHELL`
pub fn completions(shell: clap_complete::Shell) -> Outcome {
    let mut page = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "longwave", &mut page);
    print(&page)
}

/// `man`: the main page to standard output, or every page into a directory.
pub fn man(directory: Option<PathBuf>) -> Outcome {
    if let Some(directory) = directory {
        return clap_mangen::generate_to(Cli::command(), &directory).map_err(|error| {
            let said = format!("cannot write man pages to {}: {error}", directory.display());
            eyre::Report::new(error).wrap_err(said)
        });
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    print(&page)
}

/// `inspect MODEL`
pub fn inspect(model: Option<PathBuf>) -> Outcome {
    let name = model.unwrap_or_else(|| config::DEFAULT_MODEL.into());
    let model = Arc::new(Model::load(&config::find_model(&name)?)?);
    print(inspect::describe(&model).as_bytes())
}

/// `check-config F.toml`: what it comes to, the models found. Whether this machine plays so many
/// stations in time is measured at start only.
pub fn check_config(path: &Path) -> Outcome {
    let mut config = Config::read(path)?;
    let is_shared = config
        .stations
        .iter()
        .any(|station| station.model.is_none());
    let own = config.stations.iter_mut();
    let own = own.filter_map(|station| station.model.as_mut());
    for model in own.chain(is_shared.then_some(&mut config.model)) {
        *model = config::find_model(model)?;
    }
    print(config.to_string().as_bytes())
}

/// Writes to standard output; a closed pipe is an error like any other, and known as one.
pub fn print(page: &[u8]) -> Outcome {
    let mut stdout = io::stdout().lock();
    stdout.write_all(page)?;
    Ok(stdout.flush()?)
}
