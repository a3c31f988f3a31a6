//! What sort of file it is: encoding, delimiter, header, and the column with the numbers. Found out from its first rows.

use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};

use super::{
    Column, Config, ImportFile, SourceError,
    record::{Format, Record, Scan, scan},
    source::Source,
};

/// How to read the file. Kept in the checkpoint, so that all attempts read it alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Layout {
    delimiter: u8,
    column: usize,
}

impl Layout {
    pub(super) const fn format(self) -> Format {
        Format { delimiter: self.delimiter, column: self.column }
    }
}

/// A layout, and where the first row of data begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Found {
    pub(super) layout: Layout,
    pub(super) offset: u64,
    pub(super) line: u64,
}

/// Names of the column with the numbers, the surest first; compared without case, blanks and punctuation.
const NAMES: &[&str] = &[
    "phone",
    "phonenumber",
    "msisdn",
    "e164",
    "number",
    "telephone",
    "telephonenumber",
    "tel",
    "mobile",
    "mobilenumber",
    "mobilephone",
    "cell",
    "cellphone",
    "contactnumber",
    "phone1",
    "telefon",
    "telefonnummer",
    "rufnummer",
    "handy",
    "handynummer",
    "mobil",
    "mobilnummer",
    "nummer",
    "telefono",
    "телефон",
    "номер",
    "номертелефона",
];

/// How many rows the delimiter is judged by.
const JUDGED: usize = 20;

/// No file has more columns than are looked at for a name.
const COLUMNS: usize = 1000;

const MARK: &[u8] = b"\xef\xbb\xbf";

impl Found {
    /// Looks at the beginning of a file. Blocks.
    pub(super) fn in_source(source: &Source, config: &Config, args: &ImportFile) -> Result<Self, SourceError> {
        let longest = config.longest_row();
        let mut sample = vec![0; longest];
        let mut length = 0;
        while length < longest {
            match source.file.read_at(&mut sample[length..], length as u64) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(source.unreadable(error)),
            }
        }
        sample.truncate(length);
        let complete = length as u64 == source.identity.size;
        Self::in_sample(&sample, complete, args)
    }

    fn in_sample(sample: &[u8], complete: bool, args: &ImportFile) -> Result<Self, SourceError> {
        refuse_other_formats(sample, &args.path)?;
        let marked = sample.strip_prefix(MARK).unwrap_or(sample);
        let (hint, text, first_line) = separator_hint(marked);
        let asked = args.delimiter.map(|delimiter| one_of_three(delimiter, &args.path)).transpose()?;
        let delimiter = asked.or(hint).unwrap_or_else(|| judge_delimiter(text, complete));
        let first = first_row(text, complete, delimiter);
        let names = first.as_ref().map(|first| names(first, delimiter)).unwrap_or_default();
        let (column, header) = choose(&names, args)?;
        let (skipped, lines) = first.filter(|_| header).map_or((0, 0), |first| (first.end, first.lines));
        let offset = sample.len() - text.len() + skipped;
        Ok(Self { layout: Layout { delimiter, column }, offset: offset as u64, line: first_line + lines })
    }
}

fn refuse_other_formats(sample: &[u8], path: &str) -> Result<(), SourceError> {
    let save = "save it as \"CSV UTF-8\" and import that";
    let (found, advice) = if sample.starts_with(b"\xff\xfe") || sample.starts_with(b"\xfe\xff") {
        ("UTF-16", save)
    } else if sample.starts_with(b"PK\x03\x04") {
        ("a ZIP archive or an Excel workbook (XLSX)", save)
    } else if sample.starts_with(b"\xd0\xcf\x11\xe0") {
        ("an old Excel workbook (XLS)", save)
    } else if sample.starts_with(b"\x1f\x8b") {
        ("compressed with gzip", "unpack it and import the file inside")
    } else if sample.starts_with(b"%PDF") {
        ("a PDF", save)
    } else if sample.iter().take(4096).any(|byte| *byte == 0) {
        ("UTF-16 or not text at all (it contains NUL bytes)", save)
    } else {
        return Ok(());
    };
    Err(SourceError::Format { path: path.to_owned(), found, advice })
}

fn column_problem(path: &str, problem: String) -> SourceError {
    SourceError::Column { path: path.to_owned(), problem }
}

fn one_of_three(delimiter: char, path: &str) -> Result<u8, SourceError> {
    match delimiter {
        ',' | ';' | '\t' => Ok(delimiter as u8),
        other => Err(column_problem(path, format!("{other:?} is not a delimiter; use ',', ';' or a tab"))),
    }
}

