//! `longwave`: understands the command line, does what it says, and turns errors into exit codes.

mod cli;

use std::process::ExitCode;

use clap::Parser;
use cli::args::{Cli, Command};
use cli::exit::Outcome;
use cli::pages;

fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => cli::exit::report(&run(cli.command)),
        Err(error) => cli::exit::usage(&error),
    }
}

fn run(command: Command) -> Outcome {
    match command {
        Command::Audit(args) => cli::audit::run(args),
        Command::Bench(args) => cli::bench::run(args),
        Command::CheckConfig(args) => pages::check_config(&args.config),
        Command::Completions { shell } => pages::completions(shell),
        Command::Control(args) => cli::control::run(&args),
        #[cfg(feature = "playback")]
        Command::Devices(args) => cli::devices::run(args.names),
        Command::Eval(args) => cli::eval::run(&args),
        Command::Inspect(args) => pages::inspect(args),
        Command::Link(args) => cli::link::run(&args),
        Command::Listen(args) => cli::listen::run(args),
        Command::Man { output } => pages::man(output),
        #[cfg(feature = "playback")]
        Command::Play(args) => cli::live::run(&args.resolve()?, None),
        Command::Prepare(args) => cli::prepare::run(args),
        Command::Render(args) => cli::render::run(args),
        Command::Serve(args) => {
            let read = || args.clone().resolve();
            cli::live::run(&read()?, Some(&read))
        }
        Command::Train(args) => cli::train::run(&args),
    }
}
