//! What the caches of all rooms hold together, for figures.

/// What one cache holds. When it goes, so does its share of the figures.
#[derive(Debug)]
pub(crate) struct Held {
    cache: &'static str,
    entries: u64,
    bytes: u64,
}

impl Held {
    /// Nothing yet. `cache` says of which kind the cache is.
    pub(crate) fn new(cache: &'static str) -> Self {
        Self {
            cache,
            entries: 0,
            bytes: 0,
        }
    }

    /// One more entry, of which so many bytes are known.
    pub(crate) fn add(&mut self, bytes: usize) {
        self.set(self.entries + 1, self.bytes + bytes as u64);
    }

    /// One entry less.
    pub(crate) fn remove(&mut self, bytes: usize) {
        self.set(
            self.entries.saturating_sub(1),
            self.bytes.saturating_sub(bytes as u64),
        );
    }

    fn set(&mut self, entries: u64, bytes: u64) {
        let more = |now: u64, before: u64| now as f64 - before as f64;
        metrics::gauge!("myelin_cached_entries", "cache" => self.cache)
            .increment(more(entries, self.entries));
        if bytes != self.bytes {
            metrics::gauge!("myelin_cached_bytes", "cache" => self.cache)
                .increment(more(bytes, self.bytes));
        }
        (self.entries, self.bytes) = (entries, bytes);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0, 0);
    }
}
