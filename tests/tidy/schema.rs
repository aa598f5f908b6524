//! The JSON schema of the configuration, for editors: made from the types that read the file and from the page that
//! describes its keys.
//!
//! After a change of a key: `cargo test --test it -- --ignored the_schema_is_written`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use syn::{Expr, GenericArgument, Item, ItemStruct, Lit, PathArguments, Type};
use tlsidecar::commands::pages::keys::{self, Key};

use super::documents::toml_blocks;
use super::{read, root, rust_files};

const FILE: &str = "docs/tlsidecar.schema.json";

/// The sources of a schema.
struct Sources {
    structs: BTreeMap<String, ItemStruct>,
    /// The texts of each closed set of values.
    choices: BTreeMap<String, Vec<String>>,
    /// The keys of the page, by section and name.
    keys: BTreeMap<(String, String), Key>,
}

impl Sources {
    fn read() -> Self {
        let mut structs = BTreeMap::new();
        for file in ["src/config/file/sections.rs", "src/config/file/allow.rs"] {
            for item in syn::parse_file(&read(file)).unwrap().items {
                if let Item::Struct(item) = item {
                    structs.insert(item.ident.to_string(), item);
                }
            }
        }
        let mut choices = BTreeMap::new();
        for file in rust_files("src/config").into_iter().chain(rust_files("src/logging")) {
            for declared in read(&file).split("choices!(").skip(1) {
                let (name, rest) = declared.split_once('{').unwrap();
                let texts = rest.split('}').next().unwrap().split('"').skip(1).step_by(2);
                choices.insert(name.trim().to_owned(), texts.map(str::to_owned).collect());
            }
        }
        choices.insert("TlsVersion".to_owned(), vec!["1.2".to_owned(), "1.3".to_owned()]);
        let mut by_place = BTreeMap::new();
        for section in keys::sections() {
            let place = section.heading.trim_matches(['[', ']']).to_owned();
            for key in section.keys {
                by_place.insert((place.clone(), key.name.clone()), key);
            }
        }
        Self { structs, choices, keys: by_place }
    }

    /// Returns the schema of a section.
    fn object(&self, name: &str, place: &str) -> Value {
        let mut properties = Map::new();
        for field in &self.structs[name].fields {
            let key = field.ident.as_ref().unwrap().to_string();
            // A route has its listener's protocols.
            if place == "listener.route.tls" && key == "alpn" {
                continue;
            }
            let below = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
            let mut schema = self.of(&field.ty, &below);
            self.describe(&mut schema, place, &key);
            properties.insert(key, schema);
        }
        let required = match (name, place) {
            ("Document", _) => &["listener"][..],
            ("ListenerSection", _) => &["name", "listen", "tls"],
            ("TlsSection", "listener.tls") => &["certificates"],
            ("CertificateSection", _) => &["cert", "key"],
            ("RouteSection", _) => &["backend"],
            _ => &[],
        };
        let mut object =
            json!({"type": "object", "properties": properties, "additionalProperties": false});
        if !required.is_empty() {
            object["required"] = json!(required);
        }
        object
    }

    fn describe(&self, schema: &mut Value, place: &str, key: &str) {
        let place = place.replace("listener.route.", "listener.");
        let Some(described) = self.keys.get(&(place, key.to_owned())) else { return };
        if !described.text.is_empty() {
            schema["description"] = json!(described.text);
        }
        let default: toml::Table = toml::from_str(&format!("v = {}", described.value)).unwrap();
        // The values of these are an example, since a listener needs them.
        let is_needed = ["name", "listen", "backend", "certificates", "sni"].contains(&key);
        if described.has_default && !is_needed {
            schema["default"] = serde_json::to_value(&default["v"]).unwrap();
        }
    }

