//! `bench`: a table that grows as it is measured, or one JSON object.

use std::sync::Arc;
use std::time::Duration;

use indicatif::ProgressBar;
use longwave::bench::{self, CaseResult, Plan};
use longwave::config::find_model;
use longwave::machine::Machine;
use longwave::model::Model;
use longwave::setup;

use super::args::BenchArgs;
use super::exit::Outcome;
use super::pages::print;

/// Runs every case; a spinner says which one has just been done.
pub fn run(mut args: BenchArgs) -> Outcome {
    let config = args.resolve()?;
    let model = Arc::new(Model::load(&find_model(&config.model)?)?);
    let asked = config
        .threads
        .map(|_| setup::threads(&config, &model.config, &Machine::read()));
    let plan = Plan {
        isa: config.available_isa()?,
        threads: asked.map(|(n_threads, _)| n_threads),
        time_per_case: Duration::from_secs_f64(args.seconds),
    };
    if !args.json {
        print(header(&model).as_bytes())?;
    }
    let spinner = ProgressBar::new_spinner().with_message("measuring; other work disturbs it");
    spinner.enable_steady_tick(Duration::from_millis(100));
    let mut told = Ok(());
    let results = bench::run(&model, &plan, |result| {
        if !args.json && told.is_ok() {
            told = spinner.suspend(|| print(row(result).as_bytes()));
        }
    });
    spinner.finish_and_clear();
    told?;
    match args.json {
        true => print(format!("{}\n", bench::to_json(&model, &results)).as_bytes()),
        false => Ok(()),
    }
}

fn header(model: &Model) -> String {
    format!(
        "{} on {}\n{:<12} {:<12} {:>5} {:>10} {:>11} {:>9} {:>9} {:>9}\n",
        model.name,
        bench::cpu_name(),
        "case",
        "isa",
        "lanes",
        "steps/s",
        "x real time",
        "p50 us",
        "p99 us",
        "p99.9 us",
    )
}

fn row(result: &CaseResult) -> String {
    let us = |ns: u64| ns as f64 / 1e3;
    format!(
        "{:<12} {:<12} {:>5} {:>10.0} {:>11.3} {:>9.1} {:>9.1} {:>9.1}\n",
        result.case,
        result.isa,
        result.lanes,
        result.steps_per_s,
        result.x_realtime,
        us(result.step_ns_p50),
        us(result.step_ns_p99),
        us(result.step_ns_p999),
    )
}
