//! The Parquet form of a catalogue.
use super::article::Article;
use super::catalogue::{CatalogueError, file_error};
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

const ROWS_PER_BATCH: usize = 8192;

pub(super) fn write(path: &Path, articles: &[Article]) -> Result<(), CatalogueError> {
    let file = File::create(path).map_err(|error| file_error(path, &error))?;
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let first = batch(path, &[])?;
    let mut writer = ArrowWriter::try_new(file, first.schema(), Some(properties))
        .map_err(|error| file_error(path, &error))?;
    for chunk in articles.chunks(ROWS_PER_BATCH) {
        writer.write(&batch(path, chunk)?).map_err(|error| file_error(path, &error))?;
    }
    writer.close().map(drop).map_err(|error| file_error(path, &error))
}

pub(super) fn read(path: &Path) -> Result<Vec<Article>, CatalogueError> {
    let file = File::open(path).map_err(|error| file_error(path, &error))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .and_then(|builder| builder.with_batch_size(ROWS_PER_BATCH).build())
        .map_err(|error| file_error(path, &error))?;
    let mut articles = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|error| file_error(path, &error))?;
        read_batch(path, &batch, &mut articles)?;
    }
    Ok(articles)
}

fn batch(path: &Path, articles: &[Article]) -> Result<RecordBatch, CatalogueError> {
    let text = |field: fn(&Article) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(articles.iter().map(field)))
    };
    let time = |field: fn(&Article) -> i64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(articles.iter().map(field)))
    };
    RecordBatch::try_from_iter_with_nullable([
        ("id", text(|article| &article.id), false),
        ("story_id", text(|article| &article.story_id), false),
        ("title", text(|article| &article.title), false),
        ("summary", text(|article| &article.summary), false),
        ("category", text(|article| &article.category), false),
        ("language", text(|article| &article.language), false),
        ("published_unix_s", time(|article| article.published_unix_s), false),
        ("expires_unix_s", time(|article| article.expires_unix_s), false),
    ])
    .map_err(|error| file_error(path, &error))
}

fn read_batch(path: &Path, batch: &RecordBatch, articles: &mut Vec<Article>) -> Result<(), CatalogueError> {
    let id = column::<StringArray>(path, batch, "id")?;
    let story_id = column::<StringArray>(path, batch, "story_id")?;
    let title = column::<StringArray>(path, batch, "title")?;
    let summary = column::<StringArray>(path, batch, "summary")?;
    let category = column::<StringArray>(path, batch, "category")?;
    let language = column::<StringArray>(path, batch, "language")?;
    let published = column::<Int64Array>(path, batch, "published_unix_s")?;
    let expires = column::<Int64Array>(path, batch, "expires_unix_s")?;
    for row_idx in 0..batch.num_rows() {
        articles.push(Article {
            id: id.value(row_idx).to_owned(),
            story_id: story_id.value(row_idx).to_owned(),
            title: title.value(row_idx).to_owned(),
            summary: summary.value(row_idx).to_owned(),
            category: category.value(row_idx).to_owned(),
            language: language.value(row_idx).to_owned(),
            published_unix_s: published.value(row_idx),
            expires_unix_s: expires.value(row_idx),
        });
    }
    Ok(())
}

fn column<'batch, A: Array + 'static>(
    path: &Path,
    batch: &'batch RecordBatch,
    name: &str,
) -> Result<&'batch A, CatalogueError> {
    let wrong = |reason: &str| CatalogueError::File {
        file: path.display().to_string(),
        reason: format!("column {name} {reason}"),
    };
    let array = batch.column_by_name(name).ok_or_else(|| wrong("is missing"))?;
    let array = array.as_any().downcast_ref::<A>().ok_or_else(|| wrong("has another type than expected"))?;
    if array.null_count() > 0 {
        return Err(wrong("has nulls"));
    }
    Ok(array)
}
