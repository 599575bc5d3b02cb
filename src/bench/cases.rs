//! The cases: what each opens, what it asks of the engine, and what it is held against.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::beside::Beside;
use super::floor::{Rates, Work};
use super::measure::{Times, age, time_calls};
use super::models;
use super::record::{CaseResult, ChunkResult, Context, PatternFacts, PrefillResult, Record};
use super::{Plan, Seen};
use crate::engine::{self, Decoder, Footprint, Isa, NaiveDecoder, Settings};
use crate::machine::{self, Machine};
use crate::model::Model;

/// Something that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// One stream, on every instruction set and on the naive engine.
    OneLane,
    /// Eight streams in one batch.
    EightLanes,
    /// A model too large for one core, on one thread and on two.
    TwoThreads,
    /// Eight streams of a model with one KV head.
    OneKvHead,
    /// A long prompt.
    Prefill,
    /// Step time against context, sparse and dense.
    Context,
    /// Chunks of 20 ms against their deadline.
    Chunks,
    /// Chunks brought to a card's rate.
    Cards,
    /// Every kind of attention at equal visible keys.
    Patterns,
}

impl Case {
    /// Every case, in the order in which they are measured.
    pub const ALL: [Self; 9] = [
        Self::OneLane,
        Self::EightLanes,
        Self::TwoThreads,
        Self::OneKvHead,
        Self::Prefill,
        Self::Context,
        Self::Chunks,
        Self::Cards,
        Self::Patterns,
    ];

    /// Its word on the command line and in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::OneLane => "one-lane",
            Self::EightLanes => "eight-lanes",
            Self::TwoThreads => "two-threads",
            Self::OneKvHead => "one-kv-head",
            Self::Prefill => "prefill",
            Self::Context => "context",
            Self::Chunks => "chunks",
            Self::Cards => "cards",
            Self::Patterns => "patterns",
        }
    }

    /// What it is, in a line above its figures.
    pub fn title(self) -> &'static str {
        match self {
            Self::OneLane => "One stream, on each instruction set and on the naive engine",
            Self::EightLanes => "Eight streams in one batch: a step is one code in each",
            Self::TwoThreads => "A model of 3.2 M random weights, on two threads and on one",
            Self::OneKvHead => "Eight streams of the same sizes but one KV head, random weights",
            Self::Prefill => "A prompt as long as the context, heard in one call",
            Self::Context => "Step time against context: longer strided rows, and dense layers",
            Self::Chunks => "Chunks of 20 ms, as a share of the time they play",
            Self::Cards => "The same of bringing a chunk to a card's 48 kHz",
            Self::Patterns => "The kinds of attention at equal visible keys, and a dense model",
        }
    }
}

/// Chunks in a second: a chunk is 20 ms, as in the pump.
pub const CHUNKS_PER_S: u32 = 50;
/// The lanes of a batch.
const BATCH: usize = 8;
/// A floor is probed twice, each time so long.
const PROBE_TIME: Duration = Duration::from_millis(80);
/// The cases on the curve of cost against context are many: each gets a part of the time.
const CONTEXT_PART: u32 = 3;
/// One chunk in a thousand is only seen among a thousand: chunks get more time than steps.
const CHUNK_TIMES: u32 = 4;

/// A run in progress.
pub(super) struct Bench<'a> {
    pub(super) model: &'a Arc<Model>,
    pub(super) plan: &'a Plan,
    see: &'a mut dyn FnMut(Seen<'_>),
    rates: Rates,
    pub record: Record,
}

/// An engine to be measured step by step.
pub(super) struct Subject<'a> {
    pub(super) case: &'a str,
    pub(super) model: &'a Arc<Model>,
    pub(super) isa: Isa,
    pub(super) threads: usize,
    pub(super) lanes: usize,
    pub(super) context: Option<Context>,
    pub(super) pattern: Option<PatternFacts>,
    pub(super) time: Duration,
}

