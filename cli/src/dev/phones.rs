//! The sample file of phone numbers: the same each time, with repetitions and bad rows.
//!
//! All numbers come from ranges that the national regulators keep free for films and examples, so that nobody is ever called:
//! 555-01xx in North America, and Ofcom's, ARCEP's and the Bundesnetzagentur's in Britain, France and Germany.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

/// The beginning of a range, and how many digits follow.
const RANGES: [(&str, usize); 22] = [
    ("+1 212 555 01", 2),
    ("+1 415 555 01", 2),
    ("+1 312 555 01", 2),
    ("+1 617 555 01", 2),
    ("+1 206 555 01", 2),
    ("+1 416 555 01", 2),
    ("+1 604 555 01", 2),
    ("+44 20 7946 0", 3),
    ("+44 113 496 0", 3),
    ("+44 121 496 0", 3),
    ("+44 131 496 0", 3),
    ("+44 141 496 0", 3),
    ("+44 161 496 0", 3),
    ("+44 191 498 0", 3),
    ("+33 1 99 00 ", 4),
    ("+33 2 61 91 ", 4),
    ("+33 3 53 01 ", 4),
    ("+33 5 36 49 ", 4),
    ("+49 30 23125 ", 3),
    ("+49 40 66969 ", 3),
    ("+49 69 90009 ", 3),
    ("+49 221 4710 ", 3),
];

const BAD: [&str; 9] = [
    "",
    "n/a",
    "555-0134",
    "+1 212 555 01",
    "+999 20 7946 0123",
    "+44 20 7946 0958 ext. 12",
    "4.4207946E+11",
    "+33 1 99 00 12 34 56 78",
    "ask Maria",
];

const FIRST_NAMES: [&str; 16] = [
    "Ada", "Bruno", "Clara", "Dario", "Edith", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Keiko", "Luca", "Mina",
    "Nadia", "Oskar", "Paula",
];
const LAST_NAMES: [&str; 13] = [
    "Almeida", "Brandt", "Castell", "Dvorak", "Eriksen", "Fontaine", "Grant", "Hoffmann", "Ivanova", "Jansen",
    "Keller", "Laurent", "Moreau",
];

/// Rows in the file, without the header.
const ROWS: usize = 6000;

/// Writes the file.
pub(super) fn write(path: &Path) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    writeln!(file, "name,phone,note")?;
    for row in rows(ROWS) {
        file.write_all(row.as_bytes())?;
    }
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

fn rows(count: usize) -> impl Iterator<Item = String> {
    let numbers: Vec<String> = numbers().take(count).collect();
    let mut good = 0;
    (0..count).map(move |row| {
        let name = format!("{} {}", FIRST_NAMES[row % FIRST_NAMES.len()], LAST_NAMES[row % LAST_NAMES.len()]);
        let (phone, note) = match row {
            _ if row % 29 == 17 => (BAD[row / 29 % BAD.len()].to_owned(), "as received"),
            // One that was there before, written in another way.
            _ if row % 19 == 18 => (written(&numbers[good / 2], row + 1), "second list"),
            _ => {
                good += 1;
                (written(&numbers[good - 1], row), "")
            }
        };
        format!("{name},{phone},{note}\n")
    })
}

/// All different. Small ranges are used up first; those that are left go on.
fn numbers() -> impl Iterator<Item = String> {
    let sizes = RANGES.map(|(_, digits)| (0..digits).fold(1, |size, _| size * 10));
    (0..10_000).flat_map(move |index| {
        let open = RANGES.into_iter().zip(sizes).filter(move |(_, size)| index < *size);
        open.map(move |((start, digits), _)| format!("{start}{index:0digits$}"))
    })
}

/// The ways in which people write the same number.
fn written(number: &str, way: usize) -> String {
    match way % 5 {
        0 => number.replace(' ', ""),
        1 => number.replace(' ', "-"),
        2 => format!("tel:{}", number.replace(' ', "")),
        3 => format!(" {number} "),
        _ => number.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::collections::HashSet;

    use windrow_jobs::import::parse_number;

    use super::*;

    #[test]
    fn every_row_is_a_new_number_one_known_before_or_a_bad_one() {
        let (mut seen, mut again, mut bad) = (HashSet::new(), 0, 0);
        for row in rows(ROWS) {
            let fields: Vec<&str> = row.trim_end_matches('\n').split(',').collect();
            assert_eq!(fields.len(), 3, "{row}");
            match (parse_number(fields[1], None), fields[2]) {
                (Ok(number), "") => assert!(seen.insert(number.digits), "{row} is not new"),
                (Ok(number), "second list") => {
                    assert!(seen.contains(&number.digits), "{row} was not there");
                    again += 1;
                }
                (Err(_), "as received") => bad += 1,
                (read, _) => panic!("{row}: {read:?}"),
            }
        }
        assert_eq!(seen.len() + again + bad, ROWS);
        assert!(seen.len() > 5000 && again > 200 && bad > 200, "{} {again} {bad}", seen.len());
    }
}
