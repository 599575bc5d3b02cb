//! Errors become exit codes here and nowhere else.

use std::error::Error;
use std::io;
use std::process::ExitCode;

use super::control::ControlError;
use clap::error::ErrorKind;
use longwave::access::TokensError;
use longwave::audit::AuditError;
use longwave::bench::RecordError;
use longwave::config::ConfigError;
use longwave::corpus::CorpusError;
use longwave::daemon::{CardError, DaemonError};
use longwave::eval::EvalError;
use longwave::listen::ListenError;
use longwave::model::ModelError;
use longwave::render::RenderError;
use longwave::setup::SetupError;
use longwave::state::StateError;
use longwave::tls::TlsError;
use longwave::train::{CodesError, DeviceError, TrainError};
use longwave::wav::WavError;

/// A command's end; `main` alone prints the error.
pub type Outcome = eyre::Result<()>;

/// Something went wrong that is nobody's fault but the program's or the machine's.
const INTERNAL: u8 = 1;
/// The command line is not understood.
const USAGE: u8 = 64;
/// A sound card, a port or room on the disk is not to be had now: trying again may help.
const UNAVAILABLE: u8 = 69;
/// The configuration, the model, the recordings, a corpus or a record is wrong, or asks for more
/// than this machine can: repetition does not help.
const CONFIG: u8 = 78;

/// Prints one sentence if there is something to say.
pub fn report(outcome: &Outcome) -> ExitCode {
    let Err(error) = outcome else {
        return ExitCode::SUCCESS;
    };
    if is_closed_pipe(error) {
        // Whoever reads us has enough: `longwave inspect | head` is a success.
        return ExitCode::SUCCESS;
    }
    eprintln!("longwave: {error}");
    ExitCode::from(code(error))
}

/// Prints what clap says: help as it is, errors as one sentence.
pub fn usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A closed pipe is the reader's choice.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
        }
        _ => eprintln!("longwave: {}", one_sentence(&error.render().to_string())),
    }
    ExitCode::from(USAGE)
}

fn code(error: &eyre::Report) -> u8 {
    // Whichever command was writing: there may be room another time.
    if error.chain().any(is_out_of_room) {
        return UNAVAILABLE;
    }
    error.chain().find_map(code_of).unwrap_or(INTERNAL)
}

