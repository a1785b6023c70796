//! Event rows out of Parquet files, whichever of Arrow's string and integer types a writer chose.
use super::events::EventRow;
use crate::train::error::TrainError;
use arrow_array::{
    Array, Int32Array, Int64Array, LargeStringArray, RecordBatch, StringArray, StringViewArray, UInt32Array,
    UInt64Array,
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::{fs::File, path::Path};

/// Rows in memory at a time.
const ROWS_PER_BATCH: usize = 8192;

/// Hands over every row with its number, from 1.
pub(super) fn for_each_row(path: &Path, mut each: impl FnMut(usize, EventRow)) -> Result<(), TrainError> {
    let file = File::open(path).map_err(TrainError::disk(path, "open"))?;
    let batches = ParquetRecordBatchReaderBuilder::try_new(file)
        .and_then(|builder| builder.with_batch_size(ROWS_PER_BATCH).build())
        .map_err(|error| TrainError::file(path, error))?;
    let mut line = 0;
    for batch in batches {
        let batch = batch.map_err(|error| TrainError::file(path, error))?;
        let text_of = |name: &str| Column::of(path, &batch, name, is_text, "text");
        let number_of = |name: &str| Column::of(path, &batch, name, is_number, "whole numbers");
        let (user, stream, article) = (text_of("user_key")?, text_of("stream")?, text_of("article_id")?);
        let (text, category, source) = (text_of("text")?, text_of("category")?, text_of("source")?);
        let (time, dwell) = (number_of("time_unix_s")?, number_of("dwell_ms")?);
        for idx in 0..batch.num_rows() {
            line += 1;
            each(
                line,
                EventRow {
                    user_key: user.text(idx),
                    stream: stream.text(idx),
                    time_unix_s: time.number(idx),
                    time: None,
                    text: text.text(idx),
                    category: category.text(idx),
                    source: source.text(idx),
                    dwell_ms: dwell.number(idx),
                    article_id: article.text(idx),
                },
            );
        }
    }
    Ok(())
}

/// A column, if the file has it.
struct Column<'a>(Option<&'a dyn Array>);

fn is_text(array: &dyn Array) -> bool {
    let any = array.as_any();
    any.is::<StringArray>() || any.is::<LargeStringArray>() || any.is::<StringViewArray>()
}

fn is_number(array: &dyn Array) -> bool {
    let any = array.as_any();
    any.is::<Int64Array>() || any.is::<Int32Array>() || any.is::<UInt32Array>() || any.is::<UInt64Array>()
}

impl<'a> Column<'a> {
    /// # Errors
    /// If the column holds anything else than `wanted`; one of nulls alone holds nothing.
    fn of(
        path: &Path,
        batch: &'a RecordBatch,
        name: &str,
        is_wanted: fn(&dyn Array) -> bool,
        wanted: &str,
    ) -> Result<Self, TrainError> {
        let Some(array) = batch.column_by_name(name) else { return Ok(Self(None)) };
        if is_wanted(array.as_ref()) {
            Ok(Self(Some(array.as_ref())))
        } else if array.logical_null_count() == array.len() {
            Ok(Self(None))
        } else {
            let reason = format!("column {name} has type {}, {wanted} are read", array.data_type());
            Err(TrainError::file(path, reason))
        }
    }

    fn text(&self, idx: usize) -> Option<String> {
        let array = self.0.filter(|array| !array.is_null(idx))?;
        let any = array.as_any();
        let text = any.downcast_ref::<StringArray>().map(|array| array.value(idx));
        let text = text.or_else(|| any.downcast_ref::<LargeStringArray>().map(|array| array.value(idx)));
        let text = text.or_else(|| any.downcast_ref::<StringViewArray>().map(|array| array.value(idx)));
        text.map(str::to_owned)
    }

    fn number(&self, idx: usize) -> Option<i64> {
        let array = self.0.filter(|array| !array.is_null(idx))?;
        let any = array.as_any();
        let number = any.downcast_ref::<Int64Array>().map(|array| array.value(idx));
        let number = number.or_else(|| any.downcast_ref::<Int32Array>().map(|array| array.value(idx).into()));
        let number =
            number.or_else(|| any.downcast_ref::<UInt32Array>().map(|array| array.value(idx).into()));
        number
            .or_else(|| any.downcast_ref::<UInt64Array>().and_then(|array| array.value(idx).try_into().ok()))
    }
}
