//! Goldens: tokenizer. Ids, decoded text and chat text of every model folder with a `tokenizer_expected.json`.
use crate::support::goldens;
use newshound::text::{
    chat::{ChatTemplate, Ending, Message},
    vocabulary::{Controls, Vocabulary},
};
use serde_json::Value;
use std::path::Path;

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn check_encode(vocabulary: &Vocabulary, case: &Value) {
    let given = text(&case["text"]);
    let ids = vocabulary.encode_trusted(given);
    assert_eq!(ids, goldens::u32s(&case["ids_no_special"]), "{given:?}");
    assert_eq!(vocabulary.encode_framed(given), goldens::u32s(&case["ids_default"]), "{given:?}");
    let default = goldens::u32s(&case["ids_default"]);
    assert_eq!(vocabulary.decode(&default, Controls::Keep), text(&case["decode_keep_special"]), "{given:?}");
    assert_eq!(vocabulary.decode(&default, Controls::Skip), text(&case["decode_skip_special"]), "{given:?}");
    let holds_control = ids.iter().any(|id| vocabulary.added_ids().contains(id));
    assert_eq!(
        vocabulary.encode_text(given) == ids,
        !holds_control,
        "{given:?}: user text differs by control tokens only"
    );
}

fn check_decode(vocabulary: &Vocabulary, case: &Value) {
    let ids = goldens::u32s(&case["ids"]);
    assert_eq!(vocabulary.decode(&ids, Controls::Keep), text(&case["keep_special"]), "{ids:?}");
    assert_eq!(vocabulary.decode(&ids, Controls::Skip), text(&case["skip_special"]), "{ids:?}");
}

fn check_chat(folder: &Path, vocabulary: &Vocabulary, case: &Value) {
    let config = std::fs::read(folder.join("tokenizer_config.json")).unwrap();
    let messages: Vec<Message> = case["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| Message {
            role: text(&message["role"]).to_owned(),
            content: text(&message["content"]).to_owned(),
        })
        .collect();
    let opens = case["kwargs"]["add_generation_prompt"].as_bool().unwrap_or(false);
    let ending = if opens { Ending::AssistantTurn } else { Ending::LastMessage };
    let rendered = ChatTemplate::from_tokenizer_config(&config).unwrap().render(&messages, ending).unwrap();
    assert_eq!(rendered, text(&case["text"]));
    assert_eq!(vocabulary.encode_trusted(&rendered), goldens::u32s(&case["ids"]), "{rendered:?}");
}

#[test]
fn golden_tokenizers_encode_decode_and_render_as_the_reference() {
    let mut n_folders = 0;
    for folder in goldens::entries(&goldens::root().join("models")) {
        let path = folder.join("tokenizer_expected.json");
        if !path.is_file() {
            continue;
        }
        let expected = goldens::json(&path);
        let vocabulary =
            Vocabulary::from_bytes(&std::fs::read(folder.join("tokenizer.json")).unwrap()).unwrap();
        assert_eq!(Some(vocabulary.n_ids() as u64), expected["len"].as_u64());
        let cases = |kind: &str| expected[kind].as_array().cloned().unwrap_or_default();
        assert!(!cases("encode").is_empty(), "{}: no case", path.display());
        cases("encode").iter().for_each(|case| check_encode(&vocabulary, case));
        cases("decode").iter().for_each(|case| check_decode(&vocabulary, case));
        cases("chat").iter().for_each(|case| check_chat(&folder, &vocabulary, case));
        n_folders += 1;
    }
    assert!(n_folders > 0, "no tokenizer case in {}", goldens::root().display());
}
