//! The report: what was seen, in words and tables.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{fs, thread};

use eyre::{Result, WrapErr};
use longwave::bench::Host;
use longwave::files;

use crate::changes::{LEAD_MS, PERIOD_MS};
use crate::faults::{Kind, resolution_s};
use crate::listeners::{Counts, GAP_S, Gap, Manner, N_SEATS};
use crate::record::{Record, Window, mean, median};
use crate::verdict::{Judgement, is_uncounted};
use crate::{output_of, picture};

/// What is called a soak.
const WHOLE_MIN: f64 = 120.0;

/// Where and of what it was made.
#[derive(Debug)]
pub struct Place {
    date: String,
    command: String,
    commit: String,
    machine: String,
    beside: String,
}

impl Place {
    pub fn look(beside: &str, command: &str) -> Self {
        let commit = output_of("git", &["rev-parse", "--short", "HEAD"]);
        let changes = output_of("git", &["status", "--porcelain", "--untracked-files=no"]);
        let is_changed = changes.is_some_and(|changes| !changes.is_empty());
        let n_cores = thread::available_parallelism().map_or(1, |n| n.get());
        let now = jiff::Timestamp::now();
        Self {
            date: now.strftime("%Y-%m-%d %H:%M UTC").to_string(),
            command: command.to_owned(),
            commit: commit.unwrap_or_else(|| "unknown".to_owned())
                + if is_changed { " and changes" } else { "" },
            machine: format!(
                "{}, {n_cores} processors for this process",
                Host::this().cpu
            ),
            beside: beside.to_owned(),
        }
    }
}

/// Writes `soak.md` and the pictures; the report's path.
pub fn write(
    dir: &Path,
    record: &Record,
    judgements: &[Judgement],
    place: &Place,
) -> Result<PathBuf> {
    let pictures = dir.join("soak");
    fs::create_dir_all(&pictures).wrap_err("no room for the report")?;
    for (name, svg) in picture::all(record)? {
        files::replace(&pictures.join(name), svg.as_bytes())?;
    }
    let text = [
        head(record, judgements, place),
        verdicts(judgements),
        healing(record),
        card(record),
        listeners(record),
        process(record),
        others(record),
    ];
    let path = dir.join("soak.md");
    files::replace(&path, text.join("\n").as_bytes())?;
    Ok(path)
}

fn head(record: &Record, judgements: &[Judgement], place: &Place) -> String {
    let n_failed = judgements
        .iter()
        .filter(|judgement| !judgement.holds)
        .count();
    let verdict = match n_failed {
        0 => "**Everything held.**".to_owned(),
        1 => "**One thing did not hold.**".to_owned(),
        n => format!("**{n} things did not hold.**"),
    };
    let load = median(record.samples.iter().map(|sample| sample.machine_load));
    let minutes = record.seconds / 60.0;
    let whole = match minutes < WHOLE_MIN {
        true => format!("; a whole soak lasts {WHOLE_MIN:.0}"),
        false => String::new(),
    };
    let Place {
        date,
        command,
        commit,
        machine,
        beside,
    } = place;
    format!(
        "# The soak\n\n\
         A daemon on a sound card that fails again and again, {N_SEATS} listeners who come and go beside one who stays, \
         and a configuration that changes. `{command}` writes this page; `examples/soak/` is what it does. The card is \
         one made of software (`tests/fakecard`), so a real driver's own faults are not in here, and it has no sound \
         server that could be killed: `eio` is the nearest to that, and `scripts/check-sound-server` kills a real one.\n\n\
         {verdict}\n\n\
         | | |\n|---|---|\n\
         | began | {date} |\n\
         | lasted | {minutes:.1} minutes{whole} |\n\
         | commit | {commit} |\n\
         | program | the development build: optimised like the released one, overflow checks and assertions on |\n\
         | machine | {machine} |\n\
         | beside it | {beside}; the machine's load, median: {load:.1} |\n\
         | card | 48 kHz, lead {LEAD_MS} ms, period {PERIOD_MS} ms |\n"
    )
}

fn verdicts(judgements: &[Judgement]) -> String {
    let mut text = "## Verdict\n\n| | | seen |\n|---|---|---|\n".to_owned();
    for Judgement { what, holds, seen } in judgements {
        let word = if *holds { "holds" } else { "**fails**" };
        put(&mut text, format_args!("| {what} | {word} | {seen} |\n"));
    }
    text
}

