//! One home for each parameter: what derives from it is whole, and strict where it should be.

use serde_json::{Value, json};

use super::*;

/// A table with a key of its own.
#[derive(Debug, Deserialize)]
struct Table {
    own: u32,
}

fn read(text: &str) -> Result<(u32, DrawPatch), String> {
    let mut draw = DrawPatch::default();
    let mut text = serde_json::Deserializer::from_str(text);
    let table = Table::deserialize(draw.among(&mut text)).map_err(|error| error.to_string())?;
    Ok((table.own, draw))
}

#[test]
fn a_key_is_the_name_of_its_field() {
    let keys = PARAMETERS.zip(PARAMETERS, |one, other| [one.key, other.key]);
    let object = serde_json::to_value(keys).unwrap();
    let fields = object.as_object().unwrap().iter();
    let expected = |field: &String| json!([field, field]);
    for (field, keys) in fields {
        assert_eq!(*keys, expected(field));
    }
}

#[test]
fn what_is_neutral_is_allowed_and_what_is_beyond_is_refused_by_name() {
    DrawParams::default().check().unwrap();
    for (parameter, _) in PARAMETERS.each() {
        for beyond in [-1.0, 101.0, f32::NAN] {
            let set = |other: Parameter, neutral| match other.key == parameter.key {
                true => beyond,
                false => neutral,
            };
            let why = PARAMETERS.zip(DrawParams::default(), set).check();
            let start = format!("draw: {} is {beyond}; it must be ", parameter.key);
            assert!(why.unwrap_err().starts_with(&start), "{start}");
        }
    }
    let wild = DrawParams {
        max_entropy: 0.0,
        ..DrawParams::default()
    };
    let why = "draw: max_entropy is 0; it must be from 0.1 to 8 bits";
    assert_eq!(wild.check().unwrap_err(), why);
}

#[test]
fn parameters_are_told_from_other_keys_wherever_they_stand() {
    let mut n = 0.0;
    let all = PARAMETERS.map(|_| {
        n += 1.0;
        Some(n)
    });
    let mut object = serde_json::to_value(all).unwrap();
    object["own"] = json!(7);
    assert_eq!(read(&object.to_string()), Ok((7, all)));
    let (own, none) = read(r#"{"temperature": null, "own": 8}"#).unwrap();
    assert_eq!((own, none), (8, DrawPatch::default()));
}

#[test]
fn a_key_of_nobody_s_is_refused_where_it_stands() {
    for (text, why) in [
        (
            "{\"own\": 1,\n\"luck\": 2}",
            "unknown field `luck`, expected one of `own`, `temperature`, ",
        ),
        (
            "{\"own\": 1, \"min_p\": 0.1,\n\"min_p\": 0.2}",
            "duplicate field `min_p`",
        ),
        (
            "{\"own\": 1,\n\"top_p\": \"all\"}",
            "invalid type: string \"all\", expected f32",
        ),
        ("{\n\"min_p\": 0.1}", "missing field `own`"),
    ] {
        let error = read(text).unwrap_err();
        assert!(
            error.starts_with(why) && error.contains("at line 2"),
            "{error}"
        );
    }
}

#[test]
fn what_is_said_goes_before_what_is_usual() {
    let said = DrawPatch {
        top_p: Some(0.5),
        ..DrawPatch::default()
    };
    let other = DrawPatch {
        min_p: Some(0.1),
        top_p: Some(0.9),
        ..DrawPatch::default()
    };
    let drawn = said.or(other).unwrap_or(DrawParams::default());
    let expected = DrawParams {
        top_p: 0.5,
        min_p: 0.1,
        ..DrawParams::default()
    };
    assert_eq!(drawn, expected);
}

#[test]
fn an_object_of_parameters_may_leave_out_and_not_add() {
    let read = |object: Value| or_neutral(object).map_err(|error| error.to_string());
    assert_eq!(read(json!({})), Ok(DrawParams::default()));
    let drawn = read(json!({"leveling": 0.125})).unwrap();
    assert_eq!(drawn.leveling, 0.125);
    let why = read(json!({"luck": 7})).unwrap_err();
    assert!(
        why.contains("unknown field `luck`, expected one of `temperature`"),
        "{why}"
    );
}

#[test]
fn every_document_names_every_parameter() {
    let openapi = include_str!("../../docs/openapi.json");
    let asyncapi = include_str!("../../docs/asyncapi.json");
    for &key in KEYS {
        let option = key.replace('_', "-");
        for (text, name) in [
            (
                include_str!("../../examples/longwave.toml"),
                format!("\n#? {key} = "),
            ),
            (include_str!("../../docs/model.md"), format!("`{key}` (")),
            (
                include_str!("../../docs/protocol.md"),
                format!("`draw.{key}`"),
            ),
            (
                include_str!("../../docs/operating.md"),
                format!("`--{option}`"),
            ),
            (openapi, format!("\"{key}\": {{")),
            (asyncapi, format!("\"{key}\": {{")),
        ] {
            assert!(text.contains(&name), "no {name} in {}", &text[..60]);
        }
    }
}
