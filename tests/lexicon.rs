//! What signals ask for, in the words of the news, and how it is carried.
use crate::support::{goldens, lexicon::lexicon};
use candle_core::{DType, Device};
use newshound::{
    bundle::load,
    decode::batch::{Finish, FinishedRow, GroupId, QueryEnd},
    lexicon::{
        Lexicon, NewsWord,
        affinity::affinity,
        file, fingerprint,
        interests::Interests,
        meets::meets,
        translation::{Features, Translation},
        unit::{Unit, WIDTH},
    },
    model::{
        reward_head::{LIST_AFFINITY, QUERY_AFFINITY, RewardHead},
        weights::Parameters,
    },
    signals::{SignalDraft, Stream, UserSignals},
    text::tokens::Tokens,
};
use safetensors::SafeTensors;
use std::{collections::HashMap, sync::Arc};

const NEWS: [&str; 3] = ["solar", "storm", "council"];

fn small() -> Lexicon {
    lexicon(&NEWS, &[("night sky", &[(0, 3.0), (1, 1.0)]), ("town hall", &[(2, 2.0)])])
}

fn along(unit: Option<Unit>) -> Vec<f32> {
    unit.unwrap().0[..NEWS.len()].to_vec()
}

#[test]
fn news_means_its_words_and_signals_what_their_readers_clicked() {
    let lexicon = small();
    let half = 0.5_f32.sqrt();
    assert_eq!(along(lexicon.text("Solar STORM, again")), [half, half, 0.0]);
    assert_eq!(lexicon.text("nothing of that"), None);
    let typed = along(lexicon.typed("the Night sky"));
    assert!((typed[0] / typed[1] - 3.0).abs() < 1e-5 && typed[2] == 0.0, "{typed:?}");
    assert_eq!(lexicon.typed("sky night"), None, "words stand side by side in their order");
    assert_eq!(lexicon.typed("solar"), None, "who types a word of the news need not mean the news");
}

fn file_of(lexicon: &Lexicon) -> Vec<u8> {
    let other = Parameters::fresh(1, &Device::Cpu).to_safetensors(DType::F32).unwrap();
    file::add(lexicon, &other).unwrap()
}

