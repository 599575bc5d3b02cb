//! Stations that come and go while others play.

use super::*;

/// A station of the number 7 with an engine of its own, and who listens to it.
fn newcomer() -> (Vec<Ensemble>, Source) {
    let (station, source) = opening(0, start_of(7));
    let given = Numbers {
        engines: 5,
        stations: 7,
    };
    let opened = open(
        vec![engine_of(1)],
        vec![station],
        (SETTINGS, given),
        &mut hear,
    );
    (opened.unwrap(), source)
}

impl Bench {
    /// As the pump's owner does it, without a thread.
    fn cue(&mut self, cue: Cue) {
        assert!(self.wings.cues.push(cue).is_ok());
    }

    /// Goes on for so many chunks; nothing may be allocated.
    fn pass(&mut self, n_chunks: usize) {
        assert_no_alloc(|| {
            for _ in 0..n_chunks {
                self.now += CHUNK;
                assert!(self.body.obey());
                while self.body.step(self.now).is_zero() {}
            }
        });
    }
}

fn leaving(station: usize) -> Cue {
    Cue::Leave(Box::new(Snapshot {
        station,
        ..Snapshot::default()
    }))
}

#[test]
fn who_joins_plays_its_own_and_nobody_notices() {
    let mut bench = Bench::new(2);
    bench.settle();
    let (ensembles, source) = newcomer();
    for ensemble in ensembles {
        bench.cue(Cue::Join(ensemble));
    }
    bench.pass(10);
    let n_ahead = u64::from(SETTINGS.lead_ms) / 20;
    assert_eq!(source.n_written(), 10 + n_ahead);
    assert_eq!(published(&source), rendered(7, source.n_written() as usize));
    for (seed, source) in bench.sources.iter().enumerate() {
        let n = source.n_written() as usize;
        assert_eq!(n as u64, 10 + 1 + n_ahead);
        assert_eq!(published(source), rendered(seed as u64, n));
    }
    assert_eq!(bench.telemetry.pump.lost_us.get(), 0);
}

#[test]
fn who_leaves_fades_out_and_its_engine_goes_with_the_last() {
    let mut bench = Bench::new(2);
    let (ensembles, source) = newcomer();
    ensembles
        .into_iter()
        .for_each(|ensemble| bench.cue(Cue::Join(ensemble)));
    bench.pass(10);
    let before = source.n_written() as usize;
    bench.cue(leaving(7));
    bench.cue(leaving(1));
    // A second time, and one that is not there.
    bench.cue(leaving(7));
    bench.cue(leaving(99));
    bench.pass(20);
    // A quarter of a second.
    let n_faded = 13;
    let codes = published(&source);
    assert_eq!(codes.len(), (before + n_faded) * 320);
    let (heard, faded) = codes.split_at(before * 320);
    assert_eq!(heard, rendered(7, before));
    let loudness = |codes: &[u8]| {
        let samples = codes.iter().map(|&code| mulaw::decode(code).abs());
        samples.fold(0.0, f32::max)
    };
    assert!(loudness(&faded[..320]) > 0.5);
    assert!(loudness(&faded[n_faded * 320 - 160..]) < 0.02);
    let told = std::iter::from_fn(|| bench.wings.left.pop().ok());
    let mut told: Vec<usize> = told.map(|left| left.snapshot.station).collect();
    told.sort_unstable();
    assert_eq!(told, [1, 7, 7, 99]);
    assert!(source.is_over() && bench.sources[1].is_over());
    let engines = bench.body.ensembles.iter().map(|e| e.number);
    assert_eq!(engines.collect::<Vec<_>>(), [0]);
    let n = bench.sources[0].n_written() as usize;
    assert_eq!(published(&bench.sources[0]), rendered(0, n));
    assert!(bench.controls.keep(7, Vec::new).is_err());
}

#[test]
fn a_pump_is_joined_and_left_while_its_thread_runs_and_tells_what_there_was() {
    let engine = || Engine {
        decoder: engine::tiny(1),
        chunk: SHAPE,
        sessions: Vec::new(),
    };
    let (first, _source) = opening(0, start_of(1));
    let told = Arc::<Telemetry>::default();
    let primed = Primed::new(vec![engine()], vec![first], SETTINGS, told, &mut hear);
    let mut pump = primed.unwrap().start().unwrap();
    let (second, source) = opening(0, start_of(7));
    let given = Numbers {
        engines: 1,
        stations: 1,
    };
    let opened = open(vec![engine()], vec![second], (SETTINGS, given), &mut hear);
    pump.join(opened.unwrap()).unwrap();
    while source.n_written() < 10 {
        thread::sleep(Duration::from_millis(1));
    }
    let len = engine::tiny(1).state_len();
    pump.leave(1, vec![0xff; len]).unwrap();
    let snapshot = loop {
        match pump.left() {
            Some(snapshot) => break snapshot,
            None => thread::sleep(Duration::from_millis(1)),
        }
    };
    assert_eq!((snapshot.station, snapshot.seed), (1, 7));
    assert_eq!(snapshot.position, 7 + 320 * source.n_written());
    // From there on it is what it would have been.
    let mut decoder = engine::tiny(2);
    let mut all = Stream::open(&mut *decoder, 0, &start_of(7), 320, &mut hear).unwrap();
    for _ in 0..source.n_written() {
        all.next(&mut *decoder);
    }
    let on = Start {
        kept: Some(Arc::new(snapshot)),
        prompt: Vec::new(),
        ..start_of(7)
    };
    let mut on = Stream::open(&mut *decoder, 1, &on, 320, &mut hear).unwrap();
    for _ in 0..5 {
        let expected = all.next(&mut *decoder).to_vec();
        assert_eq!(on.next(&mut *decoder), expected);
    }
    pump.stop().unwrap();
}
