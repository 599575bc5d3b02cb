//! The kinds of attention: how far each reaches, and what its step costs.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{COLOURS, DEADLINE, Labels, PlotError, around, deadline_us, drawn, number, ticks};
use crate::bench::record::Record;
use crate::plot::FONT;

/// A point for each kind, with its name and what a step takes.
pub(super) fn draw(record: &Record) -> Result<Option<String>, PlotError> {
    let results = record.results.iter();
    let kinds: Vec<(&str, f64, f64)> = results
        .filter_map(|result| {
            let facts = result.pattern.as_ref()?;
            let us = result.step_ns_p50 as f64 / 1e3;
            Some((facts.kind.as_str(), facts.reach as f64, us))
        })
        .collect();
    let Some(deadline) = deadline_us(record).filter(|_| !kinds.is_empty()) else {
        return Ok(None);
    };
    let x = around(kinds.iter().map(|kind| kind.1), 3.0);
    let y = around(kinds.iter().map(|kind| kind.2).chain([deadline]), 1.5);
    let labels = Labels {
        title: "What kinds of attention cost, and how far they reach",
        record,
        x: "reach [samples]",
        x_ticks: ticks(&x),
        y: "median step [µs]",
    };
    drawn(&labels, (x.clone(), y), |chart, legend, _| {
        let ends = [(x.start, deadline), (x.end, deadline)];
        chart.draw_series(DashedLineSeries::new(ends, 6, 4, DEADLINE.stroke_width(2)))?;
        for (i, (kind, reach, us)) in kinds.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            let beside = Pos::new(HPos::Left, VPos::Bottom);
            let style = (FONT, 13).into_font().color(&colour).pos(beside);
            let mark = EmptyElement::at((*reach, *us))
                + Circle::new((0, 0), 5, colour.filled())
                + Text::new((*kind).to_owned(), (7, -4), style);
            chart.draw_series(std::iter::once(mark))?;
            legend.dot(&format!("{kind}: {} µs", number(*us)), &colour)?;
        }
        legend.gap();
        legend.line("deadline of real time", &DEADLINE, true)
    })
    .map(Some)
}