#[test]
fn a_lexicon_is_read_as_it_was_written_beside_what_stood_there() {
    let other = Parameters::fresh(1, &Device::Cpu).to_safetensors(DType::F32).unwrap();
    assert!(file::read(&other).unwrap().is_none());
    let read = file::read(&file_of(&small())).unwrap().unwrap();
    assert_eq!(along(read.text("storm council")), along(small().text("storm council")));
    assert_eq!(along(read.typed("night sky")), along(small().typed("night sky")));
    // Of what is translated into many words, the heaviest.
    let names: Vec<String> = (0..20).map(|id| format!("word{id}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let weights: Vec<(u32, f32)> = (0..20).map(|id| (id, (id + 1) as f32)).collect();
    let many = file_of(&lexicon(&names, &[("a b", &weights)]));
    let tensors = SafeTensors::deserialize(&many).unwrap();
    assert_eq!(tensors.tensor("lexicon.typed_news").unwrap().shape(), [16]);
    let read = file::read(&many).unwrap().unwrap();
    assert_eq!(read.typed("a b"), lexicon(&names, &[("a b", &weights)]).typed("a b"));
}

#[test]
fn a_broken_lexicon_is_refused_in_a_sentence() {
    let beyond = file_of(&lexicon(&NEWS, &[("a b", &[(3, 1.0)])]));
    assert!(file::read(&beyond).unwrap_err().contains("beyond the 3"));
    let endless = file_of(&lexicon(&NEWS, &[("a b", &[(0, f32::INFINITY)])]));
    assert!(file::read(&endless).unwrap_err().contains("typed_weight is not finite"));
    assert!(file::read(b"no tensors").is_err());
    // Written twice it is there once.
    let again = file::add(&small(), &file_of(&small())).unwrap();
    assert_eq!(again, file_of(&small()));
}

#[test]
fn a_head_that_was_fitted_to_other_numbers_of_its_lexicon_is_refused_with_what_to_do() {
    let head = |reads_affinity| {
        let mut parameters = Parameters::fresh(1, &Device::Cpu);
        RewardHead::load(&mut parameters, 4, reads_affinity).unwrap();
        file::add(&small(), &parameters.to_safetensors(DType::F32).unwrap()).unwrap()
    };
    assert!(load::head(head(true).into(), 4).is_ok());
    let error = load::head(head(false).into(), 4).unwrap_err().to_string();
    assert!(error.contains("fit it anew") && error.contains("query.input_mean"), "{error}");
}

#[test]
fn rows_meet_what_their_readers_signals_ask_for() {
    let path = goldens::root().join("models/qwen2-tied/tokenizer.json");
    let tokens = Tokens::from_bytes(&std::fs::read(path).unwrap()).unwrap();
    let draft = |text: &str, stream, time_unix_s| SignalDraft {
        stream,
        text: text.to_owned(),
        time_unix_s,
        category: None,
        source: None,
        dwell_ms: None,
        weight: None,
    };
    let drafts = vec![draft("night sky", Stream::Search, 1), draft("council", Stream::Click, 2)];
    let meets = meets(&Arc::new(small()), UserSignals::new(drafts).unwrap().as_slice(), &tokens);
    let row = |queries: &[&str]| {
        let (mut ids, mut query_ends) = (Vec::new(), Vec::new());
        for query in queries {
            let start = ids.len();
            ids.extend(tokens.encode_text(query));
            query_ends.push(QueryEnd { start, n_ids: ids.len(), hidden: vec![0.0] });
        }
        let logprobs = vec![0.0; ids.len()];
        FinishedRow { group: GroupId(1), row_idx: 0, ids, logprobs, finish: Finish::Stop, query_ends }
    };
    let of = |queries: &[&str]| meets(&row(queries));
    // A search counts four times what a click does.
    let both = of(&["solar", "council"]);
    assert!((both.queries[0][0] - 0.8).abs() < 0.02 && (both.queries[1][0] - 0.2).abs() < 0.02, "{both:?}");
    assert!(both.list[0] > 0.97, "{both:?}");
    let strays = of(&["solar", "nothing of that"]);
    assert!(strays.queries[1] == [0.0; QUERY_AFFINITY] && (0.6..0.7).contains(&strays.list[0]), "{strays:?}");
    assert_eq!(of(&[]).list, [0.0; LIST_AFFINITY]);
}

fn near<const N: usize>(numbers: [f32; N], expected: [f32; N]) {
    assert!(
        numbers.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 0.01),
        "{numbers:?}, not {expected:?}"
    );
}

#[test]
fn a_head_is_told_where_a_query_its_words_and_the_list_stand() {
    let mut vectors = vec![0.0; NEWS.len() * WIDTH];
    (0..NEWS.len()).for_each(|id| vectors[id * WIDTH + id] = 1.0);
    let news = NEWS.iter().zip([1.0, 1.0, 3.0]);
    let news = news.map(|(word, rarity)| NewsWord { fingerprint: fingerprint(word), rarity }).collect();
    let nothing = Translation::new(Features::Neighbours, HashMap::new());
    let lexicon = Lexicon::new(news, vectors, Arc::new(nothing));
    let about = |word: &str, weight| (lexicon.text(word).unwrap(), weight);
    let reader = Interests { clusters: vec![about("solar", 0.8), about("council", 0.2)] };
    let of = |queries: &[&str], reader| affinity(queries.iter(), &lexicon, reader);
    let both = of(&["solar council", "storm zzz"], &reader);
    // The whole stands near to the rarer word, and by itself each word serves its interest.
    near(both.queries[0], [0.22, 0.196, 0.949, 0.2, 1.0, 0.0, 0.795, 0.497, 2.0, 1.0]);
    // As far from either: the heavier interest is the nearest. What the news does not have is not rare.
    near(both.queries[1], [0.0, 0.0, 0.0, 0.8, 0.0, 0.0, 0.0, 0.0, 0.5, 0.0]);
    near(both.list, [0.048, 0.196, 0.6, 0.474, 0.5, 0.0, 1.25]);
    let nobody = Interests::default();
    near(of(&["solar council"], &nobody).queries[0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0, 1.0]);
    for unknown in ["zzz", "", "?!"] {
        let read = of(&[unknown], &reader);
        assert_eq!((read.queries[0], read.list), ([0.0; QUERY_AFFINITY], [0.0; LIST_AFFINITY]), "{unknown}");
    }
    assert!(of(&[], &reader).queries.is_empty());
}