    /// Returns the schema of a type.
    fn of(&self, kind: &Type, place: &str) -> Value {
        let Type::Path(path) = kind else { panic!("a type without a path in {place}") };
        let last = path.path.segments.last().unwrap();
        let argument = |at: usize| {
            let PathArguments::AngleBracketed(list) = &last.arguments else {
                panic!("a type without an argument in {place}")
            };
            &list.args[at]
        };
        let inner = || {
            let GenericArgument::Type(inner) = argument(0) else { panic!("no type in {place}") };
            inner
        };
        match last.ident.to_string().as_str() {
            "Option" | "Spanned" => self.of(inner(), place),
            "Vec" => json!({"type": "array", "items": self.of(inner(), place)}),
            "Texts" => json!({"type": "array", "items": self.text(inner())}),
            "Text" | "Expanded" => self.text(inner()),
            "PathText" => json!({"type": "string", "minLength": 1}),
            "bool" => json!({"type": "boolean"}),
            "Whole" => json!({
                "type": "integer", "minimum": number(argument(0)), "maximum": number(argument(1))
            }),
            "RecordBytes" => json!({"anyOf": [
                {"type": "integer", "minimum": 512, "maximum": 16384}, {"type": "string"}
            ]}),
            "BackendTexts" => json!({"anyOf": [
                {"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}
            ]}),
            section => self.object(section, place),
        }
    }

    fn text(&self, kind: &Type) -> Value {
        let Type::Path(path) = kind else { panic!("a type with a name") };
        match self.choices.get(&path.path.segments.last().unwrap().ident.to_string()) {
            Some(texts) => json!({"enum": texts}),
            None => json!({"type": "string"}),
        }
    }
}

fn number(argument: &GenericArgument) -> u32 {
    let GenericArgument::Const(Expr::Lit(literal)) = argument else { panic!("a number") };
    let Lit::Int(number) = &literal.lit else { panic!("a whole number") };
    number.base10_parse().unwrap()
}

fn schema() -> String {
    let mut schema = Sources::read().object("Document", "");
    schema["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    schema["title"] = json!("The configuration of tlsidecar");
    serde_json::to_string_pretty(&schema).unwrap() + "\n"
}

/// Returns the first violation of a schema with the keywords that ours has.
fn violation(schema: &Value, value: &Value, at: &str) -> Option<String> {
    if let Some(any) = schema.get("anyOf") {
        let mut any = any.as_array().unwrap().iter();
        return any.all(|one| violation(one, value, at).is_some()).then(|| at.to_owned());
    }
    let is_of_type = match schema.get("type").and_then(Value::as_str) {
        None => schema["enum"].as_array().unwrap().contains(value),
        Some("string") => value.as_str().is_some_and(|text| {
            text.len() as u64 >= schema.get("minLength").map_or(0, |least| least.as_u64().unwrap())
        }),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.as_i64().is_some_and(|number| {
            (schema["minimum"].as_i64().unwrap()..=schema["maximum"].as_i64().unwrap())
                .contains(&number)
        }),
        Some("array") => value.is_array(),
        Some(_) => value.is_object(),
    };
    if !is_of_type {
        return Some(at.to_owned());
    }
    let mut items = value.as_array().into_iter().flatten();
    if let Some(found) = items.find_map(|item| violation(&schema["items"], item, at)) {
        return Some(found);
    }
    let object = value.as_object()?;
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    let mut missing = required.filter(|key| !object.contains_key(key.as_str().unwrap()));
    if let Some(key) = missing.next() {
        return Some(format!("{at}: {key} is missing"));
    }
    object.iter().find_map(|(key, value)| match schema["properties"].get(key) {
        Some(schema) => violation(schema, value, &format!("{at}.{key}")),
        None => Some(format!("{at}.{key}")),
    })
}

/// Returns the first violation in a configuration.
fn violation_in(text: &str) -> Option<String> {
    let schema = serde_json::from_str(&read(FILE)).unwrap();
    let table: toml::Table = toml::from_str(text).unwrap();
    violation(&schema, &serde_json::to_value(table).unwrap(), "")
}

#[test]
fn the_schema_is_that_of_the_types_and_of_the_page() {
    assert_eq!(read(FILE), schema(), "cargo test --test it -- --ignored the_schema_is_written");
}

#[test]
#[ignore = "it writes a file of the repository"]
fn the_schema_is_written() {
    std::fs::write(root().join(FILE), schema()).unwrap();
}

#[test]
fn the_schema_accepts_the_configurations_in_the_documents() {
    for page in ["README.md", "docs/configuration.md"] {
        for text in toml_blocks(&read(page)) {
            assert_eq!(violation_in(&text), None, "{page}: {text}");
        }
    }
}

#[test]
fn the_schema_rejects_unknown_keys_and_invalid_values() {
    let good = toml_blocks(&read("docs/configuration.md")).remove(0);
    for (line, at) in [
        ("colour = 1", ".listener.colour"),
        ("tls.client_auth = \"perhaps\"", ".listener.tls.client_auth"),
        ("tls.tickets = 5", ".listener.tls.tickets"),
        ("timeouts.idle = 5", ".listener.timeouts.idle"),
        ("route = [{ tls.alpn = [], backend = \"a:1\" }]", ".listener.route.tls.alpn"),
        ("route = [{}]", ".listener.route: \"backend\" is missing"),
    ] {
        assert_eq!(violation_in(&format!("{good}{line}\n")).as_deref(), Some(at));
    }
}
