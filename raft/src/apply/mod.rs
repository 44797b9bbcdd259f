//! What a command changes: pure, and the same on every replica.
//!
//! `apply` reads nothing but the state and the command. A refused command changes nothing. An error of the store is
//! no answer: the node stops, for a replica that skips an entry is no replica.

mod basin;
mod cell;
mod chain;
mod channel;
mod flush;
mod merge;
mod objects;
mod placement;
mod purge;
mod seal;
mod segments;
mod stream;

use crate::command::{Command, Response, StateChecksum};
use crate::error::StoreError;
use crate::refused::Refused;
use crate::state::checksum::checksum;
use crate::state::record::{Applied, LogPosition, Members};
use crate::state::table::{AppliedTable, ReadTable};
use crate::state::txn::Txn;

/// Why a command came to nothing.
#[derive(Debug)]
enum Stop {
    Refused(Refused),
    Store(StoreError),
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Self {
        Stop::Refused(refused)
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Stop::Store(error)
    }
}

type Outcome<T> = Result<T, Stop>;

/// Applies one command that stands at `at` in the log. Does not touch the applied index: see [`advance`].
///
/// Log indexes grow from call to call; `at.index` is at least 1.
pub fn apply(
    txn: &mut Txn<'_>,
    command: &Command,
    at: LogPosition,
) -> Result<Result<Response, Refused>, StoreError> {
    let mut nested = Txn::new(&*txn);
    match decide(&mut nested, command, at) {
        Ok(response) => {
            let changes = nested.into_changes();
            txn.merge(changes);
            Ok(Ok(response))
        }
        Err(Stop::Refused(refused)) => Ok(Err(refused)),
        Err(Stop::Store(error)) => Err(error),
    }
}

/// Moves the applied index, and takes over a change of membership that the entry carries.
pub fn advance(txn: &mut Txn<'_>, at: LogPosition, members: Option<Members>) -> Result<(), StoreError> {
    let before = txn.row::<AppliedTable>(&())?.unwrap_or_default();
    let (membership_at, membership) = match members {
        Some(members) => (Some(at), members),
        None => (before.membership_at, before.membership),
    };
    txn.write::<AppliedTable>(
        &(),
        &Applied {
            last: Some(at),
            membership_at,
            membership,
        },
    );
    Ok(())
}

fn decide(txn: &mut Txn<'_>, command: &Command, at: LogPosition) -> Outcome<Response> {
    let index = at.index;
    match command {
        Command::InitCell(c) => cell::init(txn, c),
        Command::RegisterZone(c) => cell::register_zone(txn, c),
        Command::RegisterNode(c) => cell::register_node(txn, c),
        Command::ExpireNode(c) => cell::expire_node(txn, c, at.term),
        Command::CreateChannel(c) => channel::create(txn, c),
        Command::AssignChannel(c) => channel::assign(txn, c),
        Command::ReleaseChannels(c) => channel::release(txn, c, index),
        Command::ActivateChannel(c) => channel::activate(txn, c),
        Command::SealEpoch(c) => seal::seal(txn, c, index),
        Command::CreateBasin(c) => basin::create(txn, c),
        Command::ReconfigureBasin(c) => basin::reconfigure(txn, c),
        Command::DeleteBasin(c) => basin::delete(txn, c),
        Command::MarkBasinStreams(c) => purge::mark_basin_streams(txn, c, index),
        Command::PurgeBasin(c) => purge::basin(txn, c),
        Command::CreateStream(c) => stream::create(txn, c),
        Command::ReconfigureStream(c) => stream::reconfigure(txn, c),
        Command::DeleteStream(c) => stream::delete(txn, c, index),
        Command::CloseStreamlet(c) => purge::close_streamlet(txn, c),
        Command::PurgeStream(c) => purge::stream(txn, c),
        Command::ActivateStream(c) => placement::activate(txn, c, index),
        Command::DeactivateStream(c) => placement::deactivate(txn, c),
        Command::CommitFlush(c) => flush::commit(txn, c, index),
        Command::CommitMerge(c) => merge::commit(txn, c, index),
        Command::PackChain(c) => chain::pack(txn, c, index),
        Command::UnpackChain(c) => chain::unpack(txn, c, index),
        Command::DropSegments(c) => segments::drop_some(txn, c, index),
        Command::ExpireSegments(c) => segments::expire(txn, c, index),
        Command::ForgetObjects(c) => objects::forget(txn, c),
        Command::DeleteEmptyStream(c) => stream::delete_empty(txn, c, index),
        Command::CompareState(_) => Ok(Response::StateChecksum(StateChecksum {
            index,
            checksum: checksum(txn)?,
        })),
        // The state is not touched: whoever applies the entry compares.
        Command::CheckState(_) => Ok(Response::Done),
    }
}
