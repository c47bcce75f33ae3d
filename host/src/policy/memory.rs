//! Memory of guests: what one instance may hold, and what all instances of a plugin may hold together.
//!
//! Counted is what a guest asks for, memories and tables, when it asks. All of it is given back when the instance goes, however it ends. Where
//! the plugin's whole is used up, instances that wait for a call go first; if that is not enough, the guest's request fails, and the call with it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use wasmtime::ResourceLimiter;

/// Instances that only wait, and can be done without.
pub trait Spare: Send + Sync {
    /// Drops the one that waits longest. False if there is none.
    fn drop_one(&self) -> bool;
}

/// What all instances of a plugin's version hold together.
pub struct Account {
    held: AtomicUsize,
    most: usize,
    spare: Weak<dyn Spare>,
}

impl Account {
    pub fn new(most: usize, spare: Weak<dyn Spare>) -> Account {
        Account {
            held: AtomicUsize::new(0),
            most,
            spare,
        }
    }

    /// In bytes.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) -> bool {
        loop {
            let fits = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= self.most);
            if self
                .held
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
                .is_ok()
            {
                return true;
            }
            if !self.spare.upgrade().is_some_and(|spare| spare.drop_one()) {
                return false;
            }
        }
    }

    fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Which bound a guest ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// `memory_mib`, its own.
    Own,
    /// `max_memory_mib`, of all instances together.
    Together,
}

/// The bound on one guest's memories and tables.
pub struct Limiter {
    used: usize,
    most: usize,
    account: Arc<Account>,
    /// The guest asked for more than it may have.
    pub refused: Option<Refused>,
}

impl Limiter {
    pub fn new(most: usize, account: Arc<Account>) -> Limiter {
        Limiter {
            used: 0,
            most,
            account,
            refused: None,
        }
    }

    /// In bytes.
    pub fn used(&self) -> usize {
        self.used
    }

    fn grow(&mut self, bytes: usize) -> bool {
        if self.used.checked_add(bytes).is_none_or(|sum| sum > self.most) {
            self.refused = Some(Refused::Own);
        } else if !self.account.take(bytes) {
            self.refused = Some(Refused::Together);
        } else {
            self.used += bytes;
            return true;
        }
        false
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        self.account.give_back(self.used);
    }
}

/// Whether a memory or table may become so large by its own maximum. What may not never comes to be, and must not be counted: the engine refuses it
/// only after it has asked here.
fn within(desired: usize, most: Option<usize>) -> bool {
    most.is_none_or(|most| desired <= most)
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, most: Option<usize>) -> wasmtime::Result<bool> {
        Ok(within(desired, most) && self.grow(desired.saturating_sub(current)))
    }

    fn table_growing(&mut self, current: usize, desired: usize, most: Option<usize>) -> wasmtime::Result<bool> {
        let bytes = desired.saturating_sub(current).saturating_mul(size_of::<usize>());
        Ok(within(desired, most) && self.grow(bytes))
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    type Waiting = Mutex<Vec<Limiter>>;

    impl Spare for Waiting {
        fn drop_one(&self) -> bool {
            let one = self.lock().pop();
            one.is_some()
        }
    }

    fn account(most: usize) -> (Arc<Account>, Arc<Waiting>) {
        let waiting = Arc::new(Waiting::default());
        let spare: Weak<Waiting> = Arc::downgrade(&waiting);
        (Arc::new(Account::new(most, spare)), waiting)
    }

    #[test]
    fn one_has_its_bound_and_all_together_have_theirs() {
        let (account, _waiting) = account(100);
        let mut one = Limiter::new(60, account.clone());
        assert!(one.grow(60) && !one.grow(1));
        assert_eq!(one.refused, Some(Refused::Own));
        let mut other = Limiter::new(60, account.clone());
        assert!(other.grow(40) && !other.grow(1));
        assert_eq!(other.refused, Some(Refused::Together));
        assert!(!other.grow(usize::MAX));
        assert_eq!(other.refused, Some(Refused::Own));
        assert_eq!((one.used(), other.used(), account.held()), (60, 40, 100));
        drop(one);
        assert_eq!(account.held(), 40);
        assert!(other.grow(20));
        drop(other);
        assert_eq!(account.held(), 0);
    }

    #[test]
    fn those_that_wait_make_room_as_far_as_needed() {
        let (account, waiting) = account(100);
        for _ in 0..3 {
            let mut idle = Limiter::new(100, account.clone());
            assert!(idle.grow(30));
            waiting.lock().push(idle);
        }
        let mut busy = Limiter::new(100, account.clone());
        assert!(busy.grow(50));
        assert_eq!((waiting.lock().len(), account.held()), (1, 80));
        assert!(!busy.grow(51));
        assert_eq!(
            busy.refused,
            Some(Refused::Own),
            "for nothing that it could not have, others go"
        );
        assert_eq!(waiting.lock().len(), 1);
        assert!(busy.grow(50));
        assert_eq!((waiting.lock().len(), account.held()), (0, 100));
    }

    #[test]
    fn growing_is_counted_by_the_difference() {
        let (account, _waiting) = account(1 << 20);
        let mut guest = Limiter::new(1 << 20, account.clone());
        assert!(guest.memory_growing(0, 65_536, None).unwrap());
        assert!(guest.memory_growing(65_536, 131_072, None).unwrap());
        assert!(guest.table_growing(10, 20, None).unwrap());
        assert_eq!(account.held(), 131_072 + 10 * size_of::<usize>());
    }

    #[test]
    fn what_is_beyond_a_maximum_of_the_guest_itself_is_not_counted() {
        let (account, _waiting) = account(1 << 20);
        let mut guest = Limiter::new(1 << 20, account.clone());
        assert!(guest.memory_growing(0, 65_536, Some(65_536)).unwrap());
        for _ in 0..1_000 {
            assert!(!guest.memory_growing(65_536, 131_072, Some(65_536)).unwrap());
            assert!(!guest.table_growing(10, 20, Some(19)).unwrap());
        }
        assert_eq!((guest.used(), guest.refused), (65_536, None));
    }
}
