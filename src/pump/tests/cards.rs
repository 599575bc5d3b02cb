//! Cards that stall, come late, or follow another clock, and what listeners notice: nothing.

use super::*;

/// Frames of a chunk at 48 kHz, and of a period.
const FRAMES: usize = 960;
const PERIOD: usize = 480;

fn card() -> Arc<CardTelemetry> {
    Arc::default()
}

/// A card that takes its periods by a clock of its own.
struct FakeCard {
    ring: rtrb::Consumer<f32>,
    period: Duration,
    next: Instant,
    telemetry: Arc<CardTelemetry>,
    played: Vec<f32>,
    /// Periods for which the ring had too little.
    n_dry: usize,
    has_begun: bool,
    is_stalled: bool,
}

impl FakeCard {
    /// Whose clock is so much faster than it says.
    fn new(bench: &mut Bench, part: Part, capacity: usize, ppm: f64) -> Self {
        let telemetry = match part {
            Part::Paces => bench.card.clone(),
            Part::Follows(_) => card(),
        };
        Self {
            ring: bench.attach(part, telemetry.clone(), capacity),
            period: Duration::from_secs_f64(0.01 / (1.0 + ppm * 1e-6)),
            next: bench.now,
            telemetry,
            played: Vec::new(),
            n_dry: 0,
            has_begun: false,
            is_stalled: false,
        }
    }

    /// Takes what is due, as the callback would.
    fn play_until(&mut self, now: Instant) {
        while self.next <= now {
            self.next += self.period;
            if self.is_stalled {
                continue;
            }
            let half = self.ring.buffer().capacity() / 2;
            self.has_begun |= self.ring.slots() >= half;
            if self.has_begun {
                self.n_dry += usize::from(self.ring.slots() < PERIOD);
                self.played.extend(drain(&mut self.ring, PERIOD));
            }
        }
    }

    fn level(&self) -> usize {
        self.ring.slots()
    }
}

/// So long, in looks of 5 ms; the longest that no packet came.
fn run(bench: &mut Bench, cards: &mut [&mut FakeCard], time: Duration) -> Duration {
    let end = bench.now + time;
    let (mut last, mut longest) = (bench.now, Duration::ZERO);
    while bench.now < end {
        bench.now += Duration::from_millis(5);
        for card in cards.iter_mut() {
            card.play_until(bench.now);
        }
        if bench.settle() > 0 {
            last = bench.now;
        }
        longest = longest.max(bench.now - last);
    }
    longest
}

fn seconds(s: f64) -> Duration {
    Duration::from_secs_f64(s)
}

#[test]
fn a_card_that_stands_still_holds_nobody_up_and_comes_back_without_a_burst() {
    let mut bench = Bench::new(1);
    let mut card = FakeCard::new(&mut bench, Part::Paces, 4_800, 0.0);
    bench.settle();
    let calm = run(&mut bench, &mut [&mut card], seconds(2.0));
    assert!(calm <= seconds(0.03), "{calm:?}");
    card.is_stalled = true;
    let n_before = bench.sources[0].n_written();
    let longest = run(&mut bench, &mut [&mut card], seconds(2.0));
    // Its lead and two periods, and what the last chunk before covers.
    assert!(longest <= seconds(0.16), "{longest:?}");
    assert_eq!(card.telemetry.stalls.get(), 1);
    let n = bench.sources[0].n_written() - n_before;
    assert!((97..=104).contains(&n), "{n} packets in two seconds");
    let lost_us = bench.telemetry.pump.lost_us.get();
    assert!(lost_us <= 40_000, "{lost_us} µs, beyond the lead");
    card.is_stalled = false;
    let n_before = bench.sources[0].n_written();
    let mut n_most = 0;
    for _ in 0..200 {
        card.play_until(bench.now);
        n_most = n_most.max(bench.settle());
        bench.now += Duration::from_millis(10);
    }
    let n = bench.sources[0].n_written() - n_before;
    assert!(n_most <= 4, "a burst of {n_most}");
    assert!((98..=106).contains(&n), "{n} packets in two seconds");
    assert_eq!(card.n_dry, 0);
    assert!(bench.body.ensembles[0].stations[0].is_paced_by_a_card());
    let codes = published(&bench.sources[0]);
    assert_eq!(
        codes,
        rendered(0, codes.len() / 320),
        "listeners miss nothing"
    );
}

