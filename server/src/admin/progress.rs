//! Tells a person what a command waits for, on standard error: programs read standard output.

use std::io::{IsTerminal, Write};

pub struct Progress {
    terminal: bool,
    said: String,
}

impl Progress {
    pub fn new() -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            said: String::new(),
        }
    }

    /// On a terminal the line replaces the last one. Trouble with it is nobody's.
    pub fn say(&mut self, text: &str) {
        if self.said == text {
            return;
        }
        self.said = text.to_owned();
        let mut out = std::io::stderr().lock();
        let _ = match self.terminal {
            true => write!(out, "\r\x1b[K{text} ...").and_then(|()| out.flush()),
            false => writeln!(out, "{text} ..."),
        };
    }

    /// As [`Self::say`] on a terminal; nothing where nobody watches, because it changes all the time.
    pub fn tick(&mut self, text: &str) {
        if self.terminal {
            self.say(text);
        }
    }

    /// A line that stays.
    pub fn note(&mut self, text: &str) {
        self.clear();
        eprintln!("{text}");
    }

    /// Leaves an empty line to whoever prints next.
    pub fn clear(&mut self) {
        if self.terminal && !self.said.is_empty() {
            eprint!("\r\x1b[K");
        }
        self.said.clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
