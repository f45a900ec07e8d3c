//! Work that several want at once and one does.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;

/// What is under way, by key. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Flights<K: Eq + Hash>(Arc<Mutex<HashMap<K, watch::Sender<()>>>>);

impl<K: Eq + Hash> Default for Flights<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// Waits for the end of some work.
#[derive(Clone, Debug)]
pub(crate) struct Arrival(watch::Receiver<()>);

impl Arrival {
    /// Returns when the work has ended, whether or not it succeeded: look where it leaves results.
    pub(crate) async fn wait(mut self) {
        // Nothing is ever sent: the senders are dropped with the landing.
        while self.0.changed().await.is_ok() {}
    }
}

/// The duty to do some work. Dropping it ends the wait of all others.
#[derive(Debug)]
pub(crate) struct Landing<K: Eq + Hash + Clone> {
    flights: Flights<K>,
    key: K,
    _sender: watch::Sender<()>,
}

impl<K: Eq + Hash + Clone> Flights<K> {
    /// Joins the work on `key`. Who gets a [`Landing`] is the one who has to do it.
    pub(crate) fn join(&self, key: &K) -> (Arrival, Option<Landing<K>>) {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = flights.get(key) {
            return (Arrival(sender.subscribe()), None);
        }
        let (sender, receiver) = watch::channel(());
        flights.insert(key.clone(), sender.clone());
        let landing = Landing {
            flights: self.clone(),
            key: key.clone(),
            _sender: sender,
        };
        (Arrival(receiver), Some(landing))
    }

    /// How many have joined the work on `key`.
    #[cfg(test)]
    pub(crate) fn joined(&self, key: &K) -> usize {
        let flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        flights.get(key).map_or(0, watch::Sender::receiver_count)
    }
}

impl<K: Eq + Hash + Clone> Drop for Landing<K> {
    fn drop(&mut self) {
        let flights = self.flights.0.lock();
        flights
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::Flights;

    #[tokio::test]
    async fn one_works_and_all_wait() {
        let flights = Flights::default();
        let (first, landing) = flights.join(&"key");
        let (second, none) = flights.join(&"key");
        assert!(landing.is_some() && none.is_none());
        let (_, other) = flights.join(&"other");
        assert!(other.is_some());
        drop(landing);
        first.wait().await;
        second.wait().await;
        assert!(flights.join(&"key").1.is_some());
    }
}
