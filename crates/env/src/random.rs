//! Random numbers.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

/// A source of random numbers. Clones share it. The real one is fit for secrets.
#[derive(Clone)]
pub struct Random(Option<Arc<Mutex<StdRng>>>);

/// What [`Random::alphanumeric`] draws from.
const ALPHANUMERIC: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

impl Random {
    /// Cryptographically secure numbers, seeded by the operating system.
    #[must_use]
    pub fn real() -> Self {
        Self(None)
    }

    /// Numbers that follow from `seed` and the order of the calls.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(Some(Arc::new(Mutex::new(StdRng::seed_from_u64(seed)))))
    }

    /// Fills `bytes`.
    pub fn fill(&self, bytes: &mut [u8]) {
        self.with(|rng| rng.fill_bytes(bytes));
    }

    /// Any number.
    #[must_use]
    pub fn u64(&self) -> u64 {
        self.with(|rng| rng.next_u64())
    }

    /// A number less than `bound`, each as likely as any other; 0 if `bound` is 0.
    #[must_use]
    pub fn below(&self, bound: u64) -> u64 {
        if bound == 0 {
            return 0;
        }
        self.with(|rng| rng.random_range(0..bound))
    }

    /// `length` letters and digits of ASCII: 5.95 bits of entropy each.
    #[must_use]
    pub fn alphanumeric(&self, length: usize) -> String {
        self.with(|rng| {
            (0..length)
                .map(|_| char::from(ALPHANUMERIC[rng.random_range(0..ALPHANUMERIC.len())]))
                .collect()
        })
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this is where ambient randomness enters"
    )]
    fn with<T>(&self, draw: impl FnOnce(&mut dyn Rng) -> T) -> T {
        match &self.0 {
            None => draw(&mut rand::rng()),
            Some(seeded) => draw(&mut *seeded.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

impl fmt::Debug for Random {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self.0 {
            None => "Random::Real",
            Some(_) => "Random::Seeded",
        })
    }
}