#[test]
fn what_a_stalled_card_missed_is_left_out_counted_and_leaves_no_step() {
    let mut bench = Bench::new(1);
    // Equal codes, so that every step is one of ours.
    bench.body.ensembles[0].decoder = Box::new(Ramp(0));
    let mut card = FakeCard::new(&mut bench, Part::Paces, 4_800, 0.0);
    run(&mut bench, &mut [&mut card], seconds(1.0));
    let steps = |sound: &[f32]| {
        let steps = sound.windows(2).map(|pair| (pair[1] - pair[0]).abs());
        steps.fold(0.0, f32::max)
    };
    let calm = steps(&card.played[2_000..]);
    card.is_stalled = true;
    run(&mut bench, &mut [&mut card], seconds(1.0));
    card.is_stalled = false;
    run(&mut bench, &mut [&mut card], seconds(1.0));
    assert_eq!(card.n_dry, 0);
    let seam = steps(&card.played[2_000..]);
    assert!(seam < 1.5 * calm + 0.01, "{seam} after {calm}");
    let skipped = card.telemetry.skipped_frames.get() as i64;
    // All that was drawn was played, left out or waits.
    let n_drawn = published(&bench.sources[0]).len() as i64 * 3 - 480;
    let n_here = card.played.len() as i64 + card.level() as i64;
    assert!((n_drawn - n_here - skipped).abs() <= FRAMES as i64);
    assert!(skipped > 40_000, "{skipped}");
}

/// A slow wave in codes.
struct Ramp(u64);

impl Decoder for Ramp {
    fn n_lanes(&self) -> usize {
        1
    }
    fn open(&mut self, _: usize) {}
    fn copy(&mut self, _: usize, _: usize) {}
    fn position(&self, _: usize) -> u64 {
        self.0
    }
    fn prime(&mut self, _: usize, _: &[u8]) {}
    fn score(&mut self, _: usize, _: &[u8], _: &mut dyn FnMut(usize, &[f32])) {}
    fn generate(&mut self, turns: &mut [Turn<'_>]) {
        for code in turns.iter_mut().flat_map(|turn| &mut *turn.codes) {
            let sample = 0.5 * (self.0 as f32 * 0.01).sin();
            *code = mulaw::encode(sample).unwrap();
            self.0 += 1;
        }
    }
    fn age(&mut self, _: usize, _: u64) {}
    fn isa(&self) -> &'static str {
        "ramp"
    }
}

#[test]
fn cards_with_other_clocks_follow_for_long_without_a_gap() {
    let mut bench = Bench::new(1);
    let mut first = FakeCard::new(&mut bench, Part::Paces, 4_800, 0.0);
    let mut fast = FakeCard::new(&mut bench, Part::Follows(1), 9_600, 500.0);
    let mut slow = FakeCard::new(&mut bench, Part::Follows(2), 9_600, -500.0);
    let all = &mut [&mut first, &mut fast, &mut slow];
    run(&mut bench, all, seconds(120.0));
    assert_eq!((first.n_dry, fast.n_dry, slow.n_dry), (0, 0, 0));
    for (card, ppm) in [(&fast, 500.0), (&slow, -500.0)] {
        assert_eq!(card.telemetry.skipped_frames.get(), 0);
        let level = card.level();
        assert!((3_000..=6_600).contains(&level), "{ppm}: {level} frames");
        let correction = card.telemetry.correction_ppm.get().unwrap();
        assert!((correction - ppm).abs() < 350.0, "{correction} for {ppm}");
    }
    assert_eq!(first.telemetry.correction_ppm.get(), None);
    // The first still plays what render would write.
    let codes = rendered(0, first.played.len() / FRAMES + 8);
    let samples: Vec<f32> = codes.iter().map(|&code| mulaw::decode(code)).collect();
    let mut resampler = Resampler::new(16_000, 48_000, samples.len()).unwrap();
    assert!(resampler.process(&samples)[..first.played.len()] == first.played);
}

