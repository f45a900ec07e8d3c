//! A table of what was begun and is soon forgotten: bounded in time and in number.

use std::collections::{HashMap, VecDeque};

/// Values by secret keys. Each is forgotten some time after it was put, or when there are too many.
#[derive(Debug)]
pub(crate) struct Expiring<V> {
    lifetime_ms: u64,
    most: usize,
    entries: HashMap<String, Entry<V>>,
    /// Keys in the order in which they were put. Those that were taken stay until they are due.
    order: VecDeque<(u64, String)>,
}

#[derive(Debug)]
struct Entry<V> {
    put_ms: u64,
    value: V,
}

impl<V> Expiring<V> {
    /// An empty table of at most `most` values.
    pub(crate) fn new(lifetime_ms: u64, most: usize) -> Self {
        Self {
            lifetime_ms,
            most,
            entries: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// Puts a value under a new key. If there are too many now, the oldest goes.
    pub(crate) fn put(&mut self, key: String, value: V, now_ms: u64) {
        self.order.push_back((now_ms, key.clone()));
        let entry = Entry {
            put_ms: now_ms,
            value,
        };
        self.entries.insert(key, entry);
        while let Some((put_ms, oldest)) = self.order.front() {
            let is_due = now_ms.saturating_sub(*put_ms) >= self.lifetime_ms;
            if !is_due && self.order.len() <= self.most {
                break;
            }
            self.entries.remove(oldest);
            self.order.pop_front();
        }
    }

    /// The value under a key, to be read or changed.
    pub(crate) fn get(&mut self, key: &str, now_ms: u64) -> Option<&mut V> {
        let entry = self.entries.get_mut(key)?;
        let is_due = now_ms.saturating_sub(entry.put_ms) >= self.lifetime_ms;
        (!is_due).then_some(&mut entry.value)
    }

    /// Takes the value under a key out.
    pub(crate) fn take(&mut self, key: &str, now_ms: u64) -> Option<V> {
        let entry = self.entries.remove(key)?;
        let is_due = now_ms.saturating_sub(entry.put_ms) >= self.lifetime_ms;
        (!is_due).then_some(entry.value)
    }
}

#[cfg(test)]
mod tests {
    use super::Expiring;

    #[test]
    fn a_value_is_forgotten_when_its_time_is_over() {
        let mut table = Expiring::new(10, 100);
        table.put("a".to_owned(), 1, 0);
        table.put("b".to_owned(), 2, 5);
        assert_eq!(table.get("a", 9), Some(&mut 1));
        assert_eq!(table.get("a", 10), None);
        assert_eq!(table.take("b", 14), Some(2));
        assert_eq!(table.take("b", 14), None);
        table.put("c".to_owned(), 3, 20);
        assert_eq!((table.entries.len(), table.order.len()), (1, 1));
        assert_eq!(table.take("c", 30), None);
    }

    #[test]
    fn when_there_are_too_many_the_oldest_goes() {
        let mut table = Expiring::new(10, 3);
        for (number, key) in ["a", "b", "c", "d"].into_iter().enumerate() {
            table.put(key.to_owned(), number, 0);
        }
        assert_eq!(table.get("a", 0), None);
        assert_eq!(table.get("d", 0), Some(&mut 3));
        for _ in 0..10 {
            table.put("x".to_owned(), 0, 0);
            table.take("x", 0);
        }
        assert!(table.order.len() <= 3, "taken keys don't pile up");
    }
}
