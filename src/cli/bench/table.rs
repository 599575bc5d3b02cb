//! The table: a section for each case, a row for each measurement.

use longwave::bench::{
    CaseResult, ChunkResult, Host, PatternFacts, PrefillResult, Record, Seen, verdict,
};

/// Makes lines of what is seen; remembers what later lines are compared with.
pub struct Table<'a> {
    old: Option<&'a Record>,
    /// Steps a second of one lane, by instruction set.
    one_lane: Vec<(String, f64)>,
    /// Lanes a core keeps in real time, once eight were measured.
    batch_lanes: Option<f64>,
    /// What the head of the columns above was for.
    columns: Columns,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Columns {
    None,
    Steps,
    Prefill,
    Chunks,
    Patterns,
}

impl<'a> Table<'a> {
    /// An empty table, with a column for `old` if there is one.
    pub fn new(old: Option<&'a Record>) -> Self {
        Self {
            old,
            one_lane: Vec::new(),
            batch_lanes: None,
            columns: Columns::None,
        }
    }

    /// What stands above everything.
    pub fn head(&self, model: &str) -> String {
        let host = Host::this();
        let mut head = format!("{model} on {}", host.cpu);
        if let Some(cores) = host.cores {
            head += &format!(", {cores} cores");
        }
        for (bytes, name) in [(host.l2_bytes, "L2"), (host.l3_bytes, "L3")] {
            if let Some(bytes) = bytes {
                head += &format!(", {:.0} KiB {name}", bytes as f64 / 1024.0);
            }
        }
        head + "\n"
    }

    /// The lines for what has just been seen.
    pub fn lines(&mut self, seen: &Seen<'_>) -> String {
        match seen {
            Seen::Case(case) => format!("\n{}\n", case.title()),
            Seen::Gpu(title) => format!("\n{title}\n"),
            Seen::Steps(result) => {
                let ratio = self.old.and_then(|old| old.ratio_of_steps(result));
                if let Some(facts) = &result.pattern {
                    let row = pattern(result, facts) + &self.compared(ratio) + "\n";
                    return self.columns(Columns::Patterns) + &row;
                }
                let row = steps(result) + &self.compared(ratio) + "\n";
                self.columns(Columns::Steps) + &row + &self.note(result)
            }
            Seen::Prefill(result) => {
                let ratio = self.old.and_then(|old| old.ratio_of_prefill(result));
                let row = prefill(result) + &self.compared(ratio) + "\n";
                self.columns(Columns::Prefill) + &row
            }
            Seen::Chunks(result) => {
                let ratio = self.old.and_then(|old| old.ratio_of_chunks(result));
                let row = chunks(result) + &self.compared(ratio) + "\n";
                self.columns(Columns::Chunks) + &row
            }
        }
    }

    /// The head of the columns, where other ones stood before.
    fn columns(&mut self, columns: Columns) -> String {
        if self.columns == columns {
            return String::new();
        }
        self.columns = columns;
        let record = if self.old.is_some() {
            "  to record"
        } else {
            ""
        };
        let columns = match columns {
            Columns::None => String::new(),
            Columns::Steps => format!(
                "{:<15} {:<11} {:>7} {:>5} {:>8} {:>11} {:>8} {:>8} {:>8} {:>5} {:>6} {:>8} {:>5}",
                "case",
                "isa",
                "threads",
                "lanes",
                "steps/s",
                "x real time",
                "p50 us",
                "p99 us",
                "p99.9 us",
                "GB/s",
                "GMAC/s",
                "floor us",
                "ratio",
            ),
            Columns::Patterns => format!(
                "{:<15} {:<11} {:>8} {:>8} {:>9} {:>8} {:>5} {:>6} {:>9} {:>9} {:>9}",
                "kind",
                "isa",
                "p50 us",
                "p99 us",
                "p99.9 us",
                "floor us",
                "ratio",
                "keys",
                "read KiB",
                "lane MiB",
                "reach",
            ),
            Columns::Prefill => format!(
                "{:<15} {:<11} {:>7} {:>8} {:>8} {:>11} {:>12}",
                "case", "isa", "cores", "codes", "seconds", "x real time", "by steps, s",
            ),
            Columns::Chunks => format!(
                "{:<15} {:<11} {:>7} {:>5} {:>7} {:>7} {:>7} {:>7} {:>7}",
                "case", "isa", "threads", "lanes", "chunks", "p50", "p99", "p99.9", "max",
            ),
        };
        columns + record + "\n"
    }

