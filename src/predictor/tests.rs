//! The cascade against plain loops, on every instruction set, and what it is worth.

use super::*;
use crate::compute::Plain;

/// The same by the definition, in double precision and with nothing fused.
fn naive(plan: &[FilterPlan], codes: &[u8]) -> Vec<f32> {
    let mut weights: Vec<Vec<f64>> = plan.iter().map(|filter| vec![0.0; filter.taps]).collect();
    let mut heard = weights.clone();
    let mut predictions = vec![0.0; plan.len()];
    let samples: Vec<f64> = (0..=255).map(|c| f64::from(mulaw::decode(c))).collect();
    let (mut spread, mut error, mut summed) = (1.0, 1.0, 0.0);
    let mut last = 128.0;
    let mut all = Vec::new();
    for code in codes {
        let missed = last - f64::from(*code);
        let shift = missed.clamp(-0.5, 0.5) / (1.0 + 4.0 * spread * spread);
        let at = usize::from(*code);
        let next = if shift < 0.0 {
            at.max(1) - 1
        } else {
            255.min(at + 1)
        };
        let mut rest = samples[at] + shift.abs() * (samples[next] - samples[at]);
        spread += (missed.abs() - spread) / 8.0;
        let off: f64 = rest - summed;
        let most = 8.0 * (error + 2e-4);
        error += (off.abs() - error) / 8.0;
        rest = summed + off.clamp(-most, most);
        let mut expected = 0.0;
        for (i, filter) in plan.iter().enumerate() {
            let left = rest - predictions[i];
            let error = if left.abs() < 1e-12 { 0.0 } else { left };
            let energy: f64 = heard[i].iter().map(|x| x * x).sum();
            let gain = f64::from(filter.rate) * error / (energy + 1e-7 * filter.taps as f64);
            let kept = if error == 0.0 {
                1.0
            } else {
                1.0 - f64::from(filter.leak)
            };
            for (weight, x) in weights[i].iter_mut().zip(&heard[i]) {
                *weight = kept * *weight + gain * x;
            }
            heard[i].pop();
            heard[i].insert(0, rest);
            let sum: f64 = weights[i].iter().zip(&heard[i]).map(|(w, x)| w * x).sum();
            predictions[i] = sum.clamp(-2.0, 2.0);
            expected += predictions[i];
            last = samples
                .windows(2)
                .enumerate()
                .find(|(_, pair)| pair[0] <= expected && expected < pair[1])
                .map(|(at, pair)| at as f64 + (expected - pair[0]) / (pair[1] - pair[0]))
                .unwrap_or(if expected < 0.0 { 0.0 } else { 255.0 });
            all.push((last / 256.0) as f32);
            rest = error;
        }
        summed = f64::clamp(expected, -1.0, 1.0);
        let clamped = f64::clamp(spread, 1.0 / 16.0, 256.0);
        let whole = clamped.log2().floor();
        let octaves = whole + clamped / whole.exp2() - 1.0;
        all.push(((octaves + 4.0) / 16.0) as f32);
    }
    all
}

fn plan() -> Vec<FilterPlan> {
    let filter = |taps, rate, leak| FilterPlan { taps, rate, leak };
    vec![filter(48, 0.1, 1e-3), filter(16, 0.05, 0.0)]
}

/// Three tones and a little noise.
fn chord(n: usize) -> Vec<u8> {
    let mut state = 1u32;
    (0..n)
        .map(|i| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let noise = (state >> 8) as f32 / (1 << 24) as f32 - 0.5;
            let tones = [0.11f32, 0.17, 0.29].map(|w| (w * i as f32).sin());
            let x = 0.1 * tones.iter().sum::<f32>() + 0.003 * noise;
            mulaw::encode(x).unwrap()
        })
        .collect()
}

#[test]
fn the_cascade_is_that_of_the_definition() {
    let mut codes = chord(2_000);
    // Both ends of the scale, where what is heard is held to what can be.
    (codes[700], codes[701], codes[1_300]) = (255, 0, 0);
    let (fast, exact) = (places(&plan(), &codes), naive(&plan(), &codes));
    assert_eq!(fast.len(), exact.len());
    for (at, (fast, exact)) in fast.iter().zip(&exact).enumerate() {
        assert!((fast - exact).abs() < 2e-4, "{at}: {fast} {exact}");
    }
}

#[test]
fn places_are_the_same_on_every_instruction_set() {
    let codes = chord(3_000);
    let on = |isa| dispatch(isa, Walk(Predictor::new(&plan()), &codes));
    let plain = on(Isa::Portable).unwrap();
    for isa in Isa::ALL {
        if let Some(places) = on(isa) {
            assert_eq!(places, plain, "{}", isa.name());
        }
    }
}

