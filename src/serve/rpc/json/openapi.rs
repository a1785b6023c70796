//! The description of the JSON door in OpenAPI 3.1, written from the descriptors of the protos and their comments, so that neither can say
//! what the other does not. A copy for those who make clients stands in deploy/openapi.json.
use super::{EXPOSED, Exposed, JSON, JSON_LINES, TIMEOUT_HEADER, TIMEOUT_S_MAX, Verb, messages};
use crate::serve::rpc::{
    decode::{ARM_HEADER, TENANT_HEADER},
    labels::{GENERATION_HEADER, REQUEST_ID_HEADER},
};
use prost_reflect::{
    EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor,
    prost_types::FileDescriptorProto,
};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, sync::LazyLock};

/// The document.
pub(super) static DOCUMENT: LazyLock<String> = LazyLock::new(|| format!("{:#}\n", document()));

const ABOUT: &str = "Turns one reader's signals into a short list of news search queries. The same methods, messages, limits and errors \
as over gRPC, in proto3's JSON mapping. Answers have every field that is not optional, also where it is zero; unknown fields of requests \
are refused. The comments of the protos are the descriptions here: they name fields as protos do (`event_time` is `eventTime`), and enum \
values without the name of their enum (`SEARCH` is `STREAM_SEARCH`).";

const ERRORS: &str = "Why there is no answer: google.rpc.Status, with google.rpc.ErrorInfo, BadRequest or RetryInfo as details. Where \
RetryInfo is, the header Retry-After says the same in whole seconds.";

fn document() -> Value {
    let mut schemas = Schemas::default();
    let error = schemas.message(&messages::error());
    let mut paths = Map::new();
    for exposed in EXPOSED {
        let verb = match exposed.verb {
            Verb::Get => "get",
            Verb::Post => "post",
        };
        paths.insert(exposed.path.to_owned(), json!({verb: operation(exposed, &error, &mut schemas)}));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": env!("CARGO_PKG_NAME"),
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": {"name": env!("CARGO_PKG_LICENSE"), "identifier": env!("CARGO_PKG_LICENSE")},
        },
        // Without a host: the server that gave the document.
        "servers": [{"url": "/"}],
        // None, or a token where the server wants one.
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas.found,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    })
}

fn operation(exposed: Exposed, error: &Value, schemas: &mut Schemas) -> Value {
    let method = messages::method(exposed);
    let about = comment(method.parent_service().parent_file_descriptor_proto(), method.path());
    let (input, output) = (schemas.message(&method.input()), schemas.message(&method.output()));
    let mut answer = if method.is_server_streaming() {
        let failed = json!({"type": "object", "properties": {"error": error}, "required": ["error"]});
        let line = json!({"anyOf": [output, failed]});
        let about = "A JSON text a line, as it comes; where the call fails after its first event, the last one has `error`.";
        json!({"description": about, "content": {JSON_LINES: {"schema": line}}})
    } else {
        json!({"description": "The answer.", "content": {JSON: {"schema": output}}})
    };
    answer["headers"] = headers(&method);
    let mut operation = json!({
        "operationId": exposed.method,
        "description": about,
        "parameters": parameters(),
        "responses": {
            "200": answer,
            "default": {"description": ERRORS, "content": {JSON: {"schema": error}}},
        },
    });
    if exposed.verb == Verb::Post {
        operation["requestBody"] = json!({"required": true, "content": {JSON: {"schema": input}}});
    }
    operation
}

/// Headers of a method's answers.
fn headers(method: &MethodDescriptor) -> Value {
    let header = |about: &str, kind: &str| json!({"description": about, "schema": {"type": kind}});
    let mut headers = json!({REQUEST_ID_HEADER: header("The request's.", "string")});
    if method.input().full_name() == "newshound.v1.GenerateQueriesRequest" {
        headers[ARM_HEADER] = header(
            "Arms of the reader, as in experiment=arm,experiment=arm; absent where she has none.",
            "string",
        );
        headers[GENERATION_HEADER] =
            header("ModelRef.generation; of a stream that of accepted.model.", "integer");
    }
    headers
}

