//! A batch of rows: validated in parallel, sorted, without duplicates, and ready to be sent.

use phonenumber::country;

use super::{
    E164, Reason,
    layout::decode,
    number::parse_number,
    record::Row,
    reject::{write_header, write_reject},
};

/// Rows as they were read, in one buffer.
#[derive(Debug, Default)]
pub(super) struct RawBatch {
    text: Vec<u8>,
    rows: Vec<RawRow>,
}

#[derive(Debug)]
struct RawRow {
    line: u64,
    /// Where its field, or the beginning of a row without one, ends in the buffer.
    end: usize,
    fault: Option<Reason>,
}

/// Longer fields are cut: what is this long is not a number, and is shown shorter still.
const LONGEST_FIELD: usize = 512;

/// Text of one batch, in bytes. A batch of real numbers has a tenth of it.
const MOST_TEXT: usize = 8 * 1024 * 1024;

impl RawBatch {
    pub(super) fn push(&mut self, row: &Row<'_>) {
        let (field, fault): (&[u8], _) = match &row.field {
            Ok(field) => (field, None),
            Err((reason, head)) => (head, Some(*reason)),
        };
        self.text.extend_from_slice(&field[..field.len().min(LONGEST_FIELD)]);
        self.rows.push(RawRow { line: row.line, end: self.text.len(), fault });
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether it has its rows, or so much text that it had better be sent.
    pub(super) fn is_full(&self, rows: usize) -> bool {
        self.rows.len() >= rows || self.text.len() >= MOST_TEXT
    }

    /// Validates the rows on `threads` threads. Blocks. `first`: nothing was rejected before, so the error file needs its header.
    pub(super) fn validate(&self, default: Option<country::Id>, threads: usize, first: bool) -> Validated {
        let part = self.rows.len().div_ceil(threads.max(1)).max(1);
        let parts: Vec<Part> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..self.rows.len())
                .step_by(part)
                .map(|begin| {
                    scope.spawn(move || self.validate_part(begin, (begin + part).min(self.rows.len()), default))
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().expect("validating a row catches its panic")).collect()
        });
        let mut numbers = Vec::with_capacity(self.rows.len());
        let (mut rejects, mut rejected) = (Vec::new(), 0);
        for part in parts {
            numbers.extend(part.numbers);
            if first && rejected == 0 && part.rejected > 0 {
                write_header(&mut rejects);
            }
            rejects.extend(part.rejects);
            rejected += part.rejected;
        }
        numbers.sort_unstable_by_key(|number| number.digits);
        numbers.dedup_by_key(|number| number.digits);
        Validated { rows: self.rows.len() as u64, numbers, rejects, rejected }
    }

    fn validate_part(&self, begin: usize, end: usize, default: Option<country::Id>) -> Part {
        let mut part = Part { numbers: Vec::with_capacity(end - begin), rejects: Vec::new(), rejected: 0 };
        let mut from = begin.checked_sub(1).map_or(0, |before| self.rows[before].end);
        for row in &self.rows[begin..end] {
            let field = &self.text[from..row.end];
            from = row.end;
            let outcome = match (row.fault, std::str::from_utf8(field)) {
                (Some(fault), _) => Err(fault),
                (None, Ok(text)) => parse_number(text, default),
                (None, Err(_)) => parse_number(&decode(field), default),
            };
            match outcome {
                Ok(number) => part.numbers.push(number),
                Err(reason) => {
                    write_reject(&mut part.rejects, row.line, reason, &decode(field));
                    part.rejected += 1;
                }
            }
        }
        part
    }
}

struct Part {
    numbers: Vec<E164>,
    rejects: Vec<u8>,
    rejected: u64,
}

/// What became of a batch.
#[derive(Debug)]
pub(super) struct Validated {
    /// Rows read.
    pub(super) rows: u64,
    /// Valid numbers, ascending, each once. Ascending, so that two imports into one project lock them in the same order.
    pub(super) numbers: Vec<E164>,
    /// The rejected rows, as they stand in the error file.
    pub(super) rejects: Vec<u8>,
    /// How many they are.
    pub(super) rejected: u64,
}

impl Validated {
    /// The numbers as binary COPY wants them: (number bigint, region text).
    pub(super) fn to_copy(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.numbers.len() * 20 + 32);
        out.extend_from_slice(b"PGCOPY\n\xff\r\n\0");
        out.extend_from_slice(&[0; 8]);
        for number in &self.numbers {
            out.extend_from_slice(&2i16.to_be_bytes());
            out.extend_from_slice(&8i32.to_be_bytes());
            out.extend_from_slice(&number.digits.to_be_bytes());
            // A region has two or three letters.
            let length = i32::try_from(number.region.len()).unwrap_or(0);
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(number.region.as_bytes());
        }
        out.extend_from_slice(&(-1i16).to_be_bytes());
        out
    }
}
