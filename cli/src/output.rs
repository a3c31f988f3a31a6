//! Results on standard output: a table for people, one line of JSON for programs.

use std::io::{self, Write};

use comfy_table::{ColumnConstraint, ContentArrangement, LineStyle, Table, TableStyle};
use rustix::termios::tcgetwinsize;
use serde::Serialize;
use windrow_api::{
    find::JobView,
    list::{JobPage, UnreadableEntry},
};

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

    /// A page of jobs, and how to see the next. What cannot be read is said on standard error.
    pub(crate) fn page<const N: usize>(
        self,
        page: &JobPage,
        header: [&str; N],
        cells: impl Fn(&JobView) -> [String; N],
    ) -> anyhow::Result<()> {
        self.say_unreadable(page);
        self.show(page, || Self::page_words(page, header, cells))
    }

    /// The same, but the jobs alone as JSON; how to see the next page goes to standard error then.
    pub(crate) fn page_jobs<const N: usize>(
        self,
        page: &JobPage,
        header: [&str; N],
        cells: impl Fn(&JobView) -> [String; N],
    ) -> anyhow::Result<()> {
        self.say_unreadable(page);
        if let Some(next) = page.next.as_ref().filter(|_| self.json) {
            eprintln!("windrow: more: --cursor {next}");
        }
        self.show(&page.jobs, || Self::page_words(page, header, cells))
    }

    fn say_unreadable(self, page: &JobPage) {
        for UnreadableEntry { queue, entry } in &page.unreadable {
            let (id, at) = (cell(entry.id.as_ref()), time(entry.at));
            eprintln!(
                "windrow: an entry of queue {queue} that this version cannot read: {} {at}; a newer windrow may",
                if id.is_empty() { &entry.member } else { &id }
            );
        }
    }

    fn page_words<const N: usize>(
        page: &JobPage,
        header: [&str; N],
        cells: impl Fn(&JobView) -> [String; N],
    ) -> String {
        let mut text = match (page.jobs.is_empty(), &page.next) {
            (true, None) => return "none".to_owned(),
            (true, Some(_)) => "none among those that were looked at".to_owned(),
            (false, _) => table(header, page.jobs.iter().map(cells)),
        };
        if let Some(next) = &page.next {
            text += &format!("\nmore: --cursor {next}");
        }
        text
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
    // As wide as the terminal; as wide as it takes where there is none, or one that does not know its width.
    if let Some(columns) = tcgetwinsize(io::stdout()).ok().map(|size| size.ws_col).filter(|&columns| columns > 0) {
        table.set_width(columns.max(60));
    }
    fill(&mut table, header, rows);
    table.to_string()
}

fn fill<const N: usize>(table: &mut Table, header: [&str; N], rows: impl Iterator<Item = [String; N]>) {
    if header.iter().any(|name| !name.is_empty()) {
        table.set_header(header);
    }
    let rows: Vec<[String; N]> = rows.map(|row| row.map(|text| printable(&text))).collect();
    let is_whole = |column: usize| rows.iter().any(|row| is_id(&row[column]));
    let whole: Vec<bool> = (0..N).map(is_whole).collect();
    table.add_rows(rows);
    // An id that is broken over two lines cannot be copied: rather wrap what is beside it, or let the line be too long.
    for (column, _) in table.column_iter_mut().zip(whole).filter(|(_, whole)| *whole) {
        column.set_constraint(ColumnConstraint::ContentWidth);
    }
}

/// Job ids, sessions, fingerprints.
fn is_id(text: &str) -> bool {
    matches!(text.len(), 16 | 32 | 36) && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
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
    fn an_id_is_never_broken_however_narrow_the_terminal() {
        let id = "01890000-0000-7000-8000-000000000000";
        for width in [20, 60, 80] {
            let mut narrow = Table::new();
            narrow.load_style(STYLE).set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
            let row =
                |id: &str| [id.to_owned(), "vacancy.fetch_source".to_owned(), "it failed for a long reason ".repeat(5)];
            fill(&mut narrow, ["job", "kind", "reason"], [row(id), row("")].into_iter());
            let shown = narrow.to_string();
            assert!(shown.lines().any(|line| line.contains(id)), "{width}: {shown}");
        }
    }

    #[test]
    fn text_from_outside_cannot_steer_the_terminal() {
        let shown = table(["title"], ["\u{1b}[2Jgone\u{7}".to_owned()].into_iter().map(|title| [title]));
        assert!(!shown.contains('\u{1b}') && !shown.contains('\u{7}') && shown.contains("gone"), "{shown}");
    }
}
