//! A version that decides for a share of the sessions: which sessions, and the policy that they get.
//!
//! The choice is made of the session's id alone, so a session keeps it, and so do its messages behind the queue. Without a canary a
//! session costs one relaxed load more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::RwLock;

use super::Policy;
use crate::message::Id;

/// The policy of the canary, where there is one.
#[derive(Default)]
pub struct Canary {
    /// Of a hundred sessions; 0 where there is none.
    percent: AtomicU8,
    policy: RwLock<Option<Arc<Policy>>>,
}

impl Canary {
    /// The canary's policy, if this session is to have it.
    pub fn for_session(&self, session: Id) -> Option<Arc<Policy>> {
        match self.percent.load(Ordering::Relaxed) {
            0 => None,
            percent if is_chosen(session, percent) => self.policy.read().clone(),
            _ => None,
        }
    }

    pub fn policy(&self) -> Option<Arc<Policy>> {
        self.policy.read().clone()
    }

    /// Returns the policy that was there before.
    pub fn put(&self, now: Option<(u8, Arc<Policy>)>) -> Option<Arc<Policy>> {
        let (percent, policy) = now.map_or((0, None), |(percent, policy)| (percent, Some(policy)));
        let before = std::mem::replace(&mut *self.policy.write(), policy);
        self.percent.store(percent, Ordering::Relaxed);
        before
    }
}

/// Whether a session is among so many of a hundred. Ids count up with time, so their bits are mixed first (the finisher of SplitMix64).
fn is_chosen(session: Id, percent: u8) -> bool {
    let mut mixed = session.0;
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    mixed % 100 < u64::from(percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_as_large_as_it_is_called() {
        let ids: Vec<Id> = (0..10_000).map(|_| Id::new()).collect();
        for percent in [0, 1, 10, 50, 99, 100] {
            let chosen = ids.iter().filter(|id| is_chosen(**id, percent)).count();
            let expected = usize::from(percent) * ids.len() / 100;
            assert!(
                chosen.abs_diff(expected) <= 200,
                "{percent} %: {chosen} of {}",
                ids.len()
            );
            if percent == 0 || percent == 100 {
                assert_eq!(chosen, expected);
            }
        }
    }

    #[test]
    fn who_is_chosen_stays_so_when_the_share_grows() {
        for id in (0..1_000).map(|_| Id::new()) {
            let first = (0..=100).find(|percent| is_chosen(id, *percent));
            assert!((first.unwrap_or(101)..=100).all(|percent| is_chosen(id, percent)));
        }
    }
}
