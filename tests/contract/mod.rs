//! `docs/asyncapi.json`, asked whether a message is as it says.
#![allow(dead_code, reason = "not every test asks for all of it")]

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;

pub struct Document(pub Value);

impl Document {
    pub fn read() -> Self {
        Self(serde_json::from_str(&fs::read_to_string("docs/asyncapi.json").unwrap()).unwrap())
    }

    /// A message by its name there.
    pub fn message(&self, name: &str) -> &Value {
        let message = &self.0["components"]["messages"][name];
        assert!(message.is_object(), "{name} is not in the document");
        message
    }

    /// The names of what is said in an operation.
    pub fn said_in(&self, operation: &str) -> BTreeSet<&str> {
        let messages = self.0["operations"][operation]["messages"].as_array();
        let references = messages
            .unwrap()
            .iter()
            .map(|m| m["$ref"].as_str().unwrap());
        references
            .map(|path| path.rsplit('/').next().unwrap())
            .collect()
    }

    /// Whether the schema of a message lets this pass.
    pub fn allows(&self, name: &str, message: &Value) -> Result<(), String> {
        complaint(
            &self.0["components"]["schemas"],
            &self.message(name)["payload"],
            message,
        )
    }

    /// The same, and nothing is said that the document leaves out.
    pub fn describes(&self, name: &str, text: &str) {
        let mut schemas = self.0["components"]["schemas"].clone();
        close(&mut schemas);
        let message = serde_json::from_str(text).unwrap();
        if let Err(complaint) = complaint(&schemas, &self.message(name)["payload"], &message) {
            panic!("{text} is no {name}: {complaint}");
        }
    }
}

fn complaint(schemas: &Value, schema: &Value, message: &Value) -> Result<(), String> {
    let schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "allOf": [schema],
        "components": { "schemas": schemas },
    });
    let validator = jsonschema::validator_for(&schema).expect("its schemas are schemas");
    validator
        .validate(message)
        .map_err(|error| error.to_string())
}

/// No object may have what its schema does not name.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.values_mut().for_each(close);
            if fields.get("properties").is_some_and(Value::is_object) {
                fields.insert("additionalProperties".into(), false.into());
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}
