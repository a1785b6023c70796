//! The tab-separated form of a catalogue.
use super::{article::Article, catalogue::CatalogueError};
use std::io::{self, Write};

/// The columns, in the order in which they are written.
const COLUMNS: [&str; 8] =
    ["id", "story_id", "title", "summary", "category", "language", "published_unix_s", "expires_unix_s"];

pub(super) fn write(writer: &mut impl Write, articles: &[Article]) -> io::Result<()> {
    writeln!(writer, "{}", COLUMNS.join("\t"))?;
    for article in articles {
        let texts = [
            &article.id,
            &article.story_id,
            &article.title,
            &article.summary,
            &article.category,
            &article.language,
        ];
        for text in texts {
            write!(writer, "{}\t", escaped(text))?;
        }
        writeln!(writer, "{}\t{}", article.published_unix_s, article.expires_unix_s)?;
    }
    Ok(())
}

/// Articles with their lines, counted from 1.
pub(super) fn parse(bytes: &[u8], file: &str) -> Result<Vec<(usize, Article)>, CatalogueError> {
    let mut places = None;
    let mut articles = Vec::new();
    for (line, bytes) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
        // Files that Windows wrote end their lines in both; a carriage return in a text is escaped.
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        if bytes.is_empty() {
            continue;
        }
        let at_line = |reason| CatalogueError::Line { file: file.to_owned(), line, reason };
        let text = std::str::from_utf8(bytes).map_err(|_| at_line("not UTF-8".to_owned()))?;
        let cells: Vec<&str> = text.split('\t').collect();
        match &places {
            None => places = Some(places_of(&cells).map_err(|reason| file_error(file, reason))?),
            Some(places) => articles.push((line, article(&cells, places).map_err(at_line)?)),
        }
    }
    if places.is_none() {
        return Err(file_error(file, "no line names the columns".to_owned()));
    }
    Ok(articles)
}

/// Where in a line each of [`COLUMNS`] stands.
fn places_of(names: &[&str]) -> Result<[usize; COLUMNS.len()], String> {
    // Spreadsheets begin files with a byte order mark.
    let names: Vec<&str> = names.iter().map(|name| name.trim_start_matches('\u{feff}')).collect();
    if let Some(unknown) = names.iter().find(|name| !COLUMNS.contains(name)) {
        return Err(format!("column {unknown:?} is unknown; the columns are {}", COLUMNS.join(", ")));
    }
    let mut places = [0; COLUMNS.len()];
    for (place, column) in places.iter_mut().zip(COLUMNS) {
        let mut found = (0..names.len()).filter(|&idx| names[idx] == column);
        *place = found.next().ok_or_else(|| format!("column {column} is missing"))?;
        if found.next().is_some() {
            return Err(format!("column {column} is there twice"));
        }
    }
    Ok(places)
}

fn article(cells: &[&str], places: &[usize; COLUMNS.len()]) -> Result<Article, String> {
    // Every column is there once, so a line has as many cells as there are columns.
    if cells.len() != COLUMNS.len() {
        return Err(format!("{} cells, expected {}", cells.len(), COLUMNS.len()));
    }
    let text = |column: usize| {
        unescaped(cells[places[column]]).map_err(|reason| format!("{}: {reason}", COLUMNS[column]))
    };
    let time = |column: usize| {
        let cell = cells[places[column]];
        cell.parse().map_err(|_| format!("{}: {cell:?} is not a whole number of seconds", COLUMNS[column]))
    };
    Ok(Article {
        id: text(0)?,
        story_id: text(1)?,
        title: text(2)?,
        summary: text(3)?,
        category: text(4)?,
        language: text(5)?,
        published_unix_s: time(6)?,
        expires_unix_s: time(7)?,
    })
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' => escaped.push_str("\\\\"),
            '\t' => escaped.push_str("\\t"),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            other => escaped.push(other),
        }
    }
    escaped
}

fn unescaped(cell: &str) -> Result<String, String> {
    let mut text = String::with_capacity(cell.len());
    let mut characters = cell.chars();
    while let Some(character) = characters.next() {
        text.push(match character {
            '\\' => match characters.next() {
                Some('\\') => '\\',
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some(other) => return Err(format!("\\{other} is no escape; a backslash is written \\\\")),
                None => return Err("a backslash stands at the end; it is written \\\\".to_owned()),
            },
            other => other,
        });
    }
    Ok(text)
}

fn file_error(file: &str, reason: String) -> CatalogueError {
    CatalogueError::File { file: file.to_owned(), reason }
}
