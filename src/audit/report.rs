//! The judgement, as a program reads it: `report.json`.
//!
//! `format` and `version` stand first. Every number has its unit in its name; seconds count from 0.
//! A reader must take fields that it does not know; the version grows when one changes its meaning.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::alarms::Alarm;
use super::features::{Feature, Second};
use super::hear::{Heard, Source};
use super::reference::{Distribution, PERCENTS, Reference};
use super::verdict::{Stretch, Thresholds, Verdict, stretches};

/// Everything that an audit found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Always [`Report::FORMAT`].
    pub format: String,
    /// Always [`Report::VERSION`].
    pub version: u32,
    /// What was listened to.
    pub source: Source,
    /// Codes per second.
    pub rate_hz: u32,
    /// What it was compared with.
    pub reference: Compared,
    /// How it came out.
    pub summary: Summary,
    /// Seconds in a row with the same verdict, in the order of their beginnings.
    pub stretches: Vec<Stretch>,
    /// When the watch of a daemon would have stepped in.
    #[serde(default)]
    pub alarms: Vec<Alarm>,
    /// In percent, what the quantiles of `distributions` are.
    pub percents: [f64; 9],
    /// Each feature's spread beside the reference's.
    pub distributions: Vec<Beside>,
    /// Every second.
    pub seconds: Vec<Judged>,
}

/// The reference in short.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// Where it comes from.
    pub origin: String,
    /// Its seconds.
    pub n_seconds: usize,
    /// Beyond which a second was named.
    pub thresholds: Thresholds,
}

/// How it came out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Seconds judged.
    pub n_seconds: usize,
    /// Of these, with at least one verdict.
    pub n_flagged: usize,
    /// Seconds of each verdict.
    pub n_of: BTreeMap<Verdict, usize>,
}

/// A feature here and in the reference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Beside {
    /// Which.
    pub feature: Feature,
    /// Quantiles of what was audited.
    pub quantiles: [f32; 9],
    /// Quantiles of the reference, where it has the feature.
    pub reference: Option<[f32; 9]>,
    /// Share of the audited seconds between the reference's 1st and 99th percentile: near 0.98 for
    /// sound that is like it.
    pub inside: Option<f64>,
}

/// A second and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// When it begins.
    pub at_s: usize,
    /// Empty if nothing is.
    pub verdicts: Vec<Verdict>,
    /// Its numbers.
    #[serde(flatten)]
    pub second: Second,
}

impl Report {
    /// What the file says it is.
    pub const FORMAT: &str = "longwave-audit";
    /// See above.
    pub const VERSION: u32 = 1;

    /// Judges what was heard.
    pub fn new(heard: &Heard, reference: &Reference) -> Self {
        let verdicts = reference.thresholds.judge(&heard.seconds);
        let beside = Feature::ALL.into_iter();
        let beside = beside.filter_map(|feature| beside_of(feature, &heard.seconds, reference));
        let n_of = |verdict| verdicts.iter().filter(|all| all.contains(&verdict)).count();
        Self {
            format: Self::FORMAT.to_owned(),
            version: Self::VERSION,
            source: heard.source.clone(),
            rate_hz: heard.rate_hz,
            reference: Compared {
                origin: reference.origin.clone(),
                n_seconds: reference.n_seconds,
                thresholds: reference.thresholds,
            },
            summary: Summary {
                n_seconds: verdicts.len(),
                n_flagged: verdicts.iter().filter(|all| !all.is_empty()).count(),
                n_of: Verdict::ALL.map(|verdict| (verdict, n_of(verdict))).into(),
            },
            stretches: stretches(&verdicts),
            alarms: heard.alarms.clone(),
            percents: PERCENTS,
            distributions: beside.collect(),
            seconds: judged(&heard.seconds, verdicts),
        }
    }

    /// The verdicts on every second.
    pub fn verdicts(&self) -> Vec<Vec<Verdict>> {
        let seconds = self.seconds.iter();
        seconds.map(|judged| judged.verdicts.clone()).collect()
    }

    /// One JSON object, for people as well.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and words have a JSON form")
    }
}

fn judged(seconds: &[Second], verdicts: Vec<Vec<Verdict>>) -> Vec<Judged> {
    let all = seconds.iter().zip(verdicts).enumerate();
    all.map(|(at_s, (second, verdicts))| Judged {
        at_s,
        verdicts,
        second: second.clone(),
    })
    .collect()
}

fn beside_of(feature: Feature, seconds: &[Second], reference: &Reference) -> Option<Beside> {
    let own = Distribution::of(feature, seconds)?;
    let other = reference.distribution(feature);
    let inside = other.map(|other| {
        let values: Vec<f32> = seconds.iter().filter_map(|s| feature.of(s)).collect();
        let usual = other.usual();
        let n_inside = values.iter().filter(|value| usual.contains(value)).count();
        n_inside as f64 / values.len() as f64
    });
    Some(Beside {
        feature,
        quantiles: own.quantiles,
        reference: other.map(|other| other.quantiles),
        inside,
    })
}
