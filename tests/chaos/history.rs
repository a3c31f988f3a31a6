//! How long Redis' append-only file was when: an older state of the data is a shorter file.

use std::{
    fs::OpenOptions,
    io,
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

    /// Cuts the file to what it was then. What came after is no history any more.
    pub(crate) fn go_back(&self, moment: Moment) -> io::Result<()> {
        let mut lengths = self.lengths.lock().unwrap_or_else(PoisonError::into_inner);
        OpenOptions::new().write(true).open(self.file()?)?.set_len(moment.length)?;
        lengths.retain(|(at, _)| *at <= moment.at_ms);
        Ok(())
    }
}
