//! Rows of a CSV file (RFC 4180, read leniently), in constant memory and with exact offsets.
//!
//! Not the crate `csv`: its record grows with the row, and a quote that is never closed swallows the rest of the file into one
//! row without a word. Here a row has a longest length, and a row whose quote is not closed is rejected by itself: reading
//! goes on at the next line. Only one field is wanted, so nothing is copied but that. (A test reads the same files by `csv`.)

use std::{
    borrow::Cow,
    io::{self, Read},
    ops::Range,
};

use super::Reason;

/// How fields are told apart, and which one is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Format {
    pub(super) delimiter: u8,
    /// 0 is the first.
    pub(super) column: usize,
}

/// One row at the beginning of a buffer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Record {
    /// Its bytes, the line end included.
    pub(super) length: usize,
    /// Lines that it stands on.
    pub(super) lines: u64,
    /// How many fields it has.
    pub(super) fields: usize,
    /// Where the wanted field stands, its quotes included.
    field: Option<Range<usize>>,
}

/// What stands at the beginning of a buffer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Scan {
    /// A row.
    Record(Record),
    /// The beginning of a row.
    Partial {
        /// It ends inside of quotes.
        in_quotes: bool,
    },
    /// A row with a quote that is not closed, or closed only by what is plainly the opening quote of a later field.
    Unclosed,
}

/// Looks for a row. `complete`: nothing follows the buffer.
pub(super) fn scan(buffer: &[u8], complete: bool, format: Format) -> Scan {
    let ends_field = |byte: u8| byte == format.delimiter || byte == b'\n' || byte == b'\r';
    let (mut at, mut fields, mut lines, mut field) = (0, 0, 1, None);
    loop {
        let start = at;
        if buffer.get(at) == Some(&b'"') {
            at += 1;
            let first_line = lines;
            loop {
                let Some(quote) = buffer[at..].iter().position(|byte| *byte == b'"') else {
                    return if complete { Scan::Unclosed } else { Scan::Partial { in_quotes: true } };
                };
                lines += buffer[at..at + quote].iter().map(|byte| u64::from(*byte == b'\n')).sum::<u64>();
                at += quote + 1;
                match buffer.get(at) {
                    Some(b'"') => at += 1,
                    None if !complete => return Scan::Partial { in_quotes: true },
                    _ => break,
                }
            }
            if lines > first_line && buffer.get(at).is_some_and(|byte| !ends_field(*byte)) {
                return Scan::Unclosed;
            }
        }
        at += buffer[at..].iter().position(|byte| ends_field(*byte)).unwrap_or(buffer.len() - at);
        if fields == format.column {
            field = Some(start..at);
        }
        fields += 1;
        match (buffer.get(at), buffer.get(at + 1)) {
            (None, _) if complete => {}
            (None, _) => return Scan::Partial { in_quotes: false },
            (Some(b'\r'), None) if !complete => return Scan::Partial { in_quotes: false },
            (Some(b'\r'), Some(b'\n')) => at += 2,
            (Some(b'\r' | b'\n'), _) => at += 1,
            (Some(_), _) => {
                at += 1;
                continue;
            }
        }
        return Scan::Record(Record { length: at, lines, fields, field });
    }
}

impl Record {
    /// The wanted field of this row, without its quotes.
    pub(super) fn field<'a>(&self, buffer: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        Some(unquoted(&buffer[self.field.clone()?]))
    }

    fn is_blank(&self, buffer: &[u8]) -> bool {
        self.fields == 1 && buffer[..self.length].iter().all(u8::is_ascii_whitespace)
    }
}

fn unquoted(field: &[u8]) -> Cow<'_, [u8]> {
    let Some(inside) = field.strip_prefix(b"\"") else { return Cow::Borrowed(field) };
    if let Some((b'"', value)) = inside.split_last()
        && !value.contains(&b'"')
    {
        return Cow::Borrowed(value);
    }
    let mut value = Vec::with_capacity(inside.len());
    let mut bytes = inside.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b'"' {
            value.push(byte);
        } else if bytes.next_if_eq(&b'"').is_some() {
            value.push(b'"');
        } else {
            // Closed; what follows up to the delimiter belongs to the field all the same.
            value.extend(bytes);
            break;
        }
    }
    Cow::Owned(value)
}

