//! Why a row is rejected, and how that is written down.

use std::fmt;

/// Why a row is rejected. The error file has the name of the reason and its explanation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reason {
    /// The field is blank.
    Empty,
    /// The row has fewer fields.
    MissingColumn,
    /// The row is longer than `import.max_row_bytes`.
    RowTooLong,
    /// A quote was opened and never closed.
    UnclosedQuote,
    /// There are letters in it.
    Letters,
    /// It has an extension.
    Extension,
    /// It does not read as a number.
    NotANumber,
    /// Written without a country, and no default region was given.
    NoCountry,
    /// Its country calling code does not exist.
    UnknownCountry,
    /// Fewer digits than any number of its country.
    TooShort,
    /// More digits than any number of its country, or than E.164 allows.
    TooLong,
    /// No number of its country looks like this.
    Invalid,
}

impl Reason {
    /// The name in the error file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::MissingColumn => "missing_column",
            Self::RowTooLong => "row_too_long",
            Self::UnclosedQuote => "unclosed_quote",
            Self::Letters => "letters",
            Self::Extension => "extension",
            Self::NotANumber => "not_a_number",
            Self::NoCountry => "no_country",
            Self::UnknownCountry => "unknown_country",
            Self::TooShort => "too_short",
            Self::TooLong => "too_long",
            Self::Invalid => "invalid",
        }
    }

    /// What a person is told.
    #[must_use]
    pub const fn explanation(self) -> &'static str {
        match self {
            Self::Empty => "the field is blank",
            Self::MissingColumn => "the row has fewer fields than the column with the numbers",
            Self::RowTooLong => "the row is longer than import.max_row_bytes",
            Self::UnclosedQuote => {
                "a quotation mark was opened in this row and not closed; the next line was taken as a row"
            }
            Self::Letters => "a phone number has no letters; write the digits",
            Self::Extension => "E.164 has no extensions; remove it if the main number is meant",
            Self::NotANumber => "this does not read as one phone number",
            Self::NoCountry => "written without a country; begin it with + or import with a default region",
            Self::UnknownCountry => "there is no country with this calling code",
            Self::TooShort => "fewer digits than any number of its country",
            Self::TooLong => "more digits than any number of its country",
            Self::Invalid => "no number of its country looks like this",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.explanation())
    }
}

/// First line of an error file.
const HEADER: &str = "line,reason,explanation,value\n";

/// How much of a value is repeated in the error file.
const SHOWN: usize = 100;

/// Appends one rejected row.
pub(super) fn write_reject(out: &mut Vec<u8>, line: u64, reason: Reason, value: &str) {
    let value = shown(value).replace('"', "\"\"");
    let row = format!("{line},{},\"{}\",\"{value}\"\n", reason.name(), reason.explanation());
    out.extend_from_slice(row.as_bytes());
}

/// The header, for the beginning of the file.
pub(super) fn write_header(out: &mut Vec<u8>) {
    out.extend_from_slice(HEADER.as_bytes());
}

/// A value that a spreadsheet shows as it is: one that begins like a formula gets an apostrophe before it. Control characters
/// are spaces.
fn shown(value: &str) -> String {
    let mut text: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN).collect();
    if value.chars().nth(SHOWN).is_some() {
        text.push('…');
    }
    if text.trim_start().starts_with(['=', '+', '-', '@', '|', '%']) {
        text.insert(0, '\'');
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_value_from_outside_is_never_a_formula_nor_another_row() {
        for value in ["=cmd|'/c calc'!A0", "+1-2", "-2+3", "@SUM(A1)", "\t=1+1", "\r=1", "\u{a0}=1", " =1", "\n=1"] {
            let mut out = Vec::new();
            write_reject(&mut out, 7, Reason::NotANumber, value);
            let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(&*out);
            let rows: Vec<_> = reader.records().map(Result::unwrap).collect();
            assert_eq!(rows.len(), 1);
            assert!(rows[0][3].starts_with('\''), "{value:?} became {:?}", &rows[0][3]);
        }
    }

    #[test]
    fn a_row_of_the_error_file_reads_back_as_it_was() {
        let mut out = Vec::new();
        write_header(&mut out);
        write_reject(&mut out, 12, Reason::Letters, "say \"hello\", 12;3\nnext");
        write_reject(&mut out, 13, Reason::TooLong, &"9".repeat(1_000_000));
        let rows: Vec<_> = csv::Reader::from_reader(&*out).records().map(Result::unwrap).collect();
        assert_eq!(&rows[0][0], "12");
        assert_eq!(&rows[0][1], "letters");
        assert_eq!(&rows[0][3], "say \"hello\", 12;3 next");
        assert!(rows[1][3].len() < 120);
    }
}
