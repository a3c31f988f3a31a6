//! The reader thread: reads, validates and encodes one batch ahead of Postgres.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Take},
};

use phonenumber::country;
use tokio::sync::mpsc;

use super::{Config, batch::RawBatch, layout::Layout, record::Records};

/// Where a file is read on from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub(super) layout: Layout,
    pub(super) offset: u64,
    pub(super) line: u64,
    /// Where the file ended when the import began.
    pub(super) size: u64,
    /// Whether rows were rejected before this point.
    pub(super) rejected_before: bool,
}

/// A batch, ready to be committed.
#[derive(Debug)]
pub(super) struct Batch {
    /// Where the row after it begins.
    pub(super) offset: u64,
    pub(super) line: u64,
    pub(super) rows: u64,
    pub(super) valid: u64,
    pub(super) distinct: u64,
    pub(super) rejected: u64,
    /// Rows for the error file.
    pub(super) rejects: Vec<u8>,
    /// Distinct valid numbers in the format of binary COPY.
    pub(super) copy: Vec<u8>,
}

/// Reads from `start` to the end of the file and sends batch after batch. Ends when nobody receives any more. Blocks.
pub(super) fn read_batches(
    file: &File,
    start: &Start,
    default: Option<country::Id>,
    config: &Config,
    batches: &mpsc::Sender<io::Result<Batch>>,
) {
    let mut reader = match BatchReader::open(file, start, default, config) {
        Ok(reader) => reader,
        Err(error) => {
            let _ = batches.blocking_send(Err(error));
            return;
        }
    };
    while let Some(batch) = reader.next_batch().transpose() {
        let failed = batch.is_err();
        // Nobody receives: the attempt was cancelled.
        if batches.blocking_send(batch).is_err() || failed {
            return;
        }
    }
}

struct BatchReader<'a> {
    records: Records<Take<&'a File>>,
    default: Option<country::Id>,
    threads: usize,
    rows: usize,
    rejected: bool,
}

impl<'a> BatchReader<'a> {
    fn open(mut file: &'a File, start: &Start, default: Option<country::Id>, config: &Config) -> io::Result<Self> {
        file.seek(SeekFrom::Start(start.offset))?;
        let input = file.take(start.size.saturating_sub(start.offset));
        Ok(Self {
            records: Records::new(input, start.layout.format(), config.longest_row(), start.offset, start.line),
            default,
            threads: config.threads(),
            rows: config.rows_per_batch(),
            rejected: start.rejected_before,
        })
    }

    fn next_batch(&mut self) -> io::Result<Option<Batch>> {
        let mut raw = RawBatch::default();
        while !raw.is_full(self.rows)
            && let Some(row) = self.records.next_row()?
        {
            raw.push(&row);
        }
        if raw.len() == 0 {
            return Ok(None);
        }
        let validated = raw.validate(self.default, self.threads, !self.rejected);
        self.rejected |= validated.rejected > 0;
        let (offset, line) = self.records.position();
        Ok(Some(Batch {
            offset,
            line,
            rows: validated.rows,
            valid: validated.rows - validated.rejected,
            distinct: validated.numbers.len() as u64,
            rejected: validated.rejected,
            copy: validated.to_copy(),
            rejects: validated.rejects,
        }))
    }
}
