//! Standard error: a block that is redrawn in place, and lines above it. Where it is no terminal, lines alone.

use std::{
    io::{self, IsTerminal, Write},
    sync::{Arc, Mutex, PoisonError},
};

use tracing_subscriber::fmt::MakeWriter;

/// Who writes to standard error writes through this, so that log lines and the block do not tear each other. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Screen {
    is_terminal: bool,
    block: Arc<Mutex<String>>,
}

impl Screen {
    pub(super) fn new() -> Self {
        let is_terminal = io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Self { is_terminal, block: Arc::default() }
    }

    /// Whether there is a block that is redrawn.
    pub(super) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// A line that stays.
    pub(super) fn line(&self, text: &str) {
        self.above(format!("{text}\n").as_bytes());
    }

    /// Replaces the block; an empty one takes it away. Does nothing where it cannot be redrawn.
    pub(super) fn show(&self, lines: &[String]) {
        if !self.is_terminal {
            return;
        }
        let mut block = self.block.lock().unwrap_or_else(PoisonError::into_inner);
        let new: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let frame = format!("{}{}", erase(&block), unwrapped(&new));
        *block = new;
        write(frame.as_bytes());
    }

    fn above(&self, text: &[u8]) {
        let block = self.block.lock().unwrap_or_else(PoisonError::into_inner);
        let frame = [erase(&block).as_bytes(), text, unwrapped(&block).as_bytes()].concat();
        write(&frame);
    }
}

/// A reader of standard error that went away is no reason to stop working.
fn write(bytes: &[u8]) {
    let mut err = io::stderr().lock();
    let _ = err.write_all(bytes).and_then(|()| err.flush());
}

/// Goes back to where the block begins, and clears all below.
fn erase(block: &str) -> String {
    match block.lines().count() {
        0 => String::new(),
        lines => format!("\r\x1b[{lines}A\x1b[J"),
    }
}

/// Lines of the block are cut at the terminal's edge: wrapped ones would take more rows than are erased.
fn unwrapped(block: &str) -> String {
    if block.is_empty() { String::new() } else { format!("\x1b[?7l{block}\x1b[?7h") }
}

/// One log event.
#[derive(Debug)]
pub(super) struct LogLine {
    screen: Screen,
    text: Vec<u8>,
}

impl Write for LogLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LogLine {
    fn drop(&mut self) {
        if !self.text.is_empty() {
            self.screen.above(&self.text);
        }
    }
}

impl<'a> MakeWriter<'a> for Screen {
    type Writer = LogLine;

    fn make_writer(&'a self) -> LogLine {
        LogLine { screen: self.clone(), text: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_erased_line_by_line_and_no_block_leaves_the_cursor_alone() {
        assert_eq!(erase(""), "");
        assert_eq!(erase("one\ntwo\nthree\n"), "\r\x1b[3A\x1b[J");
        assert_eq!(unwrapped(""), "");
    }
}
