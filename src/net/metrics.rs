//! All figures for Prometheus: the telemetry, and what plays, as they are now.
//!
//! Names follow Prometheus' rules (base units, the unit last, `_total` for what only grows); what each
//! means stands in `docs/operating.md`, and a test holds the two together.

mod card;

use crate::protocol::Facts;
use crate::telemetry::{Histogram, Telemetry};
use card::of_card;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;
use std::fmt::Write;
use std::sync::Arc;

/// What a scraper that takes OpenMetrics asks for.
pub(super) const OPEN_METRICS: &str = "application/openmetrics-text";
/// Of [`text`].
pub(super) const OPEN_METRICS_TYPE: &str =
    "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Of [`classic`].
pub(super) const CLASSIC_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// As OpenMetrics.
pub(super) fn text(telemetry: &Arc<Telemetry>, stations: &[Facts], is_ready: bool) -> String {
    let mut registry = Registry::with_prefix("longwave");
    registry.register_collector(Box::new(Figures(telemetry.clone())));
    registry.register_collector(Box::new(Names {
        stations: stations.to_vec(),
        is_ready,
    }));
    let mut text = String::new();
    text::encode(&mut text, &registry).expect("a string takes all that is written to it");
    text
}

/// The same in Prometheus' older format, for tools that know no other: there counters are called in
/// their headings what they are called below.
pub(super) fn classic(text: &str) -> String {
    let mut classic = String::with_capacity(text.len());
    let mut help = None;
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        let heading = (words.next(), words.next(), words.next(), words.next());
        let (name, kind) = match heading {
            (Some("#"), Some("HELP"), Some(_), words) => {
                help = words;
                continue;
            }
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => (name, kind),
            (Some("#"), ..) => continue,
            _ => {
                let _ = writeln!(classic, "{line}");
                continue;
            }
        };
        let total = if kind == "counter" { "_total" } else { "" };
        let help = help.take().unwrap_or_default();
        // A string takes all that is written to it.
        let _ = writeln!(
            classic,
            "# HELP {name}{total} {help}\n# TYPE {name}{total} {kind}"
        );
    }
    classic
}

/// A figure: its name, its unit, what it is.
struct Figure(&'static str, &'static str, &'static str, Value);

enum Value {
    /// What only grows.
    Count(u64),
    /// The same, of a unit that has fractions.
    Sum(f64),
    Whole(u64),
    /// Left out while it is not known.
    Measure(Option<f64>),
}

use Value::{Count, Measure, Sum, Whole};

/// Of what counts microseconds.
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

#[derive(Debug)]
struct Figures(Arc<Telemetry>);

/// A counter that has no unit.
fn count(name: &'static str, help: &'static str, n: u64) -> Figure {
    Figure(name, "", help, Count(n))
}

impl Figures {
    fn of_drawing(&self) -> Vec<Figure> {
        let Telemetry { pump, lanes, .. } = &*self.0;
        let capacity = "Streams that would play in time, more of the first station's model counted";
        vec![
            Figure("codes", "", "Codes drawn", Count(pump.codes.get())),
            Figure("chunks", "", "Chunks drawn", Count(pump.chunks.get())),
            Figure(
                "late_chunks",
                "",
                "Chunks that took longer to draw than they play",
                Count(pump.late_chunks.get()),
            ),
            Figure(
                "realtime_factor",
                "",
                "Sound drawn in a second of work, in the last second: below 1 is too slow",
                Measure(pump.x_realtime.get()),
            ),
            Figure(
                "lead",
                "seconds",
                "Sound drawn and not yet played, of the station that has least",
                Measure(Some(seconds(pump.lead_us.get()))),
            ),
            Figure(
                "lost",
                "seconds",
                "Sound that was not drawn when it was due, of stations that no card paces",
                Sum(seconds(pump.lost_us.get())),
            ),
            count(
                "engine_failures",
                "GPUs that failed while they played, and the processor plays on",
                pump.engine_failures.get(),
            ),
            Figure("lanes", "", "Streams of stations", Whole(lanes.open.get())),
            Figure("lanes_capacity", "", capacity, Whole(lanes.capacity.get())),
        ]
    }

    fn of_network(&self) -> Vec<Figure> {
        let net = &self.0.net;
        vec![
            Figure(
                "listeners",
                "",
                "Listeners connected now",
                Whole(net.listeners.get()),
            ),
            Figure(
                "sessions",
                "",
                "Sessions there are",
                Whole(net.sessions.get()),
            ),
            count(
                "listeners_seated",
                "Listeners ever connected",
                net.listeners_total.get(),
            ),
            count(
                "listeners_refused",
                "Listeners turned away, all places being taken",
                net.refused.get(),
            ),
            count(
                "listener_underruns",
                "Underruns listeners reported",
                net.listener_underruns.get(),
            ),
            count(
                "connections_pushed_out",
                "Connections closed before they asked for anything, to make room",
                net.pushed_out.get(),
            ),
            count(
                "connections_closed_slow",
                "Connections closed because they took too little",
                net.closed_slow.get(),
            ),
            count(
                "requests_unauthorized",
                "Requests without the token that was wanted",
                net.unauthorized.get(),
            ),
            count(
                "packets_sent",
                "Packets sent to listeners and sessions",
                net.packets_sent.get(),
            ),
            count(
                "packets_lost",
                "Packets listeners were too slow for",
                net.packets_lost.get(),
            ),
            Figure(
                "sent",
                "bytes",
                "Bytes sent to anybody",
                Count(net.bytes_sent.get()),
            ),
        ]
    }

    fn of_process(&self) -> Vec<Figure> {
        let Telemetry {
            state,
            record,
            start_time_s,
            ..
        } = &*self.0;
        vec![
            count(
                "states_kept",
                "States of stations written",
                state.kept.get(),
            ),
            count(
                "state_failures",
                "States of stations that could not be written",
                state.failed.get(),
            ),
            count("recorded_samples", "Samples in files", record.samples.get()),
            count(
                "unrecorded_samples",
                "Samples that should be in files and are not",
                record.lost.get(),
            ),
            count("recorded_files", "Files of recordings", record.files.get()),
            count(
                "recording_failures",
                "Times that a recording could not be written",
                record.failures.get(),
            ),
            Figure(
                "recordings_stopped",
                "",
                "Stations that should be recorded and are not now",
                Whole(record.stopped.get()),
            ),
            Figure(
                "start_time",
                "seconds",
                "When the daemon started, since 1970",
                Whole(start_time_s.get()),
            ),
        ]
    }
}

impl Figure {
    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Self(name, unit, help, value) = self;
        let unit = (!unit.is_empty()).then(|| Unit::Other((*unit).to_owned()));
        let Some(metric) = value.metric() else {
            return Ok(());
        };
        let kind = metric.metric_type();
        metric.encode(encoder.encode_descriptor(name, help, unit.as_ref(), kind)?)
    }
}

