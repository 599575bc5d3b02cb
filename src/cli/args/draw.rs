//! The options that say how codes are drawn: one for each parameter.

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use longwave::draw::{DrawPatch, PARAMETERS, Parameter};

use super::within;

/// What was typed of them.
#[derive(Clone, Debug, Default)]
pub struct DrawArgs(pub DrawPatch);

impl Args for DrawArgs {
    fn augment_args(command: Command) -> Command {
        command.args(PARAMETERS.each().map(|(parameter, _)| option(parameter)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for DrawArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let typed = |parameter: Parameter| matches.get_one(parameter.key).copied();
        Ok(Self(PARAMETERS.map(typed)))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0 = Self::from_arg_matches(matches)?.0.or(self.0);
        Ok(())
    }
}

fn option(parameter: Parameter) -> Arg {
    Arg::new(parameter.key)
        .long(parameter.key.replace('_', "-"))
        .value_name(parameter.value_name)
        .allow_negative_numbers(true)
        .value_parser(within::<f32>(parameter.limits))
        .help(format!("{} [default: the model's]", parameter.help))
}
