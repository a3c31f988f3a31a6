//! How long Redis' append-only file was when: an older state of the data is a shorter file.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// The file, and what it was like.
#[derive(Debug)]
pub(crate) struct History {
    folder: PathBuf,
    /// Time and length, oldest first.
    lengths: Mutex<Vec<(i64, u64)>>,
}

/// A moment to go back to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Moment {
    pub(crate) at_ms: i64,
    pub(crate) length: u64,
}

impl History {
    /// The history of a server whose data are in this folder.
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.join("appendonlydir"), lengths: Mutex::default() }
    }

    fn file(&self) -> io::Result<PathBuf> {
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.to_string_lossy().ends_with(".incr.aof") {
                return Ok(path);
            }
        }
        Err(io::Error::new(io::ErrorKind::NotFound, "Redis has no append-only file"))
    }

    /// Notes how long the file is now.
    pub(crate) fn note(&self, now_ms: i64) -> io::Result<()> {
        // Under the lock: nobody cuts the file in between.
        let mut lengths = self.lengths.lock().unwrap_or_else(PoisonError::into_inner);
        lengths.push((now_ms, std::fs::metadata(self.file()?)?.len()));
        Ok(())
    }

    /// The last moment that is so old; the first one, if none is.
    pub(crate) fn before(&self, at_ms: i64) -> Option<Moment> {
        let lengths = self.lengths.lock().unwrap_or_else(PoisonError::into_inner);
        let found = lengths.iter().rev().find(|(at, _)| *at <= at_ms).or(lengths.first());
        found.map(|&(at_ms, length)| Moment { at_ms, length })
    }

    /// A little earlier, perhaps: so that the last command of the file, or the last transaction, is whole.
    pub(crate) fn whole(&self, moment: Moment) -> io::Result<Moment> {
        let mut bytes = Vec::new();
        File::open(self.file()?)?.take(moment.length).read_to_end(&mut bytes)?;
        Ok(Moment { length: whole(&bytes) as u64, ..moment })
    }

    /// Cuts the file to what it was then. What came after is no history any more.
    pub(crate) fn go_back(&self, moment: Moment) -> io::Result<()> {
        let mut lengths = self.lengths.lock().unwrap_or_else(PoisonError::into_inner);
        OpenOptions::new().write(true).open(self.file()?)?.set_len(moment.length)?;
        lengths.retain(|(at, _)| *at <= moment.at_ms);
        Ok(())
    }
}

/// Bytes up to the end of the last whole command outside of a transaction.
fn whole(bytes: &[u8]) -> usize {
    let (mut end, mut at, mut inside) = (0, 0, false);
    while let Some((command, next)) = command(bytes, at) {
        inside = (inside || command.eq_ignore_ascii_case(b"MULTI")) && !command.eq_ignore_ascii_case(b"EXEC");
        at = next;
        if !inside {
            end = at;
        }
    }
    end
}

/// The name of the command that begins here, and where the next one does.
fn command(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let (words, mut at) = number(bytes, at, b'*')?;
    let mut name: &[u8] = &[];
    for word in 0..words {
        let (length, begin) = number(bytes, at, b'$')?;
        let text = bytes.get(begin..begin.checked_add(length)?)?;
        if word == 0 {
            name = text;
        }
        at = begin + length + 2;
    }
    (at <= bytes.len()).then_some((name, at))
}

/// The number behind a sign, and what is behind its line.
fn number(bytes: &[u8], at: usize, sign: u8) -> Option<(usize, usize)> {
    let line = bytes.get(at..)?.strip_prefix(&[sign])?;
    let length = line.windows(2).position(|end| end == b"\r\n")?;
    Some((std::str::from_utf8(&line[..length]).ok()?.parse().ok()?, at + 1 + length + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_cut_between_commands_and_outside_of_transactions() {
        let set = "*3\r\n$3\r\nSET\r\n$1\r\na\r\n$2\r\n\r\n\r\n";
        let (multi, exec) = ("*1\r\n$5\r\nMULTI\r\n", "*1\r\n$4\r\nEXEC\r\n");
        let file = [set, multi, set, exec, set].concat();
        let ends = [0, set.len(), file.len() - set.len(), file.len()];
        for length in 0..=file.len() {
            let expected = ends.iter().rev().find(|end| **end <= length);
            assert_eq!(Some(&whole(&file.as_bytes()[..length])), expected, "{length}");
        }
    }
}
