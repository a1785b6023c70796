//! The description of JSON over HTTP says what the protos say, no less and no more.
use super::super::{
    http::{send, text},
    server::Plan,
};
use newshound::serve::rpc::proto::DESCRIPTORS;
use prost::Message;
use prost_types::{DescriptorProto, FileDescriptorSet, field_descriptor_proto::Label};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

async fn served() -> Value {
    let server = Plan::new().start().await;
    let answer = send(server.grpc, &text("GET", "/v1/openapi.json", &[], b"")).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    answer.json().await
}

fn files() -> FileDescriptorSet {
    FileDescriptorSet::decode(DESCRIPTORS).unwrap()
}

/// Messages of ours by name.
fn messages(files: &FileDescriptorSet) -> BTreeMap<&str, &DescriptorProto> {
    let ours = files.file.iter().filter(|file| file.package() == "newshound.v1");
    ours.flat_map(|file| &file.message_type).map(|message| (message.name(), message)).collect()
}

fn keys(object: &Value) -> BTreeSet<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

#[tokio::test]
async fn the_copy_for_those_who_make_clients_is_what_is_served() {
    let copy: Value = serde_json::from_str(include_str!("../../../deploy/openapi.json")).unwrap();
    assert!(served().await == copy, "deploy/openapi.json is not what /v1/openapi.json is: save that over it");
}

#[tokio::test]
async fn every_field_of_every_message_is_described_and_none_is_invented() {
    let (document, files) = (served().await, files());
    let messages = messages(&files);
    let schemas = &document["components"]["schemas"];
    let mut n_fields = 0;
    for (name, message) in &messages {
        let schema = &schemas[name];
        let fields: BTreeSet<&str> = message.field.iter().map(|field| field.json_name()).collect();
        assert_eq!(keys(&schema["properties"]), fields, "{name}");
        for field in &message.field {
            let described = &schema["properties"][field.json_name()];
            let is_list = field.label() == Label::Repeated;
            assert_eq!(described["type"] == "array", is_list, "{name}.{}", field.name());
            n_fields += 1;
        }
    }
    let enums =
        files.file.iter().filter(|file| file.package() == "newshound.v1").flat_map(|file| &file.enum_type);
    let enums: BTreeMap<&str, Vec<&str>> =
        enums.map(|words| (words.name(), words.value.iter().map(|word| word.name()).collect())).collect();
    for (name, words) in &enums {
        assert_eq!(schemas[name]["enum"], serde_json::json!(words), "{name}");
    }
    let known = |name: &&str| {
        messages.contains_key(name) || enums.contains_key(name) || **name == *"google.rpc.Status"
    };
    assert!(keys(schemas).iter().all(known), "{:?}", keys(schemas));
    assert!(n_fields > 100, "found only {n_fields} fields");
}

#[tokio::test]
async fn every_method_has_a_path_and_every_reference_leads_somewhere() {
    let document = served().await;
    let operations: BTreeSet<&str> = document["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|path| path.as_object().unwrap().values())
        .map(|operation| operation["operationId"].as_str().unwrap())
        .collect();
    let files = files();
    let services =
        files.file.iter().filter(|file| file.package() == "newshound.v1").flat_map(|file| &file.service);
    let methods: BTreeSet<&str> =
        services.flat_map(|service| &service.method).map(|method| method.name()).collect();
    assert_eq!(operations, methods);
    let text = document.to_string();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
    }
}
