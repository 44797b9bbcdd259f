//! What one stream is supposed to do, as a state of constant size and its steps.
//!
//! The content of the stream stands in the state as a hash of all records, so that a state is as small after a million
//! records as after one. Two contents with one hash would be taken for each other; with 64 bits that does not happen
//! by accident.

use crate::history::{Append, chain_hash};

/// A stream at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct State {
    /// The next sequence number.
    pub tail: u64,
    /// [`stream_hash`](crate::history::stream_hash) of all records.
    pub stream_hash: u64,
    /// The token in force.
    pub token: Token,
}

/// A fencing token, or none, by its number among the tokens of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Token(pub u32);

impl Token {
    /// No fence: what an empty token sets, and what it asks for.
    pub const NONE: Self = Self(0);
}

/// Numbers for tokens.
#[derive(Debug, Clone, Default)]
pub struct Tokens(Vec<String>);

impl Tokens {
    /// The token of this text; the same for the same text.
    pub fn token(&mut self, text: &str) -> Token {
        if text.is_empty() {
            return Token::NONE;
        }
        let known = self.0.iter().position(|known| known == text);
        let index = known.unwrap_or_else(|| {
            self.0.push(text.to_owned());
            self.0.len() - 1
        });
        Token(u32::try_from(index + 1).expect("a history has fewer than 2^32 tokens"))
    }

    /// Its text; empty for no fence.
    pub fn text(&self, token: Token) -> &str {
        match token.0.checked_sub(1) {
            None => "",
            Some(index) => self.0.get(index as usize).map_or("?", String::as_str),
        }
    }
}

/// A batch, as far as the model goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Batch {
    /// Of its records; never empty.
    pub record_hashes: Vec<u64>,
    /// What it puts in force.
    pub sets: Option<Token>,
    /// What must be in force.
    pub token: Option<Token>,
    /// What the tail must be.
    pub match_seq_num: Option<u64>,
}

impl Batch {
    /// The batch of a history's append.
    pub fn of(append: &Append, tokens: &mut Tokens) -> Self {
        let mut number = |text: &Option<String>| text.as_deref().map(|text| tokens.token(text));
        Self {
            record_hashes: append.record_hashes.clone(),
            sets: number(&append.set_fencing_token),
            token: number(&append.fencing_token),
            match_seq_num: append.match_seq_num,
        }
    }

    /// How many records.
    pub fn len(&self) -> u64 {
        self.record_hashes.len() as u64
    }

    /// Never true of a batch that a history may hold.
    pub fn is_empty(&self) -> bool {
        self.record_hashes.is_empty()
    }
}

impl State {
    /// Whether the batch's conditions hold.
    pub fn admits(&self, batch: &Batch) -> bool {
        batch.match_seq_num.is_none_or(|seq_num| seq_num == self.tail)
            && batch.token.is_none_or(|token| token == self.token)
    }

    /// The stream behind the batch; `None` if its conditions do not hold.
    pub fn append(&self, batch: &Batch) -> Option<Self> {
        self.admits(batch).then(|| Self {
            tail: self.tail + batch.len(),
            stream_hash: batch
                .record_hashes
                .iter()
                .fold(self.stream_hash, |hash, record| chain_hash(hash, *record)),
            token: batch.sets.unwrap_or(self.token),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(tokens: &mut Tokens, set: Option<&str>, token: Option<&str>, at: Option<u64>) -> Batch {
        let append = Append {
            set_fencing_token: set.map(str::to_owned),
            fencing_token: token.map(str::to_owned),
            match_seq_num: at,
            ..Append::of(vec![1, 2])
        };
        Batch::of(&append, tokens)
    }

    #[test]
    fn a_batch_moves_the_tail_by_its_records() {
        let state = State::default()
            .append(&batch(&mut Tokens::default(), None, None, None))
            .unwrap();
        assert_eq!(state.tail, 2);
        assert_eq!(state.stream_hash, crate::history::stream_hash([1, 2]));
    }

    #[test]
    fn conditions_hold_or_nothing_happens() {
        let mut tokens = Tokens::default();
        let mut batch = |set, token, at| batch(&mut tokens, set, token, at);
        let fresh = State::default();
        assert!(fresh.append(&batch(None, None, Some(1))).is_none());
        assert!(fresh.append(&batch(None, Some("a"), None)).is_none());
        let fenced = fresh.append(&batch(Some("a"), Some(""), Some(0))).unwrap();
        assert!(fenced.append(&batch(None, Some("a"), Some(2))).is_some());
        assert!(
            fenced.append(&batch(None, None, None)).is_some(),
            "no token, no question"
        );
        assert!(fenced.append(&batch(None, Some("b"), None)).is_none());
        assert!(fenced.append(&batch(None, Some(""), None)).is_none());
        let lifted = fenced.append(&batch(Some(""), Some("a"), None)).unwrap();
        assert_eq!(lifted.token, Token::NONE);
    }
}