/// One row, as the import wants it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Row<'a> {
    /// The line on which it begins; 1 is the first of the file.
    pub(super) line: u64,
    /// The wanted field, or why there is none with the beginning of the row.
    pub(super) field: Result<Cow<'a, [u8]>, (Reason, Vec<u8>)>,
}

/// How much of a row that has no field is kept to show.
const HEAD: usize = 200;

/// Reads row after row from any point of a file at which a row begins.
#[derive(Debug)]
pub(super) struct Records<R> {
    input: R,
    format: Format,
    longest: usize,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    at_end: bool,
    offset: u64,
    line: u64,
}

impl<R: Read> Records<R> {
    /// `input` stands at `offset`, where `line` begins. A row longer than `longest` bytes is rejected.
    pub(super) fn new(input: R, format: Format, longest: usize, offset: u64, line: u64) -> Self {
        let buffer = vec![0; longest + 256 * 1024];
        Self { input, format, longest, buffer, start: 0, end: 0, at_end: false, offset, line }
    }

    /// The offset and the line at which the next row begins.
    pub(super) const fn position(&self) -> (u64, u64) {
        (self.offset, self.line)
    }

    /// The next row that is not blank; `None` at the end of the file.
    pub(super) fn next_row(&mut self) -> io::Result<Option<Row<'_>>> {
        loop {
            if self.start == self.end && self.at_end {
                return Ok(None);
            }
            let rest = &self.buffer[self.start..self.end];
            match scan(rest, self.at_end, self.format) {
                Scan::Record(record) if record.is_blank(rest) => self.consume(record.length, record.lines),
                Scan::Record(record) => return Ok(Some(self.row(&record))),
                Scan::Partial { .. } if rest.len() <= self.longest => self.fill()?,
                Scan::Partial { in_quotes: false } => return self.reject_line(Reason::RowTooLong).map(Some),
                Scan::Partial { in_quotes: true } | Scan::Unclosed => {
                    return self.reject_line(Reason::UnclosedQuote).map(Some);
                }
            }
        }
    }

    fn row(&mut self, record: &Record) -> Row<'_> {
        let (line, start) = (self.line, self.start);
        self.consume(record.length, record.lines);
        let bytes = &self.buffer[start..start + record.length];
        let without_field = |reason| (reason, bytes[..bytes.len().min(HEAD)].to_vec());
        let field = if record.length > self.longest {
            Err(without_field(Reason::RowTooLong))
        } else {
            record.field(bytes).ok_or_else(|| without_field(Reason::MissingColumn))
        };
        Row { line, field }
    }

    /// Gives up the row and goes on behind its first line, however far that reaches.
    fn reject_line(&mut self, reason: Reason) -> io::Result<Row<'static>> {
        let line = self.line;
        let rest = &self.buffer[self.start..self.end];
        let head = rest[..rest.len().min(HEAD)].to_vec();
        loop {
            let rest = &self.buffer[self.start..self.end];
            if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                self.consume(end + 1, 1);
                break;
            }
            self.consume(rest.len(), 0);
            if self.at_end {
                break;
            }
            self.fill()?;
        }
        Ok(Row { line, field: Err((reason, head)) })
    }

    fn consume(&mut self, bytes: usize, lines: u64) {
        self.start += bytes;
        self.offset += bytes as u64;
        self.line += lines;
    }

    fn fill(&mut self) -> io::Result<()> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        loop {
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(read) => {
                    self.at_end = read == 0;
                    self.end += read;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    const LONGEST: usize = 64;

    /// Hands out a few bytes at a time, so that rows are cut everywhere.
    struct Dribble<'a>(&'a [u8], usize);

    impl Read for Dribble<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(out.len()).min(self.0.len());
            out[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    type Read1 = (u64, Result<String, Reason>);

    fn read(text: &[u8], column: usize, step: usize) -> Vec<Read1> {
        let format = Format { delimiter: b',', column };
        let mut records = Records::new(Dribble(text, step), format, LONGEST, 0, 1);
        let mut rows = Vec::new();
        while let Some(row) = records.next_row().unwrap() {
            let field = row.field.map(|field| String::from_utf8_lossy(&field).into_owned());
            rows.push((row.line, field.map_err(|(reason, _)| reason)));
        }
        assert_eq!(records.position().0, text.len() as u64, "every byte is accounted for");
        rows
    }

    fn values(text: &str) -> Vec<Read1> {
        let rows = read(text.as_bytes(), 1, 1000);
        assert_eq!(rows, read(text.as_bytes(), 1, 1), "cut at every byte");
        rows
    }

    #[test]
    fn quotes_line_ends_and_missing_fields() {
        let ok = |line, value: &str| (line, Ok(value.to_owned()));
        assert_eq!(
            values("a,1\r\nb,\"2\"\nc,\"3 \"\"x\"\", y\"\n\nd\n   \ne,\"two\nlines\",z\nf,6"),
            [
                ok(1, "1"),
                ok(2, "2"),
                ok(3, "3 \"x\", y"),
                (5, Err(Reason::MissingColumn)),
                ok(7, "two\nlines"),
                ok(9, "6"),
            ]
        );
        assert_eq!(values("a,1\rb,2\r"), [ok(1, "1"), ok(2, "2")]);
        assert_eq!(values("a,\"1\"x,c\nb,\"\"\n"), [ok(1, "1x"), ok(2, "")]);
        assert_eq!(values(""), []);
        assert_eq!(values("\n\r\n\n"), []);
    }

    #[test]
    fn a_quote_that_is_not_closed_costs_its_own_line_only() {
        let rows = values("a,1\nb,\"2\nc,3\nd,4\n");
        assert_eq!(rows[1], (2, Err(Reason::UnclosedQuote)));
        assert_eq!(rows[2..], [(3, Ok("3".into())), (4, Ok("4".into()))]);
        // The next quote is far away: found out by the longest length.
        let far = format!("a,1\nb,\"2\n{}\nz,\"9\"\n", "c,3\n".repeat(100));
        let rows = values(&far);
        assert_eq!(rows[1], (2, Err(Reason::UnclosedQuote)));
        assert_eq!(rows.len(), 103);
        // The next quote opens another field, and what follows it shows that it does not close this one.
        let rows = values("a,\"1\nb,\"2\"\nc,3\n");
        assert_eq!(rows[0], (1, Err(Reason::UnclosedQuote)));
        assert_eq!(rows[1..], [(2, Ok("2".into())), (3, Ok("3".into()))]);
    }

    #[test]
    fn a_line_without_end_takes_no_memory_and_the_next_one_is_read() {
        let long = format!("a,1\n{}\nb,2\nc,{}\nd,4", "x".repeat(5_000_000), "9".repeat(100));
        let rows = read(long.as_bytes(), 1, 70_000);
        assert_eq!(
            rows,
            [
                (1, Ok("1".into())),
                (2, Err(Reason::RowTooLong)),
                (3, Ok("2".into())),
                (4, Err(Reason::RowTooLong)),
                (5, Ok("4".into())),
            ]
        );
    }

    proptest! {
        /// What `csv` writes, quoted or not, is read as it was.
        #[test]
        fn reads_what_csv_writes(
            rows in prop::collection::vec((".{0,8}", "[a-z\", \n\r]{0,8}", ".{0,3}"), 0..8), step in 1..40usize,
        ) {
            let mut writer = csv::WriterBuilder::new().quote_style(csv::QuoteStyle::NonNumeric).from_writer(Vec::new());
            for (first, second, third) in &rows {
                writer.write_record([first, second, third]).unwrap();
            }
            let text = writer.into_inner().unwrap();
            let read: Vec<_> = read(&text, 1, step).into_iter().map(|(_, field)| field.unwrap()).collect();
            let written: Vec<_> = rows.into_iter().map(|(_, second, _)| second).collect();
            prop_assert_eq!(read, written);
        }

        #[test]
        fn garbage_is_read_to_its_end(text in prop::collection::vec(any::<u8>(), 0..300), step in 1..20usize) {
            read(&text, 1, step);
            // Quotes and line ends are rare in plain garbage.
            let dense: Vec<u8> = text.iter().map(|byte| b"\",\n\ra"[usize::from(*byte) % 5]).collect();
            read(&dense, 1, step);
        }
    }
}
