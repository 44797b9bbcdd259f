//! The lives that a data directory knows: which incarnations were registered, or may have been, from here.
//!
//! Written down before the group can hear of one. So a directory that does not know what the group knows of its node is
//! an old copy: another has been used since.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use millrace_api::id::Incarnation;

use super::dir::write_durably;
use crate::error::StoreError;

/// Lives that are kept, the newest. Other members may be that much behind with what they know.
const LIVES_MAX: usize = 256;

#[derive(Debug)]
pub struct Lives {
    file: PathBuf,
    /// Oldest first.
    known: Mutex<Vec<Incarnation>>,
}

impl Lives {
    /// Reads the file; one that is missing knows none.
    pub fn open(file: PathBuf) -> Result<Self, StoreError> {
        let known = read(&file)?;
        Ok(Self {
            file,
            known: Mutex::new(known),
        })
    }

    /// Whether another directory than this has been used for the node in that life. One that knows no life at all was
    /// never asked to remember any, and says no.
    pub fn misses(&self, life: Incarnation) -> bool {
        let known = self.known();
        !known.is_empty() && !known.contains(&life)
    }

    pub fn is_empty(&self) -> bool {
        self.known().is_empty()
    }

    /// Durable when this returns. Blocks.
    pub fn remember(&self, life: Incarnation) -> Result<(), StoreError> {
        let mut known = self.known();
        if known.contains(&life) {
            return Ok(());
        }
        let mut next = known.clone();
        next.push(life);
        let excess = next.len().saturating_sub(LIVES_MAX);
        next.drain(..excess);
        let lines: Vec<String> = next.iter().map(|life| format!("{life}\n")).collect();
        write_durably(&self.file, lines.concat().as_bytes())
            .map_err(|error| StoreError::io("write lives", error))?;
        *known = next;
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, Vec<Incarnation>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(file: &Path) -> Result<Vec<Incarnation>, StoreError> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::io("read lives", error)),
    };
    let parse = |line: &str| {
        let digits = line.len() == 32 && line.bytes().all(|byte| byte.is_ascii_hexdigit());
        let life = digits.then(|| u128::from_str_radix(line, 16).ok()).flatten();
        life.map(Incarnation)
            .ok_or_else(|| StoreError::corrupt("lives", format_args!("{line:?}")))
    };
    text.lines().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_that_was_remembered_is_known_after_the_next_start_and_others_are_missed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lives");
        let lives = Lives::open(file.clone()).unwrap();
        assert!(!lives.misses(Incarnation(1)), "nothing was to be remembered yet");
        lives.remember(Incarnation(1)).unwrap();
        lives.remember(Incarnation(2)).unwrap();
        let copy = std::fs::read(&file).unwrap();
        lives.remember(Incarnation(3)).unwrap();
        let again = Lives::open(file.clone()).unwrap();
        assert!((1..=3).all(|life| !again.misses(Incarnation(life))));
        std::fs::write(&file, copy).unwrap();
        assert!(Lives::open(file).unwrap().misses(Incarnation(3)), "an old copy");
    }

    #[test]
    fn only_so_many_lives_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let lives = Lives::open(dir.path().join("lives")).unwrap();
        for life in 0..LIVES_MAX as u128 + 10 {
            lives.remember(Incarnation(life)).unwrap();
        }
        assert!(lives.misses(Incarnation(9)) && !lives.misses(Incarnation(10)));
    }

    #[test]
    fn a_file_that_nobody_wrote_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lives");
        std::fs::write(&file, "not a life\n").unwrap();
        assert!(matches!(Lives::open(file), Err(StoreError::Corrupt { .. })));
    }
}
