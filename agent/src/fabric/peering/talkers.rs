//! Who is linked just now, and how to say something to them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use capsule_proto::{
    Name,
    member::v1::{LinkMessage, RelayCall, RelayRequest, link_message::Body},
};
use tokio::sync::mpsc;

/// Messages on their way to one peer, beyond those that the stream itself buffers.
const BACKLOG: usize = 32;

struct Talker {
    id: u64,
    sender: mpsc::Sender<LinkMessage>,
}

#[derive(Default)]
struct Books {
    next: u64,
    talkers: HashMap<Name, Talker>,
}

/// All open links; cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Talkers(Arc<Mutex<Books>>);

/// One open link; dropping it closes it, unless a newer one has taken its place.
pub(super) struct Seat {
    name: Name,
    id: u64,
    talkers: Talkers,
}

impl Talkers {
    /// A new link to `name`; what is said to it arrives at the receiver, which ends when a newer link
    /// takes its place.
    pub(super) fn sit(&self, name: &Name) -> (Seat, mpsc::Receiver<LinkMessage>) {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let mut books = self.lock();
        books.next += 1;
        let id = books.next;
        books.talkers.insert(name.clone(), Talker { id, sender });
        (Seat { name: name.clone(), id, talkers: self.clone() }, receiver)
    }

    /// Asks a relay to forward between this capsule and `member`.
    pub(super) fn ask_relay(&self, relay: &Name, member: &Name) {
        self.say(relay, Body::RelayRequest(RelayRequest { member: member.to_string() }));
    }

    /// Tells a member that another one calls it by this relay.
    pub(super) fn tell_call(&self, member: &Name, caller: &Name) {
        self.say(member, Body::RelayCall(RelayCall { member: caller.to_string() }));
    }

    /// A link that is full or gone hears nothing; who asks asks again.
    fn say(&self, to: &Name, body: Body) {
        if let Some(talker) = self.lock().talkers.get(to) {
            let _ = talker.sender.try_send(LinkMessage { body: Some(body) });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut books = self.talkers.lock();
        if books.talkers.get(&self.name).is_some_and(|talker| talker.id == self.id) {
            books.talkers.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_newer_link_takes_the_place_of_an_older_one_and_keeps_it() {
        let (talkers, name): (_, Name) = (Talkers::default(), "nuc-1".parse().unwrap());
        let (old, mut old_heard) = talkers.sit(&name);
        let (new, mut new_heard) = talkers.sit(&name);
        assert_eq!(old_heard.recv().await, None);
        drop(old);
        talkers.ask_relay(&name, &"nuc-2".parse().unwrap());
        assert!(matches!(new_heard.recv().await.unwrap().body, Some(Body::RelayRequest(_))));
        drop(new);
        assert!(talkers.lock().talkers.is_empty());
    }
}
