//! Scalars as a TensorBoard event file: each step's figures under `train/`, a watch's under `eval/`, as trl's reports name them.
//!
//! A file is a row of records: length (u64) and its checksum, an `Event` message, and its checksum; checksums are CRC-32C, rotated
//! and shifted. Of the messages only a few fields are written, so they are encoded here.
//! Source: `record_writer.cc`, `event.proto` and `summary.proto` of TensorFlow.
use super::error::TrainError;
use serde::Serialize;
use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// What readers look for in the first event of a file.
const FILE_VERSION: &str = "brain.Event:2";
/// `SessionLog.status`: from this event's step on, events of earlier files no longer count.
const SESSION_START: u64 = 1;

/// One file per start of a run that takes a step; TensorBoard reads those of a folder as one.
#[derive(Debug)]
pub(super) struct EventFile {
    folder: PathBuf,
    first_step: u64,
    /// Begun with the first figure.
    file: Option<File>,
}

impl EventFile {
    /// Will write a file in a folder, which has to be there. What earlier files of the folder say of steps from `first_step` on will
    /// be said again, so readers drop it.
    pub(super) fn new(folder: &Path, first_step: u64) -> Self {
        Self { folder: folder.to_owned(), first_step, file: None }
    }

    /// Adds the numbers of a line, each as `prefix` and its name.
    /// # Errors
    /// If the disk refuses, or the line is no JSON object.
    pub(super) fn add(&mut self, prefix: &str, step: u64, line: &impl Serialize) -> Result<(), TrainError> {
        let line = serde_json::to_value(line).map_err(|error| TrainError::file(&self.folder, error))?;
        let figures = line.as_object().into_iter().flatten();
        let summary: Vec<u8> = figures
            .filter(|(name, _)| *name != "step")
            .filter_map(|(name, figure)| Some((name, figure.as_f64()?)))
            .flat_map(|(name, figure)| bytes_field(1, &scalar(&format!("{prefix}/{name}"), figure)))
            .collect();
        let mut records = match &self.file {
            Some(_) => Vec::new(),
            None => [
                event(0, &bytes_field(3, FILE_VERSION.as_bytes())),
                event(self.first_step, &bytes_field(7, &varint_field(1, SESSION_START))),
            ]
            .concat(),
        };
        records.extend(event(step, &bytes_field(5, &summary)));
        // Written at once: what is cut short by a crash is the last record, which readers wait for.
        let folder = self.folder.clone();
        self.opened()?.write_all(&records).map_err(TrainError::disk(&folder, "write an event file in"))
    }

    fn opened(&mut self) -> Result<&mut File, TrainError> {
        let file = match self.file.take() {
            Some(file) => file,
            None => {
                let now = now();
                // Files are read in the order of their names.
                let name =
                    format!("events.out.tfevents.{:010}.{:09}.newshound", now.as_secs(), now.subsec_nanos());
                let path = self.folder.join(name);
                let file = OpenOptions::new().append(true).create(true).open(&path);
                file.map_err(TrainError::disk(&path, "write"))?
            }
        };
        Ok(self.file.insert(file))
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// An event of a step, as a record.
fn event(step: u64, what: &[u8]) -> Vec<u8> {
    let mut event = vec![1 << 3 | FIXED_64];
    event.extend(now().as_secs_f64().to_le_bytes());
    event.extend(varint_field(2, step));
    event.extend(what);
    record(&event)
}

/// Wire types of protocol buffers.
const VARINT: u8 = 0;
const FIXED_64: u8 = 1;
const BYTES: u8 = 2;
const FIXED_32: u8 = 5;

/// `Summary.Value`: tag and `simple_value`.
fn scalar(tag: &str, figure: f64) -> Vec<u8> {
    #[allow(clippy::cast_possible_truncation, reason = "the format holds f32")]
    let figure = figure as f32;
    let mut value = bytes_field(1, tag.as_bytes());
    value.push(2 << 3 | FIXED_32);
    value.extend(figure.to_le_bytes());
    value
}

fn varint_field(field: u8, value: u64) -> Vec<u8> {
    let mut bytes = vec![field << 3 | VARINT];
    push_varint(&mut bytes, value);
    bytes
}

fn bytes_field(field: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![field << 3 | BYTES];
    push_varint(&mut bytes, value.len() as u64);
    bytes.extend(value);
    bytes
}

/// Seven bits a byte, the lowest first; the eighth says that more follow.
fn push_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        bytes.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    bytes.push(value.to_le_bytes()[0]);
}

fn record(event: &[u8]) -> Vec<u8> {
    let length = (event.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked_checksum(&length).to_le_bytes());
    record.extend(event);
    record.extend(masked_checksum(event).to_le_bytes());
    record
}

/// A checksum of data that holds checksums is weak, so it is rotated and shifted.
fn masked_checksum(bytes: &[u8]) -> u32 {
    checksum(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bit by bit: a step has a few kilobytes.
fn checksum(bytes: &[u8]) -> u32 {
    let bit = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), bit))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check value of the catalogue of CRCs, and the test vectors of RFC 3720, appendix B.4.
    #[test]
    fn checksums_are_those_of_crc_32c() {
        assert_eq!(checksum(b"123456789"), 0xe306_9283);
        assert_eq!(checksum(&[0; 32]), 0x8a91_36aa);
        assert_eq!(checksum(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn long_numbers_take_seven_bits_a_byte() {
        assert_eq!(varint_field(2, 300), [0x10, 0xac, 0x02]);
        assert_eq!(varint_field(2, 127), [0x10, 0x7f]);
    }
}
