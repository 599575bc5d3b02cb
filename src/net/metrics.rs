//! The telemetry as OpenMetrics text.

use crate::protocol::Facts;
use crate::telemetry::{Counter, Gauge, LOAD_EDGES, LoadHistogram, PumpTelemetry, Telemetry};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;

/// Of [`text`].
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What plays, and all figures, as they are now.
pub(super) fn text(telemetry: &Arc<Telemetry>, stations: &[Facts]) -> String {
    let mut registry = Registry::with_prefix("longwave");
    registry.register_collector(Box::new(Figures(telemetry.clone())));
    registry.register_collector(Box::new(Names(stations.to_vec())));
    let mut text = String::new();
    text::encode(&mut text, &registry).expect("a string takes all that is written to it");
    text
}

#[derive(Debug)]
struct Figures(Arc<Telemetry>);

type Named<'a, T> = (&'static str, &'static str, &'a T);

impl Figures {
    fn counters(&self) -> [Named<'_, Counter>; 24] {
        let Telemetry {
            pump,
            card,
            net,
            state,
            record,
            ..
        } = &*self.0;
        [
            ("codes", "Codes drawn", &pump.codes),
            ("chunks", "Chunks generated", &pump.chunks),
            (
                "late_chunks",
                "Chunks slower than they play",
                &pump.late_chunks,
            ),
            (
                "card_callbacks",
                "Periods the card asked for",
                &card.callbacks,
            ),
            ("card_frames", "Frames the card played", &card.frames),
            (
                "card_ring_underruns",
                "Times our ring ran dry",
                &card.ring_underruns,
            ),
            (
                "card_device_xruns",
                "Times the device lost time",
                &card.device_xruns,
            ),
            (
                "card_backend_errors",
                "Errors of the backend",
                &card.backend_errors,
            ),
            (
                "card_rebuilds",
                "Times the output was rebuilt",
                &card.rebuilds,
            ),
            (
                "listeners_seated",
                "Listeners ever connected",
                &net.listeners_total,
            ),
            (
                "connections_pushed_out",
                "Connections closed before they asked, to make room",
                &net.pushed_out,
            ),
            ("listeners_refused", "Listeners turned away", &net.refused),
            (
                "unauthorized",
                "Requests without the token that was wanted",
                &net.unauthorized,
            ),
            (
                "packets_sent",
                "Packets sent to listeners",
                &net.packets_sent,
            ),
            ("sent_bytes", "Bytes sent to anybody", &net.bytes_sent),
            (
                "packets_lost",
                "Packets listeners were too slow for",
                &net.packets_lost,
            ),
            (
                "closed_slow",
                "Connections of peers too slow",
                &net.closed_slow,
            ),
            (
                "listener_underruns",
                "Underruns listeners reported",
                &net.listener_underruns,
            ),
            ("states_kept", "States of stations written", &state.kept),
            (
                "state_failures",
                "States of stations that could not be written",
                &state.failed,
            ),
            ("recorded_samples", "Samples in files", &record.samples),
            (
                "unrecorded_samples",
                "Samples that should be in files and are not",
                &record.lost,
            ),
            ("recorded_files", "Files of recordings", &record.files),
            (
                "recording_failures",
                "Times that a recording could not be written",
                &record.failures,
            ),
        ]
    }

    fn gauges(&self) -> [Named<'_, Gauge>; 9] {
        let Telemetry {
            lanes,
            pump,
            card,
            net,
            record,
            ..
        } = &*self.0;
        [
            ("lanes", "Streams that play", &lanes.open),
            (
                "lanes_capacity",
                "Streams that would play in time, those of the first station's model counted",
                &lanes.capacity,
            ),
            (
                "lead_codes",
                "Codes generated, not yet played",
                &pump.lead_codes,
            ),
            (
                "card_ring_frames",
                "Frames waiting for the card",
                &card.ring_frames,
            ),
            (
                "card_device_latency_us",
                "From callback to ear",
                &card.device_latency_us,
            ),
            (
                "card_is_live",
                "1 while the device takes sound",
                &card.is_live,
            ),
            ("listeners", "Listeners connected now", &net.listeners),
            ("sessions", "Sessions there are", &net.sessions),
            (
                "recordings_stopped",
                "Stations that should be recorded and are not now",
                &record.stopped,
            ),
        ]
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, counter) in self.counters() {
            let metric = ConstCounter::new(counter.get());
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)?;
        }
        for (name, help, gauge) in self.gauges() {
            let metric = ConstGauge::new(gauge.get());
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)?;
        }
        encode_collapses(&mut encoder, &self.0.pump)?;
        encode_load(encoder, &self.0.pump.chunk_load)
    }
}

fn encode_collapses(encoder: &mut DescriptorEncoder<'_>, pump: &PumpTelemetry) -> fmt::Result {
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

fn encode_load(mut encoder: DescriptorEncoder<'_>, load: &LoadHistogram) -> fmt::Result {
    let edges = LOAD_EDGES.into_iter().chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = edges.zip(load.buckets()).collect();
    let n_chunks = buckets.iter().map(|(_, count)| count).sum();
    let help = "Compute time of a step over the time its code plays";
    encoder
        .encode_descriptor("chunk_load", help, None, MetricType::Histogram)?
        .encode_histogram::<NoLabelSet>(load.sum(), n_chunks, &buckets, None)
}

/// What does not change: figures that are always 1, for what their labels say.
#[derive(Debug)]
struct Names(Vec<Facts>);

impl Collector for Names {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let one = ConstGauge::new(1u64);
        let (kind, version) = (MetricType::Gauge, env!("CARGO_PKG_VERSION"));
        let mut build = encoder.encode_descriptor("build_info", "Which longwave", None, kind)?;
        one.encode(build.encode_family(&[("version", version)])?)?;
        let help = "What a station plays, and what computes it";
        let mut stations = encoder.encode_descriptor("station_info", help, None, kind)?;
        for facts in &self.0 {
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

    #[test]
    fn every_figure_is_shown_with_its_value() {
        let telemetry = Arc::new(Telemetry::default());
        telemetry.net.packets_lost.add(7);
        telemetry.net.listeners.add(2);
        telemetry.record.lost.add(320);
        telemetry.record.stopped.add(1);
        telemetry.lanes.open.set(3);
        telemetry.lanes.capacity.set(5);
        telemetry.pump.noise_collapses.add(2);
        telemetry.pump.chunk_load.observe(0.3);
        telemetry.pump.chunk_load.observe(9.0);
        let text = text(&telemetry, &[facts()]);
        for line in [
            "longwave_packets_lost_total 7",
            "longwave_listeners 2",
            "longwave_unrecorded_samples_total 320",
            "longwave_recordings_stopped 1",
            "# HELP longwave_lanes Streams that play",
            "longwave_lanes 3",
            "longwave_lanes_capacity 5",
            "longwave_card_ring_underruns_total 0",
            "# TYPE longwave_collapses counter",
            "longwave_collapses_total{kind=\"noise\"} 2",
            "longwave_collapses_total{kind=\"dead\"} 0",
            "longwave_chunk_load_bucket{le=\"0.25\"} 0",
            "longwave_chunk_load_bucket{le=\"0.5\"} 1",
            "longwave_chunk_load_bucket{le=\"+Inf\"} 2",
            "longwave_chunk_load_count 2",
            concat!(
                "longwave_build_info{version=\"",
                env!("CARGO_PKG_VERSION"),
                "\"} 1"
            ),
            "longwave_station_info{station=\"piano\",model=\"tiny\",model_sha256=\"\",isa=\"portable\"} 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
