//! Every view of a pattern against every other.

use super::*;
use serde_json::json;

/// One small layer of every kind, several where a kind has cases.
fn samples() -> Vec<Arc<dyn Placed>> {
    let defaults = Defaults {
        stride: 4,
        context: 32,
    };
    let mut all: Vec<_> = [
        json!("local"),
        json!("strided"),
        json!({"kind": "local", "window": 1}),
        json!({"kind": "local", "window": 7}),
        json!({"kind": "strided", "stride": 3, "rows": 5}),
        json!({"kind": "strided", "stride": 1, "rows": 6}),
        json!({"kind": "dilated", "window": 5, "dilation": 3}),
        json!({"kind": "fixed", "block": 6, "blocks": 3, "summary": 2}),
        json!({"kind": "fixed", "block": 6, "blocks": 3, "summary": 2, "sub_block": 2}),
        json!({"kind": "fixed", "block": 5, "blocks": 4, "summary": 1, "sub_block": 1}),
        json!({"kind": "fixed", "block": 4, "blocks": 3, "summary": 4}),
        json!({"kind": "fixed", "block": 4, "blocks": 1, "summary": 1}),
        json!({"kind": "global", "anchors": 3, "beside": "strided"}),
        json!({"kind": "global", "anchors": 17, "beside": {"kind": "memory", "segment": 5}}),
        json!({"kind": "global", "anchors": 1, "beside":
            {"kind": "random", "block": 4, "blocks": 6, "r": 2, "seed": 1}}),
        json!({"kind": "random", "block": 3, "blocks": 7, "r": 2, "seed": 9}),
        json!({"kind": "random", "block": 2, "blocks": 3, "r": 9, "seed": 9}),
        json!({"kind": "random", "block": 5, "blocks": 1, "r": 1, "seed": 9}),
        json!({"kind": "block_sparse", "block": 3, "layout": [[0, 1], [0, 2, 5], [0]]}),
        json!({"kind": "memory", "segment": 1}),
        json!({"kind": "memory", "segment": 7}),
        json!({"kind": "latent", "inputs": 9, "latents": 3}),
    ]
    .iter()
    .filter_map(|entry| placed(entry, &defaults))
    .collect();
    // A kind that someone adds is tested by its plain word without a line here.
    all.extend(
        KINDS
            .iter()
            .filter_map(|kind| placed(&json!(kind.name), &defaults)),
    );
    all
}

/// The head of an entry, where positions say what it sees.
fn placed(entry: &Value, defaults: &Defaults) -> Option<Arc<dyn Placed>> {
    match parse(entry, defaults).unwrap() {
        Head::Placed(pattern) => Some(pattern),
        Head::Hashed(_) => None,
    }
}

/// Of what repeats the period, of `random` as much as shows all it does.
fn cycle(pattern: &dyn Placed) -> u64 {
    pattern.cycle(1).unwrap_or(4 * pattern.reach())
}

#[test]
fn the_slots_hold_exactly_what_the_mask_shows_through_three_cycles() {
    for pattern in samples() {
        let cycle = cycle(pattern.as_ref());
        let mut held = vec![None; pattern.n_slots()];
        let mut farthest = 0;
        for t in 0..3 * cycle + 5 + pattern.kept() {
            held[pattern.slot(t)] = Some(t);
            let (mut by_slots, mut n_runs) = (Vec::new(), 0);
            pattern.visible(t, &mut |run| {
                by_slots.extend(held[run].iter().map(|k| k.unwrap()));
                n_runs += 1;
            });
            assert!(n_runs <= pattern.max_runs(), "{pattern:?} at {t}");
            by_slots.sort_unstable();
            let by_mask: Vec<u64> = (0..=t).filter(|&k| pattern.sees(t, k)).collect();
            assert_eq!(by_slots, by_mask, "{pattern:?} at {t}");
            assert!(by_mask.len() <= pattern.max_visible());
            assert!(by_mask.contains(&t));
            let sliding = by_mask.iter().find(|k| **k >= pattern.kept());
            farthest = sliding.map_or(0, |k| t - k + 1).max(farthest);
        }
        // What is drawn may leave out the farthest block for long.
        match pattern.cycle(1) {
            Some(_) => assert_eq!(farthest, pattern.reach(), "{pattern:?}"),
            None => assert!(farthest <= pattern.reach(), "{pattern:?}"),
        }
    }
}

#[test]
fn the_visible_rotations_are_distinct_and_no_more_than_promised() {
    for pattern in samples() {
        for t in 0..2 * cycle(pattern.as_ref()) {
            let mut seen: Vec<u64> = (pattern.kept().min(t)..=t)
                .filter(|&k| pattern.sees(t, k))
                .map(|k| pattern.rotation(k))
                .collect();
            let n = seen.len();
            let span = seen.last().unwrap_or(&0) - seen.first().unwrap_or(&0);
            assert!(span < pattern.n_angles() as u64, "{pattern:?} at {t}");
            seen.dedup();
            assert_eq!(seen.len(), n, "{pattern:?} at {t}");
        }
    }
}