impl<'a> Bench<'a> {
    pub fn new(model: &'a Arc<Model>, plan: &'a Plan, see: &'a mut dyn FnMut(Seen<'_>)) -> Self {
        Self {
            model,
            plan,
            see,
            rates: Rates::new(PROBE_TIME.min(plan.time_per_case)),
            record: Record::new(model),
        }
    }

    /// Measures one case and everything in it.
    pub fn run(&mut self, case: Case) {
        (self.see)(Seen::Case(case));
        match case {
            Case::OneLane => self.one_lane(),
            Case::EightLanes => self.steps(Subject {
                lanes: BATCH,
                ..self.subject(case.name(), self.model)
            }),
            Case::TwoThreads => self.two_threads(),
            Case::OneKvHead => {
                let narrow = Arc::new(models::one_kv_head(self.model));
                self.steps(Subject {
                    lanes: BATCH,
                    ..self.subject(case.name(), &narrow)
                });
            }
            Case::Prefill => self.prefill(),
            Case::Context => self.context(),
            Case::Chunks => self.chunks(),
            Case::Cards => self.cards(),
            Case::Patterns => self.patterns(),
        }
    }

    /// One lane of a model on the plan's threads of the best instruction set.
    pub(super) fn subject<'s>(&self, case: &'s str, model: &'s Arc<Model>) -> Subject<'s> {
        Subject {
            case,
            model,
            isa: self.plan.isa.unwrap_or_else(Isa::best),
            threads: self.plan.threads.unwrap_or(1),
            lanes: 1,
            context: None,
            pattern: None,
            time: self.plan.time_per_case,
        }
    }

    fn one_lane(&mut self) {
        let (name, model) = (Case::OneLane.name(), self.model);
        let isas = Isa::ALL.into_iter().filter(|isa| isa.is_available());
        for isa in isas.filter(|isa| self.plan.isa.is_none_or(|only| only == *isa)) {
            self.steps(Subject {
                isa,
                ..self.subject(name, model)
            });
        }
        if self.plan.isa.is_none() {
            let mut naive = NaiveDecoder::new(model.clone(), 1);
            age(&mut naive);
            let times = time_calls(&mut naive, 1, self.plan.time_per_case);
            let result = CaseResult::new(name, naive.isa(), &times);
            self.keep(model, result);
        }
    }

    fn two_threads(&mut self) {
        let large = Arc::new(models::large());
        for threads in [2, 1] {
            self.steps(Subject {
                threads,
                ..self.subject(Case::TwoThreads.name(), &large)
            });
        }
    }

    fn context(&mut self) {
        let base = self.model;
        let span = base.config.context;
        let has_strided = base.config.layers.iter().any(|l| l.kind() == "strided");
        for times in [1, 4, 16].into_iter().filter(|t| *t == 1 || has_strided) {
            let positions = span * times;
            let model = Arc::new(models::reaching(base, times as usize));
            self.context_point(&format!("context-{positions}"), &model, positions, false);
        }
        for window in [64, 16, 4, 1].map(|part| span / part) {
            if window > 0 {
                let model = Arc::new(models::dense(base, window as usize));
                self.context_point(&format!("dense-{window}"), &model, window, true);
            }
        }
    }

    fn context_point(&mut self, case: &str, model: &Arc<Model>, positions: u64, dense: bool) {
        self.steps(Subject {
            context: Some(Context { positions, dense }),
            time: self.plan.time_per_case / CONTEXT_PART,
            ..self.subject(case, model)
        });
    }

    /// Measures an engine step by step, with the floor before and after.
    pub(super) fn steps(&mut self, subject: Subject<'_>) {
        let Some(mut engine) = open(&subject) else {
            return;
        };
        let footprint = Footprint::of(&subject.model.config);
        let work = Work::of(&footprint, subject.lanes, engine.n_threads());
        age(engine.as_mut());
        self.rates.probe(subject.isa, &work);
        let n_codes = match engine.n_threads() {
            1 => 1,
            _ => CODES_OF_A_TEAM,
        };
        let times = time_apart(engine.as_mut(), n_codes, subject.time).of_codes(n_codes);
        self.rates.probe(subject.isa, &work);
        let floor = self.rates.floor(subject.isa, &work);
        let mut result = CaseResult::new(subject.case, engine.isa(), &times);
        result.threads = work.threads;
        result.lanes = subject.lanes;
        result.context = subject.context;
        result.pattern = subject.pattern;
        result.floor_ratio = Some(result.step_ns_p50 as f64 / floor.ns);
        result.floor = Some(floor);
        self.keep(subject.model, result);
    }

    /// Adds what follows from the rest, and tells.
    fn keep(&mut self, model: &Model, mut result: CaseResult) {
        result.x_realtime = result.steps_per_s / f64::from(model.config.sample_rate_hz);
        let lanes = result.x_realtime * result.lanes as f64 / result.threads as f64;
        result.realtime_lanes_per_core = Some(lanes);
        result.model = (model.name != self.model.name).then(|| model.name.clone());
        (self.see)(Seen::Steps(&result));
        self.record.results.push(result);
    }

    /// The engine decides how many cores hear a prompt.
    fn prefill(&mut self) {
        let subject = self.subject(Case::Prefill.name(), self.model);
        let Some(mut engine) = open(&subject) else {
            return;
        };
        let n_codes = self.model.config.context as usize;
        let prompt = models::prompt(n_codes);
        let seconds = time_prompt(engine.as_mut(), &prompt, self.plan.time_per_case);
        let steps = time_apart(engine.as_mut(), 1, self.plan.time_per_case / 10);
        let plays = n_codes as f64 / f64::from(self.model.config.sample_rate_hz);
        let result = PrefillResult {
            case: Case::Prefill.name().into(),
            isa: engine.isa().into(),
            cores: Machine::read().n_cores(),
            codes: n_codes,
            seconds,
            x_realtime: plays / seconds,
            stepping_seconds: steps.quantile(0.5) as f64 / 1e9 * n_codes as f64,
            ratio_to_record: None,
        };
        (self.see)(Seen::Prefill(&result));
        self.record.prefill.push(result);
    }

    fn chunks(&mut self) {
        self.chunks_beside(None);
        if let Some(command) = &self.plan.beside {
            self.chunks_beside(Some(command));
        }
    }

    fn chunks_beside(&mut self, command: Option<&str>) {
        let Some(mut engine) = open(&self.subject(Case::Chunks.name(), self.model)) else {
            return;
        };
        let n_codes = self.model.config.sample_rate_hz / CHUNKS_PER_S;
        age(engine.as_mut());
        let beside = command.map(Beside::start);
        let time = self.plan.time_per_case * CHUNK_TIMES;
        let times = time_apart(engine.as_mut(), n_codes as usize, time);
        self.see_chunks(ChunkResult {
            beside: command.map(str::to_owned),
            beside_failed: beside.map_or(0, Beside::end),
            threads: engine.n_threads(),
            ..ChunkResult::of(Case::Chunks.name(), engine.isa(), &times)
        });
    }

    pub(super) fn see_chunks(&mut self, result: ChunkResult) {
        (self.see)(Seen::Chunks(&result));
        self.record.chunks.push(result);
    }
}