#[test]
fn a_code_that_is_held_leaves_no_number_that_is_slow_to_compute_with() {
    let mut predictor = Predictor::new(&plan());
    for code in chord(500).into_iter().chain([128; 30_000]) {
        predictor.hear::<Plain>(code);
    }
    let slow = |x: &f32| x.is_subnormal();
    for filter in &predictor.filters {
        assert!(!filter.heard.iter().any(slow) && !filter.weights.iter().any(slow));
        assert!(!slow(&filter.energy) && !slow(&filter.prediction));
    }
}

#[test]
fn it_learns_a_chord_and_forgets_it_when_reset() {
    let codes = chord(8_000);
    let mut predictor = Predictor::new(&plan());
    let mut missed = Vec::new();
    for code in &codes {
        missed.push((predictor.places()[1] * 256.0 - f32::from(*code)).abs());
        predictor.hear::<Plain>(*code);
    }
    let mean = |part: &[f32]| part.iter().sum::<f32>() / part.len() as f32;
    let (early, late) = (mean(&missed[..100]), mean(&missed[7_000..]));
    assert!(late < 3.0 && late * 3.0 < early, "{early} {late}");
    predictor.reset();
    let again: Vec<f32> = codes[..500]
        .iter()
        .flat_map(|code| {
            predictor.hear::<Plain>(*code);
            predictor.places().to_vec()
        })
        .collect();
    assert_eq!(again, places(&plan(), &codes[..500]));
}

#[test]
fn what_a_sound_no_longer_excites_leaks_away() {
    let tone = |i: u32| mulaw::encode(0.2 * (0.05 * i as f32).sin()).unwrap();
    let length_after = |leak| {
        let plan = [FilterPlan { leak, ..plan()[0] }];
        let mut predictor = Predictor::new(&plan);
        for code in chord(8_000).into_iter().chain((0..20_000).map(tone)) {
            predictor.hear::<Plain>(code);
        }
        let squares = predictor.filters[0].weights.iter().map(|w| w * w);
        squares.sum::<f32>().sqrt()
    };
    let (leaking, keeping) = (length_after(1e-4), length_after(0.0));
    assert!(leaking < 0.7 * keeping, "{leaking} {keeping}");
}

#[test]
fn what_follows_a_sound_is_within_reach() {
    let codes = chord(8_000);
    let mut predictor = Predictor::new(&plan());
    let mut n_beyond = 0;
    for (at, code) in codes.iter().enumerate() {
        let reach = predictor.within_reach::<Plain>(true, None);
        n_beyond += u32::from(!reach.contains(code));
        if at > 4_000 {
            assert!(reach.end() - reach.start() < 160, "{at}: {reach:?}");
        }
        predictor.hear::<Plain>(*code);
    }
    // Of a cold start, most of them.
    assert!(n_beyond < 40, "{n_beyond}");
}

#[test]
fn wild_samples_do_not_let_the_next_ones_be_ever_wilder() {
    let mut predictor = Predictor::new(&plan());
    for code in chord(6_000) {
        predictor.hear::<Plain>(code);
    }
    let (error, usual) = (predictor.error, predictor.usual);
    for _ in 0..6 {
        let wildest = *predictor.within_reach::<Plain>(false, None).end();
        predictor.hear::<Plain>(wildest);
    }
    // Grown by 7/64 of itself six times is less than twice, by 7/8 more than forty times.
    assert!(predictor.usual < 2.0 * usual, "{}", predictor.usual / usual);
    assert!(predictor.error > 2.0 * error, "{}", predictor.error / error);
}

/// Where samples may go on, by the definition, in double precision.
fn naive_going(heard: &[f32], max_click: f64) -> [f64; 2] {
    let x = |back: usize| f64::from(heard[back]);
    let distances = (0..32).map(|i| {
        let cubic = (4.0 * (x(i + 1) + x(i + 3)) - x(i) - x(i + 4)) / 6.0;
        (x(i + 2) - cubic).abs()
    });
    let mean = distances.sum::<f64>() / 32.0;
    let half_step = 256f64.ln() / 255.0 * (x(0).abs() + 1.0 / 255.0);
    let (line, parabola) = (2.0 * x(0) - x(1), 3.0 * x(0) - 3.0 * x(1) + x(2));
    let width = 3.0 * max_click * (mean + half_step);
    [-width, width].map(|width| (line + parabola) / 2.0 + width)
}

#[test]
fn samples_may_go_on_where_the_definition_says() {
    let plan = FilterPlan {
        taps: 48,
        rate: 0.1,
        leak: 0.0,
    };
    let mut predictor = Predictor::new(&[plan]);
    for code in chord(3_000) {
        predictor.hear::<Plain>(code);
        let filter = &predictor.filters[0];
        let going = filter.going::<Plain>(4.0).unwrap();
        let expected = naive_going(&filter.heard[filter.head..], 4.0);
        for (bound, expected) in [*going.start(), *going.end()].into_iter().zip(expected) {
            assert!(
                (f64::from(bound) - expected).abs() < 1e-6,
                "{bound}, {expected}"
            );
        }
    }
    let short = FilterPlan { taps: 32, ..plan };
    assert_eq!(
        Predictor::new(&[short]).filters[0].going::<Plain>(4.0),
        None
    );
}