    fn compared(&self, ratio: Option<f64>) -> String {
        match ratio {
            Some(ratio) => format!("  {ratio:.2} {}", verdict(ratio))
                .trim_end()
                .to_owned(),
            None if self.old.is_some() => "  -".to_owned(),
            None => String::new(),
        }
    }

    /// What a batch means in lanes.
    fn note(&mut self, result: &CaseResult) -> String {
        if result.lanes == 1 {
            if result.model.is_none() && result.context.is_none() {
                self.one_lane.push((result.isa.clone(), result.steps_per_s));
            }
            return String::new();
        }
        let Some(lanes) = result.realtime_lanes_per_core else {
            return String::new();
        };
        let mut note = format!("  {lanes:.1} lanes in real time per core");
        let one = self.one_lane.iter().find(|(isa, _)| *isa == result.isa);
        if let (Some((_, one)), None) = (one, &result.model) {
            let gain = result.lanes as f64 * result.steps_per_s / one;
            note += &format!("; {gain:.2} x the samples/s of one lane");
        }
        match (self.batch_lanes, &result.model) {
            (_, None) => self.batch_lanes = Some(lanes),
            (Some(own), Some(_)) => note += &format!(", where the model itself has {own:.1}"),
            (None, Some(_)) => (),
        }
        note + "\n"
    }
}

fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}

fn steps(result: &CaseResult) -> String {
    let row = format!(
        "{:<15} {:<11} {:>7} {:>5} {:>8.0} {:>11.3} {:>8.1} {:>8.1} {:>8.1}",
        result.case,
        result.isa,
        result.threads,
        result.lanes,
        result.steps_per_s,
        result.x_realtime,
        us(result.step_ns_p50),
        us(result.step_ns_p99),
        us(result.step_ns_p999),
    );
    let Some((floor, ratio)) = result.floor.zip(result.floor_ratio) else {
        return format!("{row} {:>5} {:>6} {:>8} {:>5}", "-", "-", "-", "-");
    };
    format!(
        "{row} {:>5.1} {:>6.0} {:>8.1} {:>5.2}",
        floor.read_gb_s,
        floor.arithmetic_gmac_s,
        floor.ns / 1e3,
        ratio,
    )
}

fn pattern(result: &CaseResult, facts: &PatternFacts) -> String {
    let floor = result.floor.map_or(f64::NAN, |floor| floor.ns / 1e3);
    format!(
        "{:<15} {:<11} {:>8.1} {:>8.1} {:>9.1} {:>8.1} {:>5.2} {:>6} {:>9.0} {:>9.2} {:>9}",
        facts.kind,
        result.isa,
        us(result.step_ns_p50),
        us(result.step_ns_p99),
        us(result.step_ns_p999),
        floor,
        result.floor_ratio.unwrap_or(f64::NAN),
        facts.keys,
        facts.read_bytes as f64 / 1024.0,
        facts.lane_bytes as f64 / f64::from(1 << 20),
        facts.reach,
    )
}

fn prefill(result: &PrefillResult) -> String {
    format!(
        "{:<15} {:<11} {:>7} {:>8} {:>8.3} {:>11.3} {:>12.3}",
        result.case,
        result.isa,
        result.cores,
        result.codes,
        result.seconds,
        result.x_realtime,
        result.stepping_seconds,
    )
}

fn chunks(result: &ChunkResult) -> String {
    let share = |ns: u64| format!("{:.1} %", 100.0 * ns as f64 / result.deadline_ns as f64);
    let row = format!(
        "{:<15} {:<11} {:>7} {:>5} {:>7} {:>7} {:>7} {:>7} {:>7}",
        result.case,
        result.isa,
        result.threads,
        result.lanes,
        result.chunks,
        share(result.chunk_ns_p50),
        share(result.chunk_ns_p99),
        share(result.chunk_ns_p999),
        share(result.chunk_ns_max),
    );
    match (&result.beside, result.beside_failed) {
        (None, _) => row,
        (Some(command), 0) => format!("{row}  beside {command}"),
        (Some(command), n) => format!("{row}  beside {command}, which failed {n} times"),
    }
}
