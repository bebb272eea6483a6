//! Which connections of one account are being asked new tokens for: at most one request each, which others wait for.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::rc::Rc;

use event_listener::Event as Signal;

use crate::ids::ConnectionId;

/// The requests of one account that are under way.
#[derive(Default)]
pub(crate) struct Flights(RefCell<BTreeMap<ConnectionId, Rc<Signal>>>);

/// A request that is under way. It ends on drop, so that nobody waits for one that panicked.
pub(crate) struct Flight<'a> {
    flights: &'a Flights,
    connection: ConnectionId,
}

impl Flights {
    /// The request of that connection that is under way; told when it ends.
    pub(crate) fn get(&self, connection: ConnectionId) -> Option<Rc<Signal>> {
        self.0.borrow().get(&connection).cloned()
    }

    /// Begins a request, unless one is under way.
    pub(crate) fn begin(&self, connection: ConnectionId) -> Option<Flight<'_>> {
        match self.0.borrow_mut().entry(connection) {
            Entry::Occupied(_) => None,
            Entry::Vacant(free) => {
                free.insert(Rc::default());
                Some(Flight { flights: self, connection })
            }
        }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        if let Some(ended) = self.flights.0.borrow_mut().remove(&self.connection) {
            ended.notify(usize::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_whoever_waits_hears_of_the_end() {
        let (flights, connection) = (Flights::default(), ConnectionId::from_bytes([1; 16]));
        let flight = flights.begin(connection).unwrap();
        assert!(flights.begin(connection).is_none());
        assert!(flights.begin(ConnectionId::from_bytes([2; 16])).is_some());
        let ended = flights.get(connection).unwrap().listen();
        drop(flight);
        futures_lite::future::block_on(ended);
        assert!(flights.get(connection).is_none());
    }
}
