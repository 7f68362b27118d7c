//! Connections that have not yet made a call with good credentials. They are few: when there are
//! too many, the oldest has to go, so whoever is quick with good credentials gets in whatever
//! slow strangers do.

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::oneshot;

/// Strangers at once.
const MAX: usize = 256;
/// Strangers at once from one address.
const MAX_PER_ADDRESS: usize = 64;

struct Entry {
    id: u64,
    address: IpAddr,
    evict: oneshot::Sender<()>,
}

#[derive(Default)]
struct Books {
    entries: VecDeque<Entry>,
    next_id: u64,
}

/// All strangers; cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Strangers(Arc<Mutex<Books>>);

/// A stranger's place; dropping it gives it back.
pub(super) struct Place {
    id: u64,
    strangers: Strangers,
}

impl Strangers {
    /// Gives a place, taking the oldest one's where none is free. The receiver gets `Ok` when the
    /// place was taken away, and `Err` when it was given back.
    pub(super) fn admit(&self, address: IpAddr) -> (Place, oneshot::Receiver<()>) {
        let mut books = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_address = books.entries.iter().filter(|entry| entry.address == address).count();
        let oldest = match books.entries.len() {
            _ if of_address >= MAX_PER_ADDRESS => books.entries.iter().position(|e| e.address == address),
            MAX.. => Some(0),
            _ => None,
        };
        if let Some(evicted) = oldest.and_then(|at| books.entries.remove(at)) {
            let _ = evicted.evict.send(());
        }
        let (evict, evicted) = oneshot::channel();
        let id = books.next_id;
        books.next_id += 1;
        books.entries.push_back(Entry { id, address, evict });
        (Place { id, strangers: self.clone() }, evicted)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut books = self.strangers.0.lock().unwrap_or_else(PoisonError::into_inner);
        books.entries.retain(|entry| entry.id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_of_a_crowded_address_goes_and_other_addresses_stay() {
        let strangers = Strangers::default();
        let mut other = strangers.admit([10, 0, 0, 2].into());
        let mut crowd: Vec<_> =
            (0..=MAX_PER_ADDRESS).map(|_| strangers.admit([10, 0, 0, 1].into())).collect();
        assert_eq!(crowd[0].1.try_recv(), Ok(()));
        assert_eq!(crowd[1].1.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        assert_eq!(other.1.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        drop(other.0);
        assert_eq!(other.1.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }

    #[test]
    fn many_addresses_have_a_common_bound() {
        let strangers = Strangers::default();
        let all: Vec<_> = (0..1000u32).map(|n| strangers.admit(n.to_be_bytes().into())).collect();
        assert_eq!(strangers.0.lock().unwrap().entries.len(), MAX);
        drop(all);
        assert!(strangers.0.lock().unwrap().entries.is_empty());
    }
}