#[test]
fn followers_play_on_while_the_first_card_stalls_goes_and_comes_back() {
    let mut bench = Bench::new(1);
    let mut first = FakeCard::new(&mut bench, Part::Paces, 4_800, 0.0);
    let mut second = FakeCard::new(&mut bench, Part::Follows(1), 9_600, 100.0);
    run(&mut bench, &mut [&mut first, &mut second], seconds(30.0));
    for round in 0..3 {
        first.is_stalled = true;
        run(&mut bench, &mut [&mut first, &mut second], seconds(0.6));
        bench.card.is_live.set(0);
        let longest = run(&mut bench, &mut [&mut second], seconds(3.0));
        assert!(longest <= seconds(0.03), "{longest:?}");
        first = FakeCard::new(&mut bench, Part::Paces, 4_800, 0.0);
        run(&mut bench, &mut [&mut first, &mut second], seconds(30.0));
        assert_eq!((first.n_dry, second.n_dry), (0, 0), "round {round}");
        assert!(bench.body.ensembles[0].stations[0].is_paced_by_a_card());
    }
}

#[test]
fn a_follower_that_stalls_or_goes_changes_nothing_for_the_others() {
    let play = |has_follower: bool| {
        let mut bench = Bench::new(1);
        let mut first = FakeCard::new(&mut bench, Part::Paces, 4_800, 0.0);
        if has_follower {
            let mut second = FakeCard::new(&mut bench, Part::Follows(1), 9_600, 100.0);
            run(&mut bench, &mut [&mut first, &mut second], seconds(1.0));
            second.is_stalled = true;
            run(&mut bench, &mut [&mut first, &mut second], seconds(1.0));
            second.telemetry.is_live.set(0);
            run(&mut bench, &mut [&mut first], seconds(1.0));
            let mut second = FakeCard::new(&mut bench, Part::Follows(1), 9_600, 100.0);
            run(&mut bench, &mut [&mut first, &mut second], seconds(1.0));
            assert!(second.has_begun && second.n_dry == 0);
        } else {
            run(&mut bench, &mut [&mut first], seconds(4.0));
        }
        assert_eq!(first.n_dry, 0);
        (first.played, bench.sources[0].n_written())
    };
    assert!(play(true) == play(false));
}

#[test]
fn nothing_is_allocated_whatever_cards_do() {
    let mut bench = Bench::new(1);
    let mut first = FakeCard::new(&mut bench, Part::Paces, 4_800, 0.0);
    let mut second = FakeCard::new(&mut bench, Part::Follows(1), 9_600, 100.0);
    let n_frames = 48_000 * 10;
    first.played.reserve(n_frames);
    second.played.reserve(n_frames);
    let mut scratch = [0.0; PERIOD];
    let mut take = |card: &mut FakeCard| {
        let half = card.ring.buffer().capacity() / 2;
        card.has_begun |= card.ring.slots() >= half;
        if card.has_begun && !card.is_stalled {
            let _ = card.ring.pop_entire_slice(&mut scratch);
        }
    };
    assert_no_alloc(|| {
        for step in 0..900 {
            first.is_stalled = (200..500).contains(&step);
            second.is_stalled = (400..600).contains(&step);
            if step == 700 {
                second.telemetry.is_live.set(0);
            }
            assert!(bench.body.obey());
            while bench.body.step(bench.now).is_zero() {}
            bench.now += Duration::from_millis(10);
            take(&mut first);
            take(&mut second);
        }
    });
    assert!(first.telemetry.stalls.get() == 1 && second.telemetry.skipped_frames.get() > 0);
}
