//! `docs/openapi.json` against the server: the paths it has, the statuses it answers, the fields it sends.

use crate::server::Server;
use crate::state;
use longwave::net::Settings;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;

fn openapi() -> Value {
    serde_json::from_str(&fs::read_to_string("docs/openapi.json").unwrap()).unwrap()
}

/// The paths that the router is given, read from its source as they stand there.
fn routes() -> BTreeSet<String> {
    let source = fs::read_to_string("src/net/http.rs").unwrap();
    let calls = source.split(".route(").skip(1);
    let path = |call: &str| call.split('"').nth(1).unwrap().to_owned();
    calls.map(path).collect()
}

#[test]
fn the_document_has_the_paths_of_the_server_and_no_others() {
    let document = openapi();
    let documented = document["paths"].as_object().unwrap();
    let documented: BTreeSet<String> = documented.keys().cloned().collect();
    assert_eq!(documented, routes());
}

#[test]
fn every_reference_in_the_documents_leads_somewhere() {
    fn check(document: &Value, value: &Value) {
        if let Some(Value::String(reference)) = value.get("$ref") {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        match value {
            Value::Object(fields) => fields.values().for_each(|field| check(document, field)),
            Value::Array(items) => items.iter().for_each(|item| check(document, item)),
            _ => {}
        }
    }
    for document in [openapi(), crate::document::Document::read().0] {
        check(&document, &document);
    }
}

#[tokio::test]
async fn what_can_be_asked_for_answers_with_a_documented_status_and_kind() {
    let mut server = Server::start(Settings::default()).await;
    server.publish(30);
    let _answering = state::answer(&mut server);
    let document = openapi();
    for (path, item) in document["paths"].as_object().unwrap() {
        let Some(operation) = item.get("get") else {
            continue;
        };
        let asked = path.replace("{name}", "piano");
        let is_no_text = asked.contains("/stream.") || asked.ends_with("/state");
        let method = if is_no_text { "HEAD" } else { "GET" };
        let answer = server.text(method, &asked).await;
        let status = answer.split(' ').nth(1).unwrap();
        let response = &operation["responses"][status];
        assert!(!response.is_null(), "{path} answers {status}");
        let Some(kinds) = response.get("content").and_then(Value::as_object) else {
            continue;
        };
        let kind = kinds.keys().next().unwrap();
        assert!(
            answer.contains(&format!("content-type: {kind}")),
            "{path}: {answer}"
        );
    }
}

#[tokio::test]
async fn a_station_has_the_documented_fields() {
    let server = Server::start(Settings::default()).await;
    let answer = server.text("GET", "/v1/stations").await;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let stations: Value = serde_json::from_str(body).unwrap();
    let schemas = &openapi()["components"]["schemas"];
    let has = |value: &Value, schema: &Value| {
        let sent: BTreeSet<&String> = value.as_object().unwrap().keys().collect();
        let documented: BTreeSet<&String> =
            schema["properties"].as_object().unwrap().keys().collect();
        assert_eq!(sent, documented);
    };
    let mut station = schemas["Station"].clone();
    if !cfg!(feature = "opus") {
        let fields = station["properties"].as_object_mut().unwrap();
        fields.remove("opus");
    }
    has(&stations[0], &station);
    has(&stations[0]["draw"], &schemas["Draw"]);
    let mut change = schemas["Change"]["properties"].clone();
    for key in ["seed", "volume_db", "mute"] {
        change.as_object_mut().unwrap().remove(key);
    }
    assert_eq!(change, schemas["Draw"]["properties"]);
}
