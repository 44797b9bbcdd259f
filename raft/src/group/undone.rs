//! What a command came to, and why something was not done.

use crate::command::Response;
use crate::error::MetaError;
use crate::refused::Refused;

/// The log's answer to a command.
#[derive(Debug, Clone)]
pub struct Decided {
    pub answer: Result<Response, Refused>,
    /// Where in the log: a state that has applied it shows what the answer says.
    pub index: u64,
}

/// Nothing was done here, or it is not known.
#[derive(Debug, Clone)]
pub enum Undone {
    /// This member does not lead, and did nothing. Perhaps that one does.
    NotLeading(Option<u64>),
    Error(MetaError),
}

impl Undone {
    pub fn retry(why: impl std::fmt::Display) -> Self {
        Undone::Error(MetaError::Retry(why.to_string().into()))
    }

    pub fn unknown(why: impl std::fmt::Display) -> Self {
        Undone::Error(MetaError::Unknown(why.to_string().into()))
    }

    pub fn closed(why: impl std::fmt::Display) -> Self {
        Undone::Error(MetaError::Closed(why.to_string().into()))
    }

    /// As another member told it: its end is not the end of this one.
    pub fn told_by_leader(self) -> Self {
        match self {
            Undone::Error(MetaError::Closed(why)) => {
                Undone::unknown(format_args!("the leader stopped: {why}"))
            }
            other => other,
        }
    }
}

impl From<Undone> for MetaError {
    fn from(undone: Undone) -> Self {
        match undone {
            Undone::NotLeading(None) => MetaError::Retry("no leader is known".into()),
            Undone::NotLeading(Some(leader)) => {
                MetaError::Retry(format!("this node does not lead, node {leader} does").into())
            }
            Undone::Error(error) => error,
        }
    }
}