#[test]
fn evenly_spaced_keys_are_those_of_the_mask() {
    for pattern in samples() {
        let Some(Spacing { stride, rows }) = pattern.spacing() else {
            continue;
        };
        for t in 0..2 * cycle(pattern.as_ref()) {
            let by_spacing: Vec<u64> = (0..rows as u64)
                .rev()
                .filter_map(|j| t.checked_sub(j * stride as u64))
                .collect();
            let by_mask: Vec<u64> = (0..=t).filter(|&k| pattern.sees(t, k)).collect();
            assert_eq!(by_spacing, by_mask, "{pattern:?} at {t}");
        }
    }
}

#[test]
fn nothing_sees_the_future() {
    for pattern in samples() {
        assert!(
            (0..40).all(|t| (t + 1..60).all(|k| !pattern.sees(t, k))),
            "{pattern:?}"
        );
    }
}

#[test]
fn zero_and_absurd_sizes_are_refused() {
    let defaults = Defaults {
        stride: 4,
        context: 32,
    };
    for entry in [
        json!({"kind": "local", "window": 0}),
        json!({"kind": "local", "window": 1u64 << 40}),
        json!({"kind": "strided", "stride": 0, "rows": 1}),
        json!({"kind": "strided", "stride": 1 << 20, "rows": 1 << 20}),
        json!(7),
    ] {
        assert!(parse(&entry, &defaults).is_err(), "{entry}");
    }
}

#[test]
fn what_a_kind_does_not_allow_is_refused_with_the_rule() {
    let refusal = |entry: Value| {
        let reach = Defaults {
            stride: 4,
            context: 32,
        };
        parse(&entry, &reach).unwrap_err()
    };
    let fixed = json!({"kind": "fixed", "block": 8, "blocks": 4, "summary": 3, "sub_block": 2});
    assert!(refusal(fixed).contains("does not lie in a block of 8"));
    for row in [json!([1]), json!([0, 2, 2]), json!([0, 3, 1]), json!([])] {
        let entry = json!({"kind": "block_sparse", "block": 8, "layout": [[0], row]});
        assert!(refusal(entry).contains("begins with 0"));
    }
    let none = json!({"kind": "block_sparse", "block": 8, "layout": []});
    assert!(refusal(none).contains("layout has 0 rows"));
    let vast = json!({"kind": "block_sparse", "block": 1 << 20, "layout": [[0, 1 << 20]]});
    assert!(refusal(vast).contains("block times blocks"));
    let many = json!({"kind": "random", "block": 8, "blocks": 99, "r": 65, "seed": 0});
    assert!(refusal(many).contains("r is 65"));
    let anchors = json!({"kind": "global", "anchors": 4, "beside": "global"});
    assert!(refusal(anchors).contains("beside anchors global"));
    let anchors = json!({"kind": "global", "anchors": 4, "beside": {"kind": "fixed"}});
    assert!(refusal(anchors).contains("beside: missing field"));
    let anchors = json!({"kind": "global", "anchors": 4, "beside": "hashed"});
    assert!(refusal(anchors).contains("beside anchors hashed"));
    let latents = json!({"kind": "latent", "inputs": 8, "latents": 9});
    assert!(refusal(latents).contains("more than the 8 inputs"));
}

#[test]
fn every_head_may_see_otherwise() {
    let reach = Defaults {
        stride: 4,
        context: 32,
    };
    let list = json!(["local", {"kind": "dilated", "window": 4, "dilation": 2}]);
    let layer = Layer::parse(&list, &reach, 2).unwrap();
    assert_eq!((layer.kind(), layer.patterns().len()), ("mixed", 2));
    let sees = |group: usize, key| layer.placed(2).unwrap()[group].sees(9, key);
    assert!(sees(0, 8) && !sees(1, 8));
    assert!(sees(1, 3) && !sees(0, 3));
    assert_eq!((layer.reach(), layer.spacing()), (7, None));
    let alike = Layer::parse(&json!(["local", "local"]), &reach, 2).unwrap();
    assert!(alike.shared().is_some() && alike.spacing().is_some());
    assert!(Layer::parse(&json!([]), &reach, 1).is_err());
    let why = Layer::parse(&list, &reach, 3).unwrap_err();
    assert!(why.contains("2 given, 3 needed"), "{why}");
}

#[test]
fn random_blocks_are_many_and_differ_by_block_and_seed() {
    let of = |seed: u64| {
        let entry = json!({"kind": "random", "block": 2, "blocks": 64, "r": 3, "seed": seed});
        let reach = Defaults {
            stride: 4,
            context: 32,
        };
        placed(&entry, &reach).unwrap()
    };
    let seen = |pattern: &dyn Placed, block: u64| -> Vec<u64> {
        let back = 1..64;
        back.filter(|back| pattern.sees(2 * block, 2 * (block - back)))
            .collect()
    };
    let (one, other) = (of(1), of(2));
    let mut counts = [0; 64];
    for block in 100..1100 {
        let blocks = seen(one.as_ref(), block);
        assert_eq!(blocks.len(), 3);
        blocks.iter().for_each(|back| counts[*back as usize] += 1);
    }
    // 1,000 times 3 of 63: about 48 each, with a deviation of 7.
    assert!(
        counts[1..].iter().all(|n| (15..85).contains(n)),
        "{counts:?}"
    );
    let alike = (100..1100).filter(|b| seen(one.as_ref(), *b) == seen(other.as_ref(), *b));
    assert!(alike.count() < 3);
}