#[test]
fn what_stands_out_is_followed_and_what_does_not_goes_on_as_before() {
    let codes = chord(8_000);
    let mut predictor = Predictor::new(&plan());
    let within = |predictor: &Predictor, most| predictor.within_reach::<Plain>(true, most);
    let mut n_beyond = 0;
    for code in &codes[..6_000] {
        let (all, some) = (within(&predictor, None), within(&predictor, Some(4.0)));
        assert!(all.contains(some.start()) && all.contains(some.end()));
        n_beyond += u32::from(all.contains(code) && !some.contains(code));
        predictor.hear::<Plain>(*code);
    }
    assert!(n_beyond < 6, "{n_beyond}");
    let (now, next) = (codes[6_000], codes[6_001]);
    predictor.hear::<Plain>(mulaw::encode(mulaw::decode(now) + 0.05).unwrap());
    let (all, some) = (within(&predictor, None), within(&predictor, Some(2.0)));
    assert!(all.contains(&next), "{all:?}, {next}");
    assert!(*some.start() > next, "{some:?}, {next}");
}

#[test]
fn a_click_does_not_disturb_what_is_expected_later() {
    let codes = chord(8_000);
    let mut clicked = codes.clone();
    clicked[6_000] = 255 - clicked[6_000].min(100);
    let (clean, clicked) = (places(&plan(), &codes), places(&plan(), &clicked));
    let worst = |from: usize| {
        let pairs = clean[3 * from..].iter().zip(&clicked[3 * from..]);
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max)
    };
    assert!(worst(6_100) < 0.05, "{}", worst(6_100));
}

#[test]
fn no_sound_however_wild_leads_it_out_of_the_scale() {
    let mut state = 9u32;
    let wild: Vec<u8> = (0..20_000u32)
        .map(|i| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            match i / 1_000 % 4 {
                0 => 128,
                1 => (state >> 24) as u8,
                2 => [0, 255][i as usize % 2],
                _ => 255,
            }
        })
        .collect();
    let mut predictor = Predictor::new(&plan());
    for code in wild {
        predictor.hear::<Plain>(code);
        let reach = predictor.within_reach::<Plain>(true, None);
        assert!(reach.start() <= reach.end());
        assert!(predictor.expected.is_finite() && predictor.error.is_finite());
        for filter in &predictor.filters {
            assert!(filter.energy.is_finite() && filter.prediction.is_finite());
            assert!(filter.weights.iter().all(|w| w.abs() < 1e3));
        }
    }
}

#[test]
fn a_place_lies_between_its_codes() {
    let samples = *Predictor::new(&plan()).samples;
    for code in 0..=254u8 {
        let (low, high) = (mulaw::decode(code), mulaw::decode(code + 1));
        let place = |x| place_of(&samples, x) * 256.0;
        assert_eq!(place(low), f32::from(code));
        assert!((place((low + high) / 2.0) - f32::from(code) - 0.5).abs() < 1e-3);
    }
    assert_eq!(place_of(&samples, -2.0), 0.0);
    assert_eq!(place_of(&samples, 2.0), 255.0 / 256.0);
    assert_eq!(
        [1.0 / 16.0, 1.0, 256.0].map(place_of_spread),
        [0.0, 0.25, 0.75]
    );
}

#[test]
fn waves_are_cosines_and_sines_of_the_harmonics() {
    for i in 0..=1_000 {
        let place = i as f32 / 1_001.0;
        let mut fast = [0.0; WAVES];
        waves::<Plain>(place, &mut fast);
        for (fast, exact) in fast.iter().zip(naive_waves(&[place])) {
            assert!((fast - exact).abs() < 1e-5, "{place}: {fast} {exact}");
        }
    }
    let quarter = naive_waves(&[0.25]);
    assert!((quarter[1] + 1.0).abs() < 1e-6 && (quarter[LANES] - 1.0).abs() < 1e-6);
}

#[test]
fn cascades_that_cannot_run_are_refused() {
    let filter = |taps, rate, leak| FilterPlan { taps, rate, leak };
    let refused = |taps, rate| check(&[filter(taps, rate, 0.0)]).unwrap_err();
    let why = check(&[filter(16, 0.1, 0.2)]).unwrap_err();
    assert!(why.contains("leak is 0.2"), "{why}");
    let why = check(&[filter(16, 0.1, -1.0)]).unwrap_err();
    assert!(why.contains("leak is -1"), "{why}");
    assert!(refused(0, 0.1).contains("taps is 0"));
    assert!(refused(17, 0.1).contains("multiple of 16"));
    assert!(refused(16, 2.0).contains("runs away"));
    assert!(refused(16, f32::NAN).contains("rate"));
    assert!(
        check(&vec![plan()[0]; 17])
            .unwrap_err()
            .contains("17 filters")
    );
    assert_eq!(check(&plan()), Ok(()));
}
