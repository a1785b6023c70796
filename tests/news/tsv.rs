//! Catalogues as tab-separated values.
use super::article;
use newshound::news::catalogue::{self, CatalogueError, parse_tsv};

const HEAD: &str = "id\tstory_id\ttitle\tsummary\tcategory\tlanguage\tpublished_unix_s\texpires_unix_s";

#[test]
fn texts_survive_whatever_they_hold() {
    let dir = tempfile::tempdir().unwrap();
    let mut odd = article("odd", "tab\tline\nreturn\rboth\r\nback\\slash \\t \"quote\"", "ñ 漢字 ");
    odd.story_id = String::new();
    odd.published_unix_s = i64::MIN;
    odd.expires_unix_s = i64::MAX;
    let articles = vec![odd, article("b", "", "")];
    for name in ["articles.tsv", "articles.jsonl", "articles.parquet"] {
        let path = dir.path().join(name);
        catalogue::write(&path, &articles).unwrap();
        assert_eq!(catalogue::read(&path).unwrap(), articles, "{name}");
        catalogue::write(&path, &[]).unwrap();
        assert_eq!(catalogue::read(&path).unwrap(), [], "{name}");
    }
    let error = catalogue::write(&dir.path().join("articles.csv"), &articles).unwrap_err();
    assert!(error.to_string().contains("articles.csv"), "{error}");
}

#[test]
fn columns_stand_in_any_order_and_lines_end_in_either_way() {
    let file = "\u{feff}expires_unix_s\tid\ttitle\tpublished_unix_s\tlanguage\tcategory\tsummary\tstory_id\r\n\r\n\
                200\ta\tcomet\t100\ten\tspace\tdust\tstory-of-a\r\n";
    assert_eq!(parse_tsv(file.as_bytes(), "my.tsv").unwrap(), [article("a", "comet", "dust")]);
}

#[test]
fn a_head_that_does_not_name_each_column_once_is_refused() {
    let cases = [
        (String::new(), "no line names the columns"),
        ("\n\n".to_owned(), "no line names the columns"),
        (format!("{HEAD}\tauthor\n"), "column \"author\" is unknown"),
        (HEAD.replace("\tlanguage", ""), "column language is missing"),
        (format!("{HEAD}\ttitle\n"), "column title is there twice"),
    ];
    for (file, expected) in cases {
        let error = parse_tsv(file.as_bytes(), "my.tsv").unwrap_err();
        assert!(matches!(error, CatalogueError::File { .. }), "{error:?}");
        assert!(error.to_string().starts_with("my.tsv: "), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn broken_lines_are_named_by_number() {
    let good = "a\ts\tt\t\tc\ten\t1\t2";
    let cases: [(&[u8], &str); 9] = [
        (b"b\ts\tt\t\tc\ten\t1", "7 cells, expected 8"),
        (b"b\ts\tt\t\tc\ten\t1\t2\t3", "9 cells, expected 8"),
        (b"b\ts\t\\x\t\tc\ten\t1\t2", "title: \\x is no escape"),
        (b"b\ts\tt\t\\\tc\ten\t1\t2", "summary: a backslash stands at the end"),
        (b"b\ts\tt\t\tc\ten\tsoon\t2", "published_unix_s: \"soon\" is not a whole number"),
        (b"b\ts\tt\t\tc\ten\t2\t2", "expires"),
        (b"\ts\tt\t\tc\ten\t1\t2", "id is empty"),
        (b"a\ts\tt\t\tc\ten\t1\t2", "already taken"),
        (b"\xff", "not UTF-8"),
    ];
    for (broken, expected) in cases {
        let file = [HEAD.as_bytes(), b"\n", good.as_bytes(), b"\n\n", broken, b"\n"].concat();
        let error = parse_tsv(&file, "my.tsv").unwrap_err();
        assert!(matches!(error, CatalogueError::Line { line: 4, .. }), "{error:?}");
        let shown = error.to_string();
        assert!(shown.starts_with("my.tsv: line 4: ") && shown.contains(expected), "{shown}");
    }
}