/// Headers that every method takes.
fn parameters() -> Value {
    let header = |name: &str, about: &str, schema: Value| json!({"name": name, "in": "header", "description": about, "schema": schema});
    json!([
        header(
            TIMEOUT_HEADER,
            "How long the caller waits, in seconds; what cannot be ready by then is refused, and nobody works for it.",
            json!({"type": "number", "exclusiveMinimum": 0, "maximum": TIMEOUT_S_MAX}),
        ),
        header(
            TENANT_HEADER,
            "Whose reader it is, told by the proxy that authenticates, where the server wants no tokens.",
            json!({"type": "string"}),
        ),
        header(
            ARM_HEADER,
            "Arms that the request chooses, as in experiment=arm,experiment=arm.",
            json!({"type": "string"}),
        ),
        header(
            REQUEST_ID_HEADER,
            "Comes back with the answer or the refusal, if it has at most 128 bytes.",
            json!({"type": "string"}),
        ),
    ])
}

/// Schemas of messages and enums by name, each with all that it refers to.
#[derive(Default)]
struct Schemas {
    found: BTreeMap<String, Value>,
}

impl Schemas {
    /// A reference to a message, which is described if it was not yet.
    fn message(&mut self, message: &MessageDescriptor) -> Value {
        let name = name(message.full_name());
        if !self.found.contains_key(&name) {
            // A place is taken first: a message may refer to itself.
            self.found.insert(name.clone(), Value::Null);
            let schema = self.object(message);
            self.found.insert(name.clone(), schema);
        }
        reference(&name)
    }

    fn object(&mut self, message: &MessageDescriptor) -> Value {
        let properties: Map<String, Value> =
            message.fields().map(|field| (field.json_name().to_owned(), self.field(&field))).collect();
        let mut schema = json!({"type": "object", "properties": properties});
        if let Some(about) = comment(message.parent_file_descriptor_proto(), message.path()) {
            schema["description"] = about.into();
        }
        // Of a proto3 `optional`, the oneof is made up by the compiler.
        for oneof in message.oneofs().filter(|oneof| !oneof.is_synthetic()) {
            schema["oneOf"] = oneof.fields().map(|field| json!({"required": [field.json_name()]})).collect();
        }
        schema
    }

    fn field(&mut self, field: &FieldDescriptor) -> Value {
        let one = self.kind(&field.kind());
        let mut schema = if field.is_list() { json!({"type": "array", "items": one}) } else { one };
        let message = field.parent_message();
        if let Some(about) = comment(message.parent_file_descriptor_proto(), field.path()) {
            schema["description"] = about.into();
        }
        schema
    }

    fn kind(&mut self, kind: &Kind) -> Value {
        match kind {
            Kind::Bool => json!({"type": "boolean"}),
            Kind::Float | Kind::Double => json!({"type": "number"}),
            Kind::Uint32 | Kind::Fixed32 => json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!({"type": "integer", "format": "int32"}),
            Kind::Uint64 | Kind::Fixed64 => json!({"type": "string", "pattern": "^[0-9]+$"}),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => json!({"type": "string", "pattern": "^-?[0-9]+$"}),
            Kind::String => json!({"type": "string"}),
            Kind::Bytes => json!({"type": "string", "contentEncoding": "base64"}),
            Kind::Enum(words) => self.words(words),
            Kind::Message(message) => match message.full_name() {
                "google.protobuf.Timestamp" => json!({"type": "string", "format": "date-time"}),
                "google.protobuf.Duration" => {
                    json!({"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"})
                }
                "google.protobuf.Any" => {
                    json!({"type": "object", "properties": {"@type": {"type": "string"}}, "required": ["@type"]})
                }
                _ => self.message(message),
            },
        }
    }

    /// A reference to an enum.
    fn words(&mut self, words: &EnumDescriptor) -> Value {
        let name = name(words.full_name());
        if !self.found.contains_key(&name) {
            let file = words.parent_file_descriptor_proto();
            let mut about = comment(file, words.path()).unwrap_or_default();
            for word in words.values() {
                if let Some(of_word) = comment(file, word.path()) {
                    about = format!("{about}\n- {}: {of_word}", word.name());
                }
            }
            let values: Vec<String> = words.values().map(|word| word.name().to_owned()).collect();
            self.found
                .insert(name.clone(), json!({"type": "string", "enum": values, "description": about.trim()}));
        }
        reference(&name)
    }
}

/// The name of a schema: ours without their package.
fn name(full_name: &str) -> String {
    full_name.strip_prefix("newshound.v1.").unwrap_or(full_name).to_owned()
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// What a proto says before a declaration; none where it says nothing.
fn comment(file: &FileDescriptorProto, path: &[i32]) -> Option<String> {
    let places = &file.source_code_info.as_ref()?.location;
    let comment = places.iter().find(|place| place.path == path)?.leading_comments();
    let lines: Vec<&str> = comment.lines().map(str::trim).collect();
    Some(lines.join("\n").trim().to_owned()).filter(|text| !text.is_empty())
}
