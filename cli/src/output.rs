//! Results on standard output: a table for people, one line of JSON for programs.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, LineStyle, Table, TableStyle};
use rustix::termios::tcgetwinsize;
use serde::Serialize;

/// A line below the header, and no other.
const STYLE: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// Where results go, and in which form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) const fn new(json: bool) -> Self {
        Self { json }
    }

    /// One result: as JSON, or in words.
    pub(crate) fn show(self, value: &impl Serialize, words: impl FnOnce() -> String) -> anyhow::Result<()> {
        let text = if self.json { serde_json::to_string(value)? } else { words() };
        line(&text)
    }

    /// Many results: as a JSON array, or a table. `cells` are the columns of one row.
    pub(crate) fn list<T: Serialize, const N: usize>(
        self,
        rows: &[T],
        header: [&str; N],
        cells: impl Fn(&T) -> [String; N],
    ) -> anyhow::Result<()> {
        self.show(&rows, || {
            if rows.is_empty() {
                return "none".to_owned();
            }
            table(header, rows.iter().map(cells))
        })
    }

    /// One result as a table of its fields.
    pub(crate) fn record(self, value: &impl Serialize, fields: &[(&str, String)]) -> anyhow::Result<()> {
        self.show(value, || {
            let rows = fields.iter().filter(|(_, text)| !text.is_empty());
            table(["", ""], rows.map(|(name, text)| [(*name).to_owned(), text.clone()]))
        })
    }
}

fn table<const N: usize>(header: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(STYLE).set_content_arrangement(ContentArrangement::Dynamic);
    // As wide as the terminal; as wide as it takes where there is none.
    if let Ok(size) = tcgetwinsize(io::stdout()) {
        table.set_width(size.ws_col.max(60));
    }
    if header.iter().any(|name| !name.is_empty()) {
        table.set_header(header);
    }
    table.add_rows(rows.map(|row| row.map(|text| printable(&text))));
    table.to_string()
}

/// Text from outside must not steer the terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// A line on standard output. A reader that closed it (`| head`) has seen what it wanted.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// An optional value as a cell.
pub(crate) fn cell(value: Option<&impl ToString>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

/// A time as a cell, to the second.
pub(crate) fn time(at: Option<chrono::DateTime<chrono::Utc>>) -> String {
    at.map(|at| at.format("%Y-%m-%d %H:%M:%S").to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_cannot_steer_the_terminal() {
        let shown = table(["title"], ["\u{1b}[2Jgone\u{7}".to_owned()].into_iter().map(|title| [title]));
        assert!(!shown.contains('\u{1b}') && !shown.contains('\u{7}') && shown.contains("gone"), "{shown}");
    }
}
