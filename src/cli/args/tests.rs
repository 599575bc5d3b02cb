//! The help teaches and tells the truth, and what is typed becomes the right configuration.

use clap::CommandFactory;
use longwave::config::CardUse;

use super::*;

fn config(line: &str) -> Config {
    match Cli::parse_from(line.split(' ')).command {
        Command::Serve(args) => args.resolve().unwrap(),
        #[cfg(feature = "playback")]
        Command::Play(args) => args.resolve().unwrap(),
        other => panic!("{other:?} has no configuration"),
    }
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn the_help_names_the_true_defaults() {
    let help = Cli::command()
        .find_subcommand_mut("serve")
        .unwrap()
        .render_long_help()
        .to_string();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for default in [
        config::DEFAULT_MODEL.to_owned(),
        Config::default().network.listen,
    ] {
        assert!(
            help.contains(&format!("[default: {default}]")),
            "{default}: {help}"
        );
    }
}

#[test]
fn every_command_teaches_by_example() {
    for command in Cli::command().get_subcommands() {
        let examples = command.get_after_help().map(ToString::to_string);
        let examples = examples.unwrap_or_default();
        let lines = examples
            .lines()
            .filter(|line| line.starts_with("  longwave "));
        assert!(
            lines.count() >= 2,
            "{} has too few examples",
            command.get_name()
        );
    }
}

#[test]
fn every_example_of_the_help_can_be_typed() {
    let command = Cli::command();
    let helps = command
        .get_subcommands()
        .filter_map(clap::Command::get_after_help);
    for line in helps.flat_map(|help| {
        let lines = help.to_string();
        lines.lines().map(str::to_owned).collect::<Vec<_>>()
    }) {
        let Some(line) = line.strip_prefix("  longwave ") else {
            continue;
        };
        let line = line.split(['>', '|', '"']).next().unwrap().trim();
        let words = ["longwave"].into_iter().chain(line.split(' '));
        if let Err(why) = Cli::try_parse_from(words) {
            // A name that the shell would have put in is cut off with its quotes.
            assert!(line.ends_with("--output-device"), "{line}: {why}");
        }
    }
}

#[test]
fn the_command_line_goes_before_the_defaults() {
    let config = config("longwave serve --listen 0.0.0.0:1 --open --seed 7 --top-p 0.5 -m tiny");
    assert_eq!(config.network.listen, "0.0.0.0:1");
    assert_eq!(
        (config.stations[0].seed, config.stations[0].draw.top_p),
        (Some(7), Some(0.5))
    );
    assert_eq!(config.model, PathBuf::from("tiny"));
    assert_eq!(config.cards, Config::default().cards);
}

#[test]
fn threads_and_isa_go_before_the_file_and_a_model_is_every_stations() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    let text = "isa = \"avx2\"\nthreads = 2\n[[station]]\nmodel = \"x\"\n";
    std::fs::write(&file, text).unwrap();
    let line = format!("longwave serve --config {}", file.display());
    assert_eq!(config(&line).threads, Some(2));
    let config = config(&format!("{line} --threads 1 --isa portable --model tiny"));
    assert_eq!(config.threads, Some(1));
    assert_eq!(
        (config.isa.as_deref(), config.isa_from),
        (Some("portable"), "--isa")
    );
    assert!(config.models().eq([std::path::Path::new("tiny")]));
}

#[test]
fn naming_a_card_requires_it() {
    let card = &config("longwave serve --output-device hw:1").cards[0];
    assert_eq!(card.enabled, CardUse::Required);
    #[cfg(feature = "playback")]
    assert_eq!(config("longwave play").cards[0].enabled, CardUse::Required);
    assert_eq!(
        config("longwave serve --no-card").cards[0].enabled,
        CardUse::Off
    );
}

#[test]
fn numbers_out_of_their_limits_are_refused() {
    for line in [
        "longwave serve --temperature nan",
        "longwave serve --temperature -1",
        "longwave serve --temperature 0.009",
        "longwave serve --top-p 0",
        "longwave serve --min-p 1",
        "longwave serve --seed -1",
        "longwave render -o a.wav -s 0",
        "longwave render -o a.wav -s inf",
        "longwave render -o a.wav -s 1 --rate 1",
        "longwave serve --listen 8420",
        "longwave serve --threads 0",
        "longwave bench --threads 17",
    ] {
        assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
    }
}