/// Codes in a call where threads share its steps: bringing them together takes time of its own, which
/// a chunk of the pump has to spend once in 320 codes.
const CODES_OF_A_TEAM: usize = 32;

fn open(subject: &Subject<'_>) -> Option<Box<dyn Decoder>> {
    let settings = Settings {
        isa: Some(subject.isa),
        threads: Some(subject.threads),
        cpus: machine::placement(subject.threads, None, &Machine::read()),
    };
    engine::open(subject.model, &settings, subject.lanes)
}

/// Times calls from a thread of its own, kept where the pump's would be: ours stays free.
pub(super) fn time_apart(engine: &mut dyn Decoder, n_codes: usize, time: Duration) -> Times {
    let cpus = machine::placement(engine.n_threads(), None, &Machine::read());
    let apart = || {
        if let Some(cpu) = cpus.first() {
            machine::pin_to(*cpu);
        }
        time_calls(engine, n_codes, time)
    };
    thread::scope(|scope| scope.spawn(apart).join()).expect("an engine does not panic")
}

/// Seconds of the median call, of one at least.
pub(super) fn time_prompt(engine: &mut dyn Decoder, prompt: &[u8], time: Duration) -> f64 {
    let until = Instant::now() + time;
    let mut ns = Vec::new();
    while ns.is_empty() || Instant::now() < until {
        engine.open(0);
        let before = Instant::now();
        engine.prime(0, prompt);
        ns.push(before.elapsed().as_nanos() as u64);
    }
    Times::new(ns).quantile(0.5) as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::engine::Device;

    fn run(cases: &[Case]) -> Record {
        let model = Arc::new(Model::load(Path::new("models/tiny")).unwrap());
        let plan = Plan {
            cases: cases.to_vec(),
            device: Device::Cpu,
            isa: None,
            threads: None,
            time_per_case: Duration::from_millis(2),
            beside: Some("true".into()),
        };
        let mut n_seen = 0;
        let record = crate::bench::run(&model, &plan, &mut |seen| {
            n_seen += usize::from(!matches!(seen, Seen::Case(_)));
        })
        .unwrap();
        let n_kept = record.results.len() + record.prefill.len() + record.chunks.len();
        assert_eq!(n_seen, n_kept);
        record
    }

    #[test]
    fn every_case_gives_figures_that_hold_together() {
        let record = run(&Case::ALL);
        for result in &record.results {
            let case = &result.case;
            assert!(result.steps > 0 && result.x_realtime > 0.0, "{case}");
            assert!(result.step_ns_p50 <= result.step_ns_p999, "{case}");
            assert_eq!(
                result.floor_ratio.is_some(),
                result.isa != "naive",
                "{case}"
            );
        }
        let lanes = |case| {
            record
                .results
                .iter()
                .find(|r| r.case == case)
                .unwrap()
                .lanes
        };
        assert_eq!((lanes("one-lane"), lanes("eight-lanes")), (1, 8));
        let large = record.results.iter().filter(|r| r.case == "two-threads");
        assert!(large.clone().count() == 2 && large.clone().all(|r| r.model.is_some()));
        assert_eq!(record.prefill[0].codes, 32);
        let beside: Vec<bool> = record.chunks.iter().map(|c| c.beside.is_some()).collect();
        assert_eq!(beside, [false, true, false, false]);
    }

    #[test]
    fn every_kind_is_measured_and_all_but_the_dense_see_as_many_keys() {
        let record = run(&[Case::Patterns]);
        let facts = record.results.iter().map(|r| r.pattern.as_ref().unwrap());
        let (dense, sparse): (Vec<_>, Vec<_>) = facts.partition(|facts| facts.kind == "dense");
        let kinds: Vec<&str> = sparse.iter().map(|facts| facts.kind.as_str()).collect();
        assert_eq!(kinds, crate::model::pattern::kinds().collect::<Vec<_>>());
        assert!(sparse.iter().all(|facts| facts.keys == 32), "{sparse:?}");
        assert_eq!((dense.len(), dense[0].keys), (1, 32));
    }

    #[test]
    fn the_curve_has_sparse_and_dense_points() {
        let record = run(&[Case::Context]);
        let points = record
            .results
            .iter()
            .map(|r| (r.case.as_str(), r.context.unwrap()));
        let points: Vec<_> = points
            .map(|(case, c)| (case, c.positions, c.dense))
            .collect();
        assert_eq!(
            points,
            [
                ("context-32", 32, false),
                ("context-128", 128, false),
                ("context-512", 512, false),
                ("dense-2", 2, true),
                ("dense-8", 8, true),
                ("dense-32", 32, true),
            ]
        );
    }
}