fn healing(record: &Record) -> String {
    let mut text = format!(
        "## Faults, and how long the card took to play again\n\n\
         From the end of the fault until the daemon's count of frames and the card's recording had both grown by 20 ms \
         of sound: a card that never stopped shows {:.2} s or a little more.\n\n\
         | fault | | n | median | worst | underruns | xruns | opened anew | listeners waited |\n\
         |---|---|---|---|---|---|---|---|---|\n",
        resolution_s()
    );
    for kind in Kind::ALL {
        let faults: Vec<_> = record
            .faults
            .iter()
            .filter(|fault| fault.kind == kind)
            .collect();
        let times = || {
            faults
                .iter()
                .map(|fault| fault.healing_s.unwrap_or(f64::INFINITY))
        };
        let sum = |of: fn(&crate::faults::Fault) -> u64| faults.iter().map(|f| of(f)).sum::<u64>();
        put(
            &mut text,
            format_args!(
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
                kind.name(),
                kind.words(),
                faults.len(),
                seconds(median(times())),
                seconds(times().fold(f64::NAN, f64::max)),
                sum(|fault| fault.n_underruns),
                sum(|fault| fault.n_xruns),
                sum(|fault| fault.n_rebuilds),
                waited(record, Some(kind)),
            ),
        );
    }
    let words = format!(
        "\nUnderruns, xruns and openings are those from the fault's begin until it had healed. *Listeners waited*: how \
         often no packet came to the witness for more than {:.0} ms, and the longest. Without a fault: {}. A card that asks \
         for nothing holds its station up, listeners included, until a timer takes over, after its lead and two periods: \
         nothing is lost by that, but it comes late.\n\n\
         ![healing times by kind of fault](soak/healing.svg)\n",
        1e3 * GAP_S,
        waited(record, None),
    );
    text + &words
}

/// Without a fault there is no time, and one that never heals has no end.
fn seconds(seconds: f64) -> String {
    match seconds {
        seconds if seconds.is_nan() => "–".to_owned(),
        seconds if seconds.is_infinite() => "never".to_owned(),
        seconds => format!("{seconds:.2} s"),
    }
}

/// How often, and how long at most.
fn waited(record: &Record, kind: Option<Kind>) -> String {
    let is_meant = |gap: &&Gap| record.trouble_in(gap.begin_s, gap.begin_s + gap.seconds) == kind;
    let gaps = record.audience.gaps.iter().filter(is_meant);
    match gaps.clone().count() {
        0 => "never".to_owned(),
        n => {
            let longest = gaps.map(|gap| gap.seconds).fold(0.0, f64::max);
            format!("{n}, {longest:.2} s")
        }
    }
}

fn card(record: &Record) -> String {
    let windows = &record.windows;
    let (counted, quiet): (Vec<&Window>, Vec<&Window>) =
        windows.iter().partition(|window| window.n_events() > 0);
    let mut text = "## Between faults\n\n\
        From a second after a healing to the next fault the card should play without a gap. *Still* is time in which \
        the card's recording did not grow, *silent* what it recorded beyond the frames that the daemon counts as given \
        to it.\n\n\
        | windows | n | seconds | still, sum | silent, sum | worst of either | counted |\n|---|---|---|---|---|---|---|\n"
        .to_owned();
    for (name, windows) in [("nothing counted", &quiet), ("something counted", &counted)] {
        let sum = |of: fn(&Window) -> f64| {
            windows
                .iter()
                .map(|window| of(window))
                .fold(0.0, |sum, seconds| sum + seconds)
        };
        let worst = windows
            .iter()
            .map(|window| window.still_s().max(window.silent_s()));
        put(
            &mut text,
            format_args!(
                "| {name} | {} | {:.0} | {:.0} ms | {:.0} ms | {:.0} ms | {} |\n",
                windows.len(),
                sum(Window::seconds),
                1e3 * sum(Window::still_s),
                1e3 * sum(Window::silent_s),
                1e3 * worst.fold(0.0, f64::max),
                windows.iter().map(|window| window.n_events()).sum::<u64>(),
            ),
        );
    }
    let n = |of: fn(&crate::record::Figures) -> u64| {
        windows
            .iter()
            .map(|w| of(&w.to.figures) - of(&w.from.figures))
            .sum::<u64>()
    };
    put(
        &mut text,
        format_args!(
            "\nCounted in them: {} underruns, {} xruns, {} other errors, {} openings. Lost without being counted: in {} \
             windows.\n\n![underruns and xruns over time](soak/underruns.svg)\n",
            n(|figures| figures.underruns),
            n(|figures| figures.xruns),
            n(|figures| figures.errors),
            n(|figures| figures.rebuilds),
            windows.iter().filter(|window| is_uncounted(window)).count(),
        ),
    );
    text
}

