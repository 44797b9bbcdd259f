//! Where calls of other members find this one: before it has begun, while it forms a group, and afterwards.

use std::sync::{Arc, PoisonError, RwLock, Weak};

use super::{Meta, Shared};
use crate::identity::Identity;

/// Given to a member with its options, and to whatever serves it on the network. Empty until [`Meta::open`] knows
/// whose directory it has. Does not keep the member alive.
#[derive(Clone, Default)]
pub struct MemberSlot {
    inner: Arc<RwLock<State>>,
}

#[derive(Default)]
struct State {
    identity: Option<Identity>,
    member: Weak<Shared>,
}

impl std::fmt::Debug for MemberSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("MemberSlot").field(&self.identity()).finish()
    }
}

impl MemberSlot {
    /// Who this member is; `None` before it has opened its directory.
    pub fn identity(&self) -> Option<Identity> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).identity
    }

    /// The member; `None` before it has begun and after its last handle was dropped. Not to be kept.
    pub fn member(&self) -> Option<Meta> {
        let state = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        state.member.upgrade().map(|shared| Meta { shared })
    }

    /// The member has opened its directory, and asks others before it begins.
    pub(super) fn introduce(&self, identity: Identity) {
        let mut state = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        state.identity = Some(identity);
    }

    pub(super) fn set(&self, identity: Identity, member: &Arc<Shared>) {
        let mut state = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        state.identity = Some(identity);
        state.member = Arc::downgrade(member);
    }
}
