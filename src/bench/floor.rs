//! The floor: no step can take less than its bytes at the fastest read rate, nor less than its
//! multiplications at the fastest arithmetic, both reached in this very run.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::compute::{Isa, Line, Lines, probe};
use crate::engine::Footprint;

/// What one step must do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Bytes read, each once.
    pub bytes: usize,
    /// Multiplications of bytes.
    pub macs: usize,
    /// Threads that share both evenly.
    pub threads: usize,
}

impl Work {
    /// One step in each of `n_lanes` lanes: the weights once for all, the caches of every lane.
    pub fn of(footprint: &Footprint, n_lanes: usize, threads: usize) -> Self {
        Self {
            bytes: footprint.weight_bytes
                + n_lanes * (footprint.kv_bytes + footprint.predictor_bytes),
            macs: n_lanes * (footprint.weight_macs + footprint.kv_macs),
            threads,
        }
    }
}

/// The least time for some work, and the rates that say so.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Floor {
    /// Nanoseconds.
    pub ns: f64,
    /// Bytes that a step must read.
    pub bytes: usize,
    /// Multiplications that a step must do.
    pub macs: usize,
    /// The fastest read of so many bytes by one thread, in 1e9 bytes a second.
    pub read_gb_s: f64,
    /// The fastest multiplication by one thread, in 1e9 a second.
    pub arithmetic_gmac_s: f64,
}

impl Floor {
    /// `read_gb_s` is that of a thread's own share of the bytes.
    pub fn new(work: &Work, read_gb_s: f64, arithmetic_gmac_s: f64) -> Self {
        let per_thread = |amount: usize| amount as f64 / work.threads as f64;
        let read_ns = per_thread(work.bytes) / read_gb_s;
        let multiply_ns = per_thread(work.macs) / arithmetic_gmac_s;
        Self {
            ns: read_ns.max(multiply_ns),
            bytes: work.bytes,
            macs: work.macs,
            read_gb_s,
            arithmetic_gmac_s,
        }
    }
}

/// The fastest rates that this run has seen.
#[derive(Debug)]
pub struct Rates {
    /// How long each is probed at a time.
    time: Duration,
    /// GB/s by instruction set and number of lines.
    read: BTreeMap<(&'static str, usize), f64>,
    /// GMAC/s by instruction set.
    arithmetic: BTreeMap<&'static str, f64>,
}

/// Lines in the nearest cache, of which there are 32 KiB or more.
const NEAR: usize = 64;
/// Readings at least, however long one takes.
const MIN_READINGS: usize = 20;
/// A pass over fewer lines is repeated until one reading of the clock covers so many.
const LINES_PER_READING: usize = 1 << 13;

impl Rates {
    /// Nothing is known yet.
    pub fn new(time: Duration) -> Self {
        Self {
            time,
            read: BTreeMap::new(),
            arithmetic: BTreeMap::new(),
        }
    }

    /// Looks once more for the fastest rates of such work. Asked for before and after a case, the
    /// machine has two chances to be as fast as it was during the case.
    pub fn probe(&mut self, isa: Isa, work: &Work) {
        let mut lines = Lines::zeroed(n_lines(work));
        // Pages never written to are all the same one, and that one would stay near.
        lines.fill(Line([1; 64]));
        let lines_per_s = fastest(&lines, self.time, |lines| probe::read(isa, lines));
        let gb_s = lines_per_s * size_of::<Line>() as f64 / 1e9;
        let best = self.read.entry((isa.name(), lines.len())).or_default();
        *best = best.max(gb_s);

        let near = &vec![Line([1; 64]); NEAR];
        let lines_per_s = fastest(near, self.time / 2, |lines| probe::multiply(isa, lines));
        let gmac_s = lines_per_s * probe::MACS_PER_LINE as f64 / 1e9;
        let best = self.arithmetic.entry(isa.name()).or_default();
        *best = best.max(gmac_s);
    }

    /// The floor of work that was probed.
    pub fn floor(&self, isa: Isa, work: &Work) -> Floor {
        let read = self.read[&(isa.name(), n_lines(work))];
        Floor::new(work, read, self.arithmetic[isa.name()])
    }
}

/// One thread's share of the bytes, in eights of lines.
fn n_lines(work: &Work) -> usize {
    let bytes = work.bytes / work.threads;
    bytes.div_ceil(size_of::<Line>()).next_multiple_of(8)
}

/// Lines a second in the fastest of many readings.
fn fastest(lines: &[Line], time: Duration, pass: impl Fn(&[Line]) -> i32) -> f64 {
    let n_passes = LINES_PER_READING.div_ceil(lines.len());
    let mut best = Duration::MAX;
    let until = Instant::now() + time;
    // The first pass fetches.
    black_box(pass(lines));
    let mut n_readings = 0;
    while n_readings < MIN_READINGS || Instant::now() < until {
        let before = Instant::now();
        for _ in 0..n_passes {
            black_box(pass(black_box(lines)));
        }
        best = best.min(before.elapsed());
        n_readings += 1;
    }
    (n_passes * lines.len()) as f64 / best.as_secs_f64().max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOOTPRINT: Footprint = Footprint {
        weight_bytes: 1_000_000,
        kv_bytes: 200_000,
        predictor_bytes: 0,
        lane_bytes: 9_000_000,
        weight_macs: 900_000,
        kv_macs: 100_000,
    };

    #[test]
    fn a_batch_reads_its_weights_once_and_multiplies_for_every_lane() {
        let one = Work::of(&FOOTPRINT, 1, 1);
        assert_eq!((one.bytes, one.macs), (1_200_000, 1_000_000));
        let eight = Work::of(&FOOTPRINT, 8, 1);
        assert_eq!((eight.bytes, eight.macs), (2_600_000, 8_000_000));
    }

    #[test]
    fn the_slower_of_memory_and_arithmetic_is_the_floor() {
        let one = Work::of(&FOOTPRINT, 1, 1);
        assert_eq!(Floor::new(&one, 100.0, 200.0).ns, 12_000.0);
        let eight = Work::of(&FOOTPRINT, 8, 1);
        assert_eq!(Floor::new(&eight, 100.0, 200.0).ns, 40_000.0);
        let two = Work::of(&FOOTPRINT, 1, 2);
        assert_eq!(Floor::new(&two, 100.0, 200.0).ns, 6_000.0);
        assert_eq!(n_lines(&two), 9376);
    }

    #[test]
    fn a_second_probe_never_lowers_the_rates() {
        let work = Work::of(&FOOTPRINT, 1, 1);
        let mut rates = Rates::new(Duration::from_millis(1));
        rates.probe(Isa::Portable, &work);
        let first = rates.floor(Isa::Portable, &work);
        rates.probe(Isa::Portable, &work);
        let second = rates.floor(Isa::Portable, &work);
        assert!(second.ns <= first.ns && second.read_gb_s >= first.read_gb_s);
        assert!(first.ns.is_finite() && first.ns > 0.0);
    }
}