impl Value {
    /// Nothing while it is not known.
    fn metric(&self) -> Option<Box<dyn EncodeMetric>> {
        Some(match *self {
            Count(value) => Box::new(ConstCounter::new(value)),
            Sum(value) => Box::new(ConstCounter::new(value)),
            Whole(value) => Box::new(ConstGauge::new(value)),
            Measure(value) => Box::new(ConstGauge::new(value?)),
        })
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let figures = [self.of_drawing(), self.of_network(), self.of_process()];
        for figure in figures.iter().flatten() {
            figure.encode(&mut encoder)?;
        }
        self.encode_cards(&mut encoder)?;
        self.encode_collapses(&mut encoder)?;
        let pump = &self.0.pump;
        let help = "Compute time of the chunks due at a time over the time they play";
        encode_histogram(
            &mut encoder,
            ("chunk_load", "ratio", help),
            &pump.chunk_load,
        )?;
        let help = "Compute time of a step, one code in all lanes due; of each chunk the mean";
        encode_histogram(&mut encoder, ("step", "seconds", help), &pump.step_s)
    }
}

impl Figures {
    /// Each figure of all cards, by their names; a card of which it is not known is left out.
    fn encode_cards(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let cards = self.0.cards.iter();
        let cards: Vec<_> = cards.map(|card| (&*card.name, of_card(card))).collect();
        let n_figures = cards.first().map_or(0, |(_, figures)| figures.len());
        for at in 0..n_figures {
            let of_each = cards.iter().map(|(card, figures)| (*card, &figures[at]));
            let known = of_each.filter_map(|(card, figure)| {
                let metric = figure.3.metric()?;
                Some((card, figure, metric))
            });
            let known: Vec<_> = known.collect();
            let Some((_, Figure(name, unit, help, _), metric)) = known.first() else {
                continue;
            };
            let unit = (!unit.is_empty()).then(|| Unit::Other((*unit).to_owned()));
            let kind = metric.metric_type();
            let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), kind)?;
            for (card, _, metric) in &known {
                metric.encode(family.encode_family(&[("card", *card)])?)?;
            }
        }
        Ok(())
    }

    fn encode_collapses(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let pump = &self.0.pump;
        let help = "Streams that collapsed and returned";
        let mut family = encoder.encode_descriptor("collapses", help, None, MetricType::Counter)?;
        for (kind, counter) in [
            ("noise", &pump.noise_collapses),
            ("dead", &pump.dead_collapses),
        ] {
            let metric = ConstCounter::new(counter.get());
            metric.encode(family.encode_family(&[("kind", kind)])?)?;
        }
        Ok(())
    }
}

fn encode_histogram<const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, unit, help): (&str, &str, &str),
    histogram: &Histogram<N>,
) -> fmt::Result {
    let unit = Unit::Other(unit.into());
    let buckets: Vec<(f64, u64)> = histogram.buckets().collect();
    let n = buckets.iter().map(|(_, count)| count).sum();
    encoder
        .encode_descriptor(name, help, Some(&unit), MetricType::Histogram)?
        .encode_histogram::<NoLabelSet>(histogram.sum(), n, &buckets, None)
}

