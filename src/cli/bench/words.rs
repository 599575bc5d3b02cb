//! What the figures come to, in words.

use std::collections::BTreeSet;

use longwave::bench::{CaseResult, NOISE, Record, verdict};

/// The lines below the table.
pub fn closing(record: &Record, old: Option<&Record>) -> String {
    let parts: Vec<String> = [
        one_lane(record),
        batch(record),
        large(record),
        prefill(record),
        context(record),
        chunks(record),
    ]
    .into_iter()
    .flatten()
    .collect();
    let mut words = match parts.is_empty() {
        true => String::new(),
        false => format!("\n{}: {}.\n", record.model, parts.join(";\n  ")),
    };
    let wrong: BTreeSet<&str> = record
        .results
        .iter()
        .filter(|result| result.floor_ratio.is_some_and(|ratio| ratio < 1.0))
        .map(|result| result.case.as_str())
        .collect();
    if !wrong.is_empty() {
        let cases = wrong.into_iter().collect::<Vec<_>>().join(", ");
        words += &format!("A ratio under 1 means that the probe of the floor is wrong: {cases}.\n");
    }
    if let Some(old) = old {
        words += &compared(record, old);
    }
    words
}

/// The fastest result of a case on the record's model.
fn find<'a>(record: &'a Record, case: &str) -> Option<&'a CaseResult> {
    let own = record.results.iter().filter(|result| result.case == case);
    own.max_by(|a, b| a.steps_per_s.total_cmp(&b.steps_per_s))
}

fn one_lane(record: &Record) -> Option<String> {
    let result = find(record, "one-lane")?;
    let mut words = format!("{:.2} x real time on one core", result.x_realtime);
    if let Some(ratio) = result.floor_ratio {
        words += &format!(", {ratio:.2} x the floor");
    }
    if result.x_realtime < 1.0 {
        words += ": too slow to play";
    }
    Some(words)
}

fn batch(record: &Record) -> Option<String> {
    let lanes = find(record, "eight-lanes")?.realtime_lanes_per_core?;
    let narrow = find(record, "one-kv-head").and_then(|result| result.realtime_lanes_per_core);
    let narrow = narrow.map(|lanes| format!(", {lanes:.1} with one KV head"));
    let narrow = narrow.unwrap_or_default();
    Some(format!("{lanes:.1} lanes in real time per core{narrow}"))
}

fn large(record: &Record) -> Option<String> {
    let results = record.results.iter().filter(|r| r.case == "two-threads");
    let best = results.max_by_key(|result| result.threads)?;
    let threads = match best.threads {
        1 => "one thread".to_owned(),
        n => format!("{n} threads"),
    };
    let x = best.x_realtime;
    Some(format!(
        "3.2 M parameters play at {x:.2} x real time on {threads}"
    ))
}

fn prefill(record: &Record) -> Option<String> {
    let fastest = record
        .prefill
        .iter()
        .min_by(|a, b| a.seconds.total_cmp(&b.seconds))?;
    let (codes, seconds) = (fastest.codes, fastest.seconds);
    Some(format!(
        "a prompt of {codes} samples is heard in {seconds:.2} s"
    ))
}

fn context(record: &Record) -> Option<String> {
    let points = |dense: bool| {
        let all = record.results.iter();
        let of_kind = all.filter_map(move |result| {
            let context = result.context.filter(|context| context.dense == dense)?;
            Some((context.positions, result.step_ns_p50 as f64))
        });
        of_kind.collect::<Vec<_>>()
    };
    let (sparse, dense) = (points(false), points(true));
    let (first, last) = (sparse.first()?, sparse.last()?);
    let mut words = format!(
        "{} x the context costs {:.2} x a step",
        last.0 / first.0,
        last.1 / first.1
    );
    if let Some((_, ns)) = dense.iter().find(|point| point.0 == first.0) {
        words += &format!(", dense attention {:.0} x", ns / first.1);
    }
    Some(words)
}

fn chunks(record: &Record) -> Option<String> {
    let share = |ns: u64, of: u64| 100.0 * ns as f64 / of as f64;
    // Those of an engine, not those of a card.
    let mut drawn = record.chunks.iter().filter(|chunk| chunk.case == "chunks");
    let plain = drawn.next()?;
    let mut words = format!(
        "99.9 % of the chunks keep to {:.0} % of their time",
        share(plain.chunk_ns_p999, plain.deadline_ns)
    );
    if let Some(busy) = drawn.find(|chunk| chunk.beside.is_some()) {
        let share = share(busy.chunk_ns_p999, busy.deadline_ns);
        words += &format!(", to {share:.0} % beside other work");
    }
    Some(words)
}

/// How many cases differ from the old record, and whether that can mean anything.
fn compared(record: &Record, old: &Record) -> String {
    let steps = record.results.iter().map(|result| result.ratio_to_record);
    let prefill = record.prefill.iter().map(|result| result.ratio_to_record);
    let chunks = record.chunks.iter().map(|result| result.ratio_to_record);
    let ratios: Vec<f64> = steps.chain(prefill).chain(chunks).flatten().collect();
    let count = |word: &str| ratios.iter().filter(|r| verdict(**r) == word).count();
    let of_day = old.date.as_ref().map(|date| format!(" of {date}"));
    let mut words = format!(
        "Against the record{}: {} faster, {} slower, {} within {:.0} %.\n",
        of_day.unwrap_or_default(),
        count("faster"),
        count("slower"),
        count(""),
        100.0 * NOISE,
    );
    if old.model_sha256 != record.model_sha256 {
        words += &format!("That record is of another model, {}.\n", old.model);
    }
    if old.machine.cpu != record.machine.cpu {
        words += &format!("That record is of another machine, {}.\n", old.machine.cpu);
    }
    words
}