fn listeners(record: &Record) -> String {
    let audience = &record.audience;
    let mut text = "## Listeners\n\n\
        | manner | visits | packets | told lost | in | closed as too slow |\n|---|---|---|---|---|---|\n"
        .to_owned();
    let mut row = |name: &str, counts: Counts| {
        put(
            &mut text,
            format_args!(
                "| {name} | {} | {} | {} | {} | {} |\n",
                counts.n_visits,
                counts.n_packets,
                counts.n_told_lost,
                counts.n_losses,
                counts.n_closed_slow
            ),
        );
    };
    row("witness", audience.witness);
    for manner in Manner::ALL {
        row(
            manner.name(),
            audience.counts.get(&manner).copied().unwrap_or_default(),
        );
    }
    put(
        &mut text,
        format_args!(
            "\nThe witness stays from the beginning to the end; {} were told that the daemon ends.\n",
            audience.n_told_end,
        ),
    );
    for fault in &audience.faults {
        put(&mut text, format_args!("\n- {fault}"));
    }
    text
}

fn process(record: &Record) -> String {
    let (first, second) = record.halves();
    let mut text = "## The process\n\nWithout its first minute.\n\n\
        | | first half | second half | least | most |\n|---|---|---|---|---|\n"
        .to_owned();
    let mut row = |name: &str, of: fn(&crate::record::Sample) -> f64| {
        let all = || first.iter().chain(second).map(of);
        put(
            &mut text,
            format_args!(
                "| {name} | {:.2} | {:.2} | {:.2} | {:.2} |\n",
                mean(first.iter().map(of)),
                mean(second.iter().map(of)),
                all().fold(f64::INFINITY, f64::min),
                all().fold(0.0, f64::max),
            ),
        );
    };
    row("resident memory, MiB", |sample| {
        sample.rss_kib as f64 / 1024.0
    });
    row("descriptors", |sample| sample.n_descriptors as f64);
    row("listeners", |sample| sample.figures.listeners as f64);
    row("threads", |sample| sample.n_threads as f64);
    text + "\n![memory](soak/memory.svg)\n\n![descriptors and threads](soak/descriptors.svg)\n"
}

fn others(record: &Record) -> String {
    let unready = record.samples.iter().filter(|sample| !sample.is_ready);
    let n_unready = unready.clone().count();
    let n_untroubled = unready
        .filter(|sample| record.trouble_in(sample.at_s, sample.at_s).is_none())
        .count();
    let last = record
        .samples
        .last()
        .map(|sample| sample.figures)
        .unwrap_or_default();
    let sound_s = last.codes as f64 / 16_000.0;
    let at_s = record.samples.last().map_or(0.0, |sample| sample.at_s);
    let mut text = format!(
        "## What else was seen\n\n\
         - `/readyz` said no in {n_unready} of {} samples, {n_untroubled} of them without a fault.\n\
         - {sound_s:.0} s of sound were drawn at 16 kHz in {at_s:.0} s; {} chunks were computed too late, and {} times the \
         station returned from a collapse.\n\
         - {} listeners were seated, {} refused.\n",
        record.samples.len(),
        last.late_chunks,
        last.collapses,
        last.seated,
        last.refused,
    );
    for change in record
        .changes
        .iter()
        .filter(|change| change.fault.is_some())
    {
        let fault = change.fault.as_deref().unwrap_or_default();
        put(
            &mut text,
            format_args!("- {:.0} s, {}: {fault}\n", change.at_s, change.what),
        );
    }
    text
}

fn put(text: &mut String, words: std::fmt::Arguments<'_>) {
    text.write_fmt(words)
        .expect("a string takes all that is written to it");
}