/// Excel writes `sep=;` into the first line. The delimiter, what follows that line, and its number.
fn separator_hint(text: &[u8]) -> (Option<u8>, &[u8], u64) {
    for delimiter in *b",;\t" {
        for end in ["\r\n", "\n"] {
            let line = [b"sep=", &[delimiter][..], end.as_bytes()].concat();
            if text.get(..line.len()).is_some_and(|head| head.eq_ignore_ascii_case(&line)) {
                return (Some(delimiter), &text[line.len()..], 2);
            }
        }
    }
    (None, text, 1)
}

/// The rows at the beginning of a text that are not blank, with where they begin.
fn rows(text: &[u8], complete: bool, delimiter: u8) -> impl Iterator<Item = (usize, Record)> + '_ {
    let format = Format { delimiter, column: 0 };
    let mut at = 0;
    std::iter::from_fn(move || match scan(&text[at..], complete, format) {
        Scan::Record(record) if record.length > 0 => {
            let begin = at;
            at += record.length;
            Some((begin, record))
        }
        _ => None,
    })
}

/// The delimiter that gives the most fields in every one of the first rows, which must all have as many; failing that, the
/// one that is most frequent in the first row. A file of one column has none.
fn judge_delimiter(text: &[u8], complete: bool) -> u8 {
    let fields = |delimiter| {
        let counts: Vec<usize> = rows(text, complete, delimiter)
            .filter(|(begin, row)| !text[*begin..begin + row.length].iter().all(u8::is_ascii_whitespace))
            .take(JUDGED)
            .map(|(_, row)| row.fields)
            .collect();
        let first = counts.first().copied().unwrap_or(1);
        let alike = counts.iter().all(|count| *count == first);
        (first > 1 && alike, first)
    };
    // The last of equals wins: a comma.
    [b'\t', b';', b','].into_iter().max_by_key(|delimiter| fields(*delimiter)).unwrap_or(b',')
}

struct FirstRow<'a> {
    text: &'a [u8],
    /// Where it ends, counted from the beginning of the text with the blank lines before it.
    end: usize,
    lines: u64,
    fields: usize,
}

fn first_row(text: &[u8], complete: bool, delimiter: u8) -> Option<FirstRow<'_>> {
    let mut lines = 0;
    for (begin, row) in rows(text, complete, delimiter) {
        lines += row.lines;
        let bytes = &text[begin..begin + row.length];
        if !bytes.iter().all(u8::is_ascii_whitespace) {
            return Some(FirstRow { text: bytes, end: begin + row.length, lines, fields: row.fields });
        }
    }
    None
}

fn names(first: &FirstRow<'_>, delimiter: u8) -> Vec<String> {
    (0..first.fields.min(COLUMNS))
        .filter_map(|column| match scan(first.text, true, Format { delimiter, column }) {
            Scan::Record(row) => row.field(first.text).map(|field| decode(&field)),
            Scan::Partial { .. } | Scan::Unclosed => None,
        })
        .collect()
}

/// UTF-8, or else Latin-1, in which every byte is a character: a name with an accent in another column spoils no row.
pub(super) fn decode(field: &[u8]) -> String {
    match std::str::from_utf8(field) {
        Ok(text) => text.to_owned(),
        Err(_) => field.iter().map(|byte| char::from(*byte)).collect(),
    }
}

