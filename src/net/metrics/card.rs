//! The figures of one sound card.

use super::Value::{Count, Measure, Whole};
use super::{Figure, count, seconds};
use crate::telemetry::CardTelemetry;

pub(super) fn of_card(card: &CardTelemetry) -> Vec<Figure> {
    let latency = seconds(card.device_latency_us.get());
    vec![
        count(
            "card_callbacks",
            "Periods the card asked for",
            card.callbacks.get(),
        ),
        Figure(
            "card",
            "frames",
            "Frames of the stream the card played",
            Count(card.frames.get()),
        ),
        Figure(
            "card_lost",
            "frames",
            "Frames of silence the card played for want of sound",
            Count(card.lost_frames.get()),
        ),
        count(
            "card_ring_underruns",
            "Times our ring ran dry",
            card.ring_underruns.get(),
        ),
        count(
            "card_device_xruns",
            "Times the device lost time",
            card.device_xruns.get(),
        ),
        count(
            "card_backend_errors",
            "Other errors of the sound system",
            card.backend_errors.get(),
        ),
        count(
            "card_rebuilds",
            "Times the card was opened anew",
            card.rebuilds.get(),
        ),
        Figure(
            "card_ring",
            "frames",
            "Frames waiting for the card",
            Whole(card.ring_frames.get()),
        ),
        Figure(
            "card_ring_capacity",
            "frames",
            "Frames that can wait for the card",
            Whole(card.ring_capacity_frames.get()),
        ),
        Figure(
            "card_rate",
            "hertz",
            "Frames a second, as the card says; 0 before one was opened",
            Whole(card.rate_hz.get()),
        ),
        Figure(
            "card_latency",
            "seconds",
            "From callback to ear, as the card says",
            Measure(Some(latency)),
        ),
        Figure(
            "card_drift",
            "ppm",
            "How much faster than it says the card's clock is, by this machine's, in millionths",
            Measure(card.drift_ppm.get()),
        ),
        Figure(
            "card_is_live",
            "",
            "1 while the card takes sound",
            Whole(card.is_live.get()),
        ),
        count(
            "card_stalls",
            "Times the card asked for nothing, and a timer set its station's pace",
            card.stalls.get(),
        ),
        Figure(
            "card_skipped",
            "frames",
            "Frames left out because the card had taken too little",
            Count(card.skipped_frames.get()),
        ),
        Figure(
            "card_correction",
            "ppm",
            "How much slower a card that sets no pace is made to play, in millionths",
            Measure(card.correction_ppm.get()),
        ),
    ]
}
