//! `bench`: a table that grows as it is measured, or one JSON object; pictures beside either.

mod table;
mod words;

use std::sync::Arc;
use std::time::Duration;

use indicatif::ProgressBar;
use longwave::bench::{self, Case, Plan, Record};
use longwave::config::find_model;
use longwave::machine::Machine;
use longwave::model::Model;
use longwave::setup;

use super::args::BenchArgs;
use super::exit::Outcome;
use super::interrupt;
use super::pages::print;
use table::Table;

/// Runs the cases; a spinner says that it goes on.
pub fn run(mut args: BenchArgs) -> Outcome {
    let config = args.resolve()?;
    // Before anything is measured: a mistake should not take a minute to be found.
    let old = args.compare.as_deref().map(Record::read).transpose()?;
    let model = Arc::new(Model::load(&find_model(&config.model)?)?);
    let asked = config
        .threads
        .map(|_| setup::threads(&config, &model.config, &Machine::read()));
    let plan = Plan {
        cases: cases(&args),
        device: config.device,
        isa: config.available_isa()?,
        threads: asked.map(|(n_threads, _)| n_threads),
        time_per_case: Duration::from_secs_f64(args.seconds),
        beside: args.beside,
    };
    if plan.beside.is_some() {
        kill_beside_when_interrupted()?;
    }
    let mut table = Table::new(old.as_ref());
    if !args.json {
        print(table.head(&model.name).as_bytes())?;
    }
    let mut record = measure(
        &model,
        &plan,
        &mut |text| match args.json {
            true => Ok(()),
            false => print(text.as_bytes()),
        },
        &mut table,
    )?;
    if let Some(old) = &old {
        record.compare(old);
    }
    match args.json {
        true => print(format!("{}\n", record.to_json()).as_bytes())?,
        false => print(words::closing(&record, old.as_ref()).as_bytes())?,
    }
    if let Some(dir) = &args.plot {
        for path in bench::plot(&record, dir)? {
            eprintln!("{}", path.display());
        }
    }
    Ok(())
}

/// Those asked for, or all that are about the model as it is.
fn cases(args: &BenchArgs) -> Vec<Case> {
    if args.patterns {
        return vec![Case::Patterns];
    }
    let is_asked = |case: &Case| match args.case.as_slice() {
        [] => *case != Case::Patterns,
        asked => asked.iter().any(|asked| asked == case.name()),
    };
    Case::ALL.into_iter().filter(is_asked).collect()
}

/// Measures, handing each line of the table over as it comes.
fn measure(
    model: &Arc<Model>,
    plan: &Plan,
    tell: &mut dyn FnMut(&str) -> Outcome,
    table: &mut Table<'_>,
) -> eyre::Result<Record> {
    let spinner = ProgressBar::new_spinner().with_message("measuring; other work disturbs it");
    // Rarely: drawing it is other work, too.
    spinner.enable_steady_tick(Duration::from_millis(250));
    let mut told = Ok(());
    let record = bench::run(model, plan, &mut |seen| {
        let text = table.lines(&seen);
        if told.is_ok() {
            told = spinner.suspend(|| tell(&text));
        }
    });
    spinner.finish_and_clear();
    told.and(Ok(record?))
}

/// The command has a process group of its own, which Ctrl-C does not reach.
fn kill_beside_when_interrupted() -> Outcome {
    let end = || {
        bench::stop_beside();
        std::process::exit(1);
    };
    interrupt::watch(end, || {})
}