fn plain(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// The column (0 is the first), and whether the first row is a header.
fn choose(names: &[String], args: &ImportFile) -> Result<(usize, bool), SourceError> {
    let problem = |problem| Err(column_problem(&args.path, problem));
    let usual = || NAMES.iter().find_map(|usual| names.iter().position(|name| plain(name) == *usual));
    let looks_like_header = || usual().is_some() || !names.iter().any(|name| name.chars().any(|c| c.is_ascii_digit()));
    match &args.column {
        Some(Column::Place(0)) => problem("columns are counted from 1".to_owned()),
        Some(Column::Place(place)) => {
            let column = usize::try_from(*place).unwrap_or(usize::MAX) - 1;
            if column >= names.len() {
                return problem(format!("there is no column {place}; the first row has {}", names.len()));
            }
            Ok((column, args.has_header.unwrap_or_else(looks_like_header)))
        }
        Some(Column::Name(_)) if args.has_header == Some(false) => {
            problem("a column can be named only if the file has a header; give its place".to_owned())
        }
        Some(Column::Name(wanted)) => {
            let found = names.iter().position(|name| name.trim().to_lowercase() == wanted.trim().to_lowercase());
            let shown = || names.iter().take(20).map(|name| name.chars().take(40).collect::<String>());
            found.map(|column| (column, true)).map_or_else(
                || problem(format!("there is no column {wanted:?}; there are {:?}", shown().collect::<Vec<_>>())),
                Ok,
            )
        }
        None => {
            let header = args.has_header.unwrap_or_else(looks_like_header);
            Ok((usual().filter(|_| header).unwrap_or(0), header))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn args() -> ImportFile {
        ImportFile::new(uuid::Uuid::nil(), "file.csv")
    }

    fn find(text: &[u8], args: &ImportFile) -> Result<(char, usize, u64, u64), String> {
        Found::in_sample(text, true, args)
            .map(|found| (char::from(found.layout.delimiter), found.layout.column, found.offset, found.line))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn delimiter_header_and_column_are_found() {
        for (text, expected) in [
            ("phone\n+4930123456\n", (',', 0, 6, 2)),
            ("+4930123456\n+4930123457\n", (',', 0, 0, 1)),
            ("name,Phone Number,city\nA,+49,B\n", (',', 1, 23, 2)),
            ("Name;Telefon-Nummer;Ort\nA, B;030;C\n", (';', 1, 24, 2)),
            ("id\tMSISDN\n1\t49\n", ('\t', 1, 10, 2)),
            ("\u{feff}number\n1\n", (',', 0, 10, 2)),
            ("sep=;\r\nname;tel\r\nA;1\r\n", (';', 1, 17, 3)),
            ("\n\n  \nphone\n1\n", (',', 0, 11, 5)),
            // No usual name: a row without any digit is a header all the same, and the first column is taken.
            ("foo,bar\n1,2\n", (',', 0, 8, 2)),
            ("+49 30 1,Anna\n+49 30 2,Bert\n", (',', 0, 0, 1)),
            ("\"last, first\",phone\n\"A, B\",1\n", (',', 1, 20, 2)),
            // More commas in the text than delimiters, but not in every row alike.
            ("a;b\nx, y, z;1\nq;2\n", (';', 0, 4, 2)),
            ("phone", (',', 0, 5, 2)),
        ] {
            assert_eq!(find(text.as_bytes(), &args()), Ok(expected), "{text:?}");
        }
    }

    #[test]
    fn what_was_asked_for_is_taken() {
        let text = b"name;work;home\nA;1;2\n";
        let asked = |column, has_header, delimiter| ImportFile { column, has_header, delimiter, ..args() };
        let name = |name: &str| Some(Column::Name(name.to_owned()));
        assert_eq!(find(text, &asked(Some(Column::Place(3)), None, None)), Ok((';', 2, 15, 2)));
        assert_eq!(find(text, &asked(name(" HOME "), None, None)), Ok((';', 2, 15, 2)));
        assert_eq!(find(text, &asked(Some(Column::Place(2)), Some(false), None)), Ok((';', 1, 0, 1)));
        assert_eq!(find(text, &asked(None, None, Some(','))), Ok((',', 0, 15, 2)));
        for (bad, said) in [
            (asked(Some(Column::Place(0)), None, None), "counted from 1"),
            (asked(Some(Column::Place(4)), None, None), "has 3"),
            (asked(Some(Column::Place(u32::MAX)), None, None), "has 3"),
            (asked(name("fax"), None, None), "\"work\""),
            (asked(name("work"), Some(false), None), "give its place"),
            (asked(None, None, Some('|')), "not a delimiter"),
        ] {
            let error = find(text, &bad).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn other_formats_are_named_and_refused() {
        for (text, said) in [
            (&b"\xff\xfep\0h\0"[..], "UTF-16"),
            (b"\xfe\xff\0p\0h", "UTF-16"),
            (b"p\0h\0o\0", "NUL"),
            (b"PK\x03\x04rest", "XLSX"),
            (b"\xd0\xcf\x11\xe0\xa1", "XLS"),
            (b"\x1f\x8b\x08", "gzip"),
            (b"%PDF-1.7", "PDF"),
        ] {
            let error = find(text, &args()).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn another_encoding_in_another_column_is_tolerated() {
        let text = b"Stra\xdfe,phone\nM\xfcller,1\n";
        assert_eq!(find(text, &args()), Ok((',', 1, 13, 2)));
        assert_eq!(decode(b"M\xfcller"), "Müller");
        assert_eq!(decode("Müller".as_bytes()), "Müller");
    }
}
