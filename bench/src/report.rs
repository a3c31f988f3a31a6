//! What is printed: for people a table of figures, each beside its raw limit and its target; for programs one JSON object.

use anyhow::Result;
use serde::Serialize;

/// What a figure must reach.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    /// At least this share of its raw limit.
    Share(f64),
    /// At least so much.
    AtLeast(f64),
    /// Less than that.
    Below(f64),
    /// It is only reported.
    None,
}

/// What a figure counts, and so how it is written.
#[derive(Clone, Copy)]
pub(crate) enum Unit {
    PerSecond,
    Milliseconds,
    Bytes,
    Megabytes,
}

impl Unit {
    fn text(self, value: f64) -> String {
        match self {
            Self::PerSecond if value < 100.0 => format!("{value:.1} /s"),
            Self::PerSecond => format!("{} /s", grouped(value)),
            Self::Milliseconds => format!("{value:.3} ms"),
            Self::Bytes => format!("{value:.0} B"),
            Self::Megabytes => format!("{value:.1} MB"),
        }
    }
}

/// One line of the table.
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) unit: Unit,
    pub(crate) value: f64,
    pub(crate) raw: Option<f64>,
    pub(crate) target: Target,
}

impl Figure {
    fn cells(&self) -> [String; 6] {
        let share = self.raw.map(|raw| self.value / raw);
        let percent = |share: f64| format!("{:.0} %", 100.0 * share);
        let (target, met) = match self.target {
            Target::Share(least) => (format!("{} of raw", percent(least)), share.map(|share| share >= least)),
            Target::AtLeast(least) => (format!("from {}", self.unit.text(least)), Some(self.value >= least)),
            Target::Below(most) => (format!("under {}", self.unit.text(most)), Some(self.value < most)),
            Target::None => ("-".to_owned(), None),
        };
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        [
            self.name.to_owned(),
            self.unit.text(self.value),
            or_none(self.raw.map(|raw| self.unit.text(raw))),
            or_none(share.map(percent)),
            target,
            or_none(met.map(|met| if met { "met" } else { "MISSED" }.to_owned())),
        ]
    }
}

/// Prints the table and, if asked to, the JSON object as the last line.
pub(crate) fn print(table: &[Figure], figures: &impl Serialize, json: bool) -> Result<()> {
    let header = ["figure", "measured", "raw limit", "share", "target", ""].map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(header).chain(table.iter().map(Figure::cells)).collect();
    for row in &rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            line += &if column == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
        }
        println!("{}", line.trim_end());
    }
    if json {
        println!("{}", serde_json::to_string(figures)?);
    }
    Ok(())
}

/// A whole number with its thousands apart.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_met_by_its_share_or_its_bound() {
        let met =
            |value, raw, target| Figure { name: "", unit: Unit::PerSecond, value, raw, target }.cells()[5].clone();
        assert_eq!(met(50.0, Some(100.0), Target::Share(0.5)), "met");
        assert_eq!(met(49.0, Some(100.0), Target::Share(0.5)), "MISSED");
        assert_eq!(met(2.0, None, Target::Below(2.0)), "MISSED");
        assert_eq!(met(2.0, None, Target::AtLeast(2.0)), "met");
        assert_eq!(met(2.0, None, Target::None), "-");
    }

    #[test]
    fn thousands_are_apart() {
        assert_eq!(grouped(7.4), "7");
        assert_eq!(grouped(1000.0), "1,000");
        assert_eq!(grouped(1_234_567.0), "1,234,567");
    }
}
