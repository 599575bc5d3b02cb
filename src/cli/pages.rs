//! Commands that only print: completions, man pages, a model, the resolved configuration.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::CommandFactory;
use longwave::config::{self, Config};
use longwave::files;
use longwave::inspect::{self, Panel};
use longwave::model::pattern::Defaults;
use longwave::model::{Layer, Model, ModelError};
use serde_json::Value;

use super::args::{Cli, InspectArgs};
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

/// `inspect`
pub fn inspect(args: InspectArgs) -> Outcome {
    if let Some(entry) = &args.pattern {
        return inspect_pattern(entry, args.picture.as_deref());
    }
    let name = args.model.unwrap_or_else(|| config::DEFAULT_MODEL.into());
    let model = Arc::new(Model::load(&config::find_model(&name)?)?);
    if let Some(path) = &args.picture {
        let panels = inspect::panels(&model.config);
        write_picture(path, &format!("Who sees whom in {}", model.name), &panels)?;
    }
    print(inspect::describe(&model).as_bytes())
}

/// A word alone has the reach of the model that is shipped.
fn inspect_pattern(entry: &str, picture: Option<&Path>) -> Outcome {
    const REACH: Defaults = Defaults {
        stride: 256,
        context: 65_536,
    };
    const RATE: u32 = 16_000;
    let refused = |reason| ModelError::Config {
        path: "--pattern".into(),
        reason,
    };
    let value = match entry.starts_with(['{', '[', '"']) {
        true => serde_json::from_str(entry).map_err(|error| refused(error.to_string()))?,
        false => Value::String(entry.into()),
    };
    let n_kv_heads = value.as_array().map_or(1, |list| list.len().max(1));
    let layer = Layer::parse(&value, &REACH, n_kv_heads).map_err(refused)?;
    if let Some(path) = picture {
        let panels: Vec<_> = layer
            .patterns()
            .map(|head| Panel {
                title: head.kind().into(),
                head,
            })
            .collect();
        write_picture(path, &format!("Who sees whom: {}", layer.kind()), &panels)?;
    }
    print(inspect::describe_layer(&layer, RATE).as_bytes())
}

fn write_picture(path: &Path, title: &str, panels: &[Panel<'_>]) -> Outcome {
    let svg = inspect::draw(title, panels)?;
    files::replace(path, svg.as_bytes()).map_err(|error| {
        let said = format!(
            "cannot write {}: {error}; --picture names a file",
            path.display()
        );
        eyre::Report::new(error).wrap_err(said)
    })
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