/// What is said by labels, of figures that are always 1; and whether all is well.
#[derive(Debug)]
struct Names {
    stations: Vec<Facts>,
    is_ready: bool,
}

impl Collector for Names {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "1 while /readyz answers that the stations play";
        Figure("ready", "", help, Whole(self.is_ready.into())).encode(&mut encoder)?;
        let one = ConstGauge::new(1u64);
        let kind = MetricType::Gauge;
        let build = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("commit", option_env!("LONGWAVE_COMMIT").unwrap_or("")),
        ];
        let mut builds = encoder.encode_descriptor("build_info", "Which longwave", None, kind)?;
        one.encode(builds.encode_family(&build)?)?;
        let help = "What a station plays, and what computes it";
        let mut stations = encoder.encode_descriptor("station_info", help, None, kind)?;
        for facts in &self.stations {
            let labels = [
                ("station", &*facts.station),
                ("model", &*facts.model.name),
                ("model_sha256", &*facts.model.sha256),
                ("isa", &*facts.isa),
            ];
            one.encode(stations.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::feed::tests::facts;

    fn has(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.lines().any(|l| l == *line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn every_figure_is_shown_with_its_value() {
        let telemetry = Arc::new(Telemetry::with_cards(["default", "hw:CARD=USB"]));
        telemetry.net.packets_lost.add(7);
        telemetry.net.bytes_sent.add(8);
        telemetry.net.listeners.add(2);
        telemetry.record.lost.add(320);
        telemetry.record.stopped.add(1);
        telemetry.lanes.capacity.set(5);
        telemetry.pump.engine_failures.add(1);
        telemetry.pump.noise_collapses.add(2);
        telemetry.pump.lost_us.add(1_500_000);
        telemetry.pump.chunk_load.observe(0.3);
        telemetry.pump.chunk_load.observe(9.0);
        telemetry.pump.step_s.observe(17e-6);
        let before = text(&telemetry, &[facts()], true);
        telemetry.cards[0].drift_ppm.set(Some(-12.5));
        telemetry.cards[1].correction_ppm.set(Some(40.0));
        telemetry.cards[1].skipped_frames.add(3);
        telemetry.pump.x_realtime.set(Some(2.0));
        let text = text(&telemetry, &[facts()], false);
        has(
            &text,
            &[
                "longwave_packets_lost_total 7",
                "# UNIT longwave_sent_bytes bytes",
                "longwave_sent_bytes_total 8",
                "longwave_listeners 2",
                "longwave_unrecorded_samples_total 320",
                "longwave_recordings_stopped 1",
                "# HELP longwave_lanes Streams of stations",
                "longwave_engine_failures_total 1",
                "longwave_lanes_capacity 5",
                "longwave_lost_seconds_total 1.5",
                "longwave_card_ring_underruns_total{card=\"default\"} 0",
                "longwave_card_ring_underruns_total{card=\"hw:CARD=USB\"} 0",
                "longwave_card_skipped_frames_total{card=\"hw:CARD=USB\"} 3",
                "# TYPE longwave_collapses counter",
                "longwave_collapses_total{kind=\"noise\"} 2",
                "longwave_collapses_total{kind=\"dead\"} 0",
                "longwave_chunk_load_ratio_bucket{le=\"0.25\"} 0",
                "longwave_chunk_load_ratio_bucket{le=\"0.5\"} 1",
                "longwave_chunk_load_ratio_bucket{le=\"+Inf\"} 2",
                "longwave_chunk_load_ratio_count 2",
                "longwave_step_seconds_count 1",
                "longwave_card_drift_ppm{card=\"default\"} -12.5",
                "longwave_card_correction_ppm{card=\"hw:CARD=USB\"} 40.0",
                "longwave_realtime_factor 2.0",
                "longwave_ready 0",
                "longwave_station_info{station=\"piano\",model=\"tiny\",model_sha256=\"\",isa=\"portable\"} 1",
                "# EOF",
            ],
        );
        has(&before, &["longwave_ready 1"]);
        for unknown in ["drift", "correction", "realtime_factor"] {
            assert!(!before.contains(unknown), "{unknown} is not known yet");
        }
    }

    #[test]
    fn the_older_format_calls_a_counter_by_its_whole_name_and_keeps_all_values() {
        let telemetry = Arc::new(Telemetry::with_cards(["default", "hw:CARD=USB"]));
        let text = text(&telemetry, &[facts()], true);
        let classic = classic(&text);
        has(
            &classic,
            &[
                "# HELP longwave_sent_bytes_total Bytes sent to anybody",
                "# TYPE longwave_sent_bytes_total counter",
                "# TYPE longwave_listeners gauge",
                "# TYPE longwave_step_seconds histogram",
            ],
        );
        let values = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            lines.map(str::to_owned).collect()
        };
        assert_eq!(values(&text), values(&classic));
        assert!(!classic.contains("EOF") && !classic.contains("UNIT"));
    }
}
