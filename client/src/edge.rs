//! The one hidden input of the client: the seed that a client gets when it is not given one.

/// Differs between clients, so that their pauses and their first endpoints do too.
#[allow(
    clippy::disallowed_methods,
    reason = "the client is the edge of the system; whoever needs to repeat a run sets the seed"
)]
pub(crate) fn seed() -> u64 {
    rand::random()
}