/// A disk that is full, a quota that is used up, or a limit of how large a file may be.
fn is_out_of_room(cause: &(dyn Error + 'static)) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    let error = cause.downcast_ref::<io::Error>();
    error.is_some_and(|error| matches!(error.kind(), FileTooLarge | QuotaExceeded | StorageFull))
}

fn code_of(cause: &(dyn Error + 'static)) -> Option<u8> {
    if let Some(SetupError::Device(_)) = cause.downcast_ref() {
        return Some(UNAVAILABLE);
    }
    if cause.is::<longwave::engine::DeviceError>() {
        return Some(UNAVAILABLE);
    }
    if cause.is::<ConfigError>()
        || cause.is::<ModelError>()
        || cause.is::<SetupError>()
        || cause.is::<StateError>()
    {
        return Some(CONFIG);
    }
    if cause.is::<RecordError>() || cause.is::<TokensError>() || cause.is::<TlsError>() {
        return Some(CONFIG);
    }
    if let Some(error) = cause.downcast_ref() {
        return Some(of_control(error));
    }
    if cause.is::<CardError>() {
        return Some(UNAVAILABLE);
    }
    let daemon = cause.downcast_ref().and_then(of_daemon);
    let render = || cause.downcast_ref().and_then(of_render);
    let listen = || cause.downcast_ref().and_then(of_listen);
    let corpus = || cause.downcast_ref().and_then(of_corpus);
    let train = || cause.downcast_ref().and_then(of_train);
    let eval = || cause.downcast_ref().and_then(of_eval);
    let audit = || cause.downcast_ref().and_then(of_audit);
    daemon
        .or_else(render)
        .or_else(listen)
        .or_else(corpus)
        .or_else(train)
        .or_else(eval)
        .or_else(audit)
}

fn of_control(error: &ControlError) -> u8 {
    use ControlError as E;
    match error {
        E::Unreachable { .. } | E::Refused { status: 503, .. } => UNAVAILABLE,
        E::Typed(_) | E::Refused { .. } | E::Foreign(_) => USAGE,
    }
}

fn of_audit(error: &AuditError) -> Option<u8> {
    use AuditError as E;
    match error {
        E::Corpus(error) => of_corpus(error),
        E::Wav(_) | E::TooShort(_) | E::Rate { .. } | E::Reference { .. } => Some(CONFIG),
        E::Write { .. } | E::Draw(_) | E::Interrupted => None,
    }
}

fn of_daemon(error: &DaemonError) -> Option<u8> {
    match error {
        DaemonError::Setup(SetupError::Device(_)) => Some(UNAVAILABLE),
        DaemonError::Setup(_) | DaemonError::Overload(_) => Some(CONFIG),
        DaemonError::Tokens(_) | DaemonError::Tls(_) => Some(CONFIG),
        DaemonError::Listen { .. } | DaemonError::Card(_) | DaemonError::Network(_) => {
            Some(UNAVAILABLE)
        }
        _ => None,
    }
}

fn of_render(error: &RenderError) -> Option<u8> {
    match error {
        // More than a file can hold, a rate that nothing converts to, or no file was asked for.
        RenderError::Rate(_) => Some(USAGE),
        RenderError::Write(WavError::TooLong { .. } | WavError::NoFile { .. }) => Some(USAGE),
        RenderError::Replay(_) => Some(CONFIG),
        RenderError::Write(_) | RenderError::Interrupted(_) => None,
    }
}

fn of_listen(error: &ListenError) -> Option<u8> {
    use ListenError as E;
    match error {
        E::Url(_) | E::Handshake { .. } | E::NoStation { .. } => Some(USAGE),
        #[cfg(feature = "playback")]
        E::Card(_) => Some(UNAVAILABLE),
        E::Refused { status: 503, .. } => Some(UNAVAILABLE),
        E::Refused { .. } => Some(USAGE),
        E::Connect { .. } | E::NoAnswer { .. } | E::Closed { .. } => Some(UNAVAILABLE),
        E::Broken | E::Silent | E::Io(_) | E::Socket(_) => Some(UNAVAILABLE),
        _ => None,
    }
}

fn of_corpus(error: &CorpusError) -> Option<u8> {
    use CorpusError as E;
    match error {
        // Another place, or other options, and it works.
        E::Inside(_) | E::Foreign(_) | E::OtherOptions { .. } | E::OtherFolder { .. } => {
            Some(USAGE)
        }
        E::Busy(_) => Some(UNAVAILABLE),
        E::NoSplit { .. } | E::Read { .. } | E::NoFolder(_) | E::NoRecordings { .. } => {
            Some(CONFIG)
        }
        E::Manifest { .. } | E::NothingUsable { .. } => Some(CONFIG),
        E::Full { .. } | E::Write { .. } | E::Wav(_) | E::Interrupted { .. } => None,
    }
}

fn of_train(error: &TrainError) -> Option<u8> {
    use TrainError as E;
    match error {
        E::Codes(error) => of_codes(error),
        E::Device(DeviceError::NotBuilt) | E::Setting(_) => Some(USAGE),
        E::Exists(_) | E::Occupied(_) | E::NothingToResume(_) => Some(USAGE),
        E::Device(DeviceError::Unavailable { .. }) | E::Busy(_) => Some(UNAVAILABLE),
        // What could not be written is the disk's fault, what was read the model's.
        E::Model(ModelError::Write { .. }) => None,
        E::Model(_) | E::Short { .. } | E::OtherArchitecture { .. } => Some(CONFIG),
        E::Damaged { .. } | E::Diverged { .. } => Some(CONFIG),
        E::Io { .. } | E::Compute(_) => None,
    }
}

fn of_codes(error: &CodesError) -> Option<u8> {
    match error {
        CodesError::Interrupted => None,
        CodesError::Corpus(_) | CodesError::Wav(_) | CodesError::TooLong { .. } => Some(CONFIG),
    }
}

fn of_eval(error: &EvalError) -> Option<u8> {
    match error {
        EvalError::Codes(error) => of_codes(error),
        EvalError::Compute(error) => of_train(error),
        EvalError::Short { .. } => Some(CONFIG),
        EvalError::Nothing => Some(USAGE),
        EvalError::Interrupted => None,
    }
}

fn is_closed_pipe(error: &eyre::Report) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Joins clap's paragraphs; of the usage, only where to read more.
fn one_sentence(rendered: &str) -> String {
    let usage = rendered
        .lines()
        .find_map(|line| line.strip_prefix("Usage: longwave "));
    let command = usage
        .and_then(|usage| usage.split(' ').next())
        .filter(|word| is_command(word));
    let help = command.map_or("longwave --help".into(), |word| {
        format!("longwave {word} --help")
    });
    let told: Vec<&str> = rendered
        .lines()
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let told = told.join("; ").replace(":; ", ": ");
    format!("{}; see {help}", told.trim_start_matches("error: "))
}

fn is_command(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use longwave::capacity::{Capacity, Costs, EngineLoad};

    use std::path::PathBuf;

    use super::*;
    use crate::cli::args::Cli;

    fn sentence(line: &str) -> String {
        let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
        one_sentence(&error.render().to_string())
    }

    #[test]
    fn clap_is_heard_in_one_sentence() {
        assert_eq!(
            sentence("longwave serve --sed 3"),
            "unexpected argument '--sed' found; tip: a similar argument exists: '--seed'; \
             see longwave serve --help"
        );
        assert_eq!(
            sentence("longwave render -s 3"),
            "the following required arguments were not provided: --output <F.wav>; \
             see longwave render --help"
        );
        assert_eq!(
            sentence("longwave serve --top-p 2"),
            "invalid value '2' for '--top-p <P>': must be above 0 and at most 1, not 2; \
             see longwave --help"
        );
    }

    #[test]
    fn more_stations_than_fit_are_the_configurations_fault() {
        let costs = Costs {
            one: 0.5,
            n_lanes: 2,
            all: 1.0,
        };
        let load = EngineLoad::new("slow", 2, costs);
        let overload = Capacity::new(vec![load], 64).judge(&[0, 0], false);
        let error = DaemonError::from(overload.unwrap_err());
        assert_eq!(code(&eyre::Report::new(error)), CONFIG);
    }

    /// What commands make of it that the system would not write.
    fn unwritten(kind: io::ErrorKind) -> Vec<eyre::Report> {
        let (path, source) = (PathBuf::from("a"), io::Error::from(kind));
        macro_rules! of {
            ($($error:ident)::+ $(, $field:ident: $value:expr)?) => {
                $($error)::+ { $($field: $value,)? path: path.clone(), source: source.kind().into() }
            };
        }
        let wav = || of!(WavError::Write);
        vec![
            RenderError::from(wav()).into(),
            ListenError::from(wav()).into(),
            TrainError::from(of!(ModelError::Write)).into(),
            of!(TrainError::Io, verb: "write").into(),
            of!(CorpusError::Write).into(),
            of!(CorpusError::Full).into(),
            of!(AuditError::Write).into(),
            source.into(),
        ]
    }

    #[test]
    fn whichever_command_finds_the_disk_full_may_be_tried_again() {
        use io::ErrorKind::{FileTooLarge, PermissionDenied, QuotaExceeded, StorageFull};
        for kind in [FileTooLarge, QuotaExceeded, StorageFull] {
            for error in unwritten(kind) {
                assert_eq!(code(&error), UNAVAILABLE, "{error:?}");
            }
        }
        for error in unwritten(PermissionDenied) {
            assert_eq!(code(&error), INTERNAL, "{error:?}");
        }
    }

    #[test]
    fn a_wrapped_error_keeps_its_code() {
        let error = ConfigError::Value {
            key: "card.lead_ms".into(),
            why: "must be more".into(),
        };
        let error = eyre::Report::new(error).wrap_err("while starting");
        assert_eq!(code(&error), CONFIG);
        assert_eq!(code(&eyre::eyre!("no idea")), INTERNAL);
    }
}
