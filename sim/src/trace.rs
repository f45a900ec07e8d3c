//! What happened in a simulation, as one number: every byte that was delivered, every commit and every
//! verdict, each with its time. Two runs that did the same have the same number.
//!
//! Commits and verdicts are taken from the figures that the product counts anyway.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    hash::Hasher as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use myelin_env::Clock;
use siphasher::sip::SipHasher13;

/// The figure that counts what came of deciding about events.
const OUTCOMES: &str = "myelin_decisions_total";

/// The beginning of the header that shows the machine's own time.
const DATE: &[u8] = b"\r\ndate: ";

/// How an answer begins, which alone has such a header.
const ANSWER: &[u8] = b"HTTP/1.1 ";

/// Of each message so many bytes can be read.
const LONGEST_SHOWN: usize = 6_000;

/// The header is found within so many bytes.
const LONGEST_HEAD: usize = 1_000;

/// The length of such a header's value (RFC 9110, section 5.6.7).
const DATE_LENGTH: usize = 29;

/// A trace that is being written. Clones write the same one.
#[derive(Clone)]
pub struct Trace(Arc<Mutex<Inner>>);

struct Inner {
    clock: Clock,
    hasher: SipHasher13,
    entries: u64,
    counted: BTreeMap<String, u64>,
    /// The entries as text, if somebody wants to read them.
    text: Option<String>,
}

impl Trace {
    /// An empty trace. With `readable` its entries can be read afterwards.
    #[must_use]
    pub fn new(clock: Clock, readable: bool) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            clock,
            hasher: SipHasher13::new(),
            entries: 0,
            counted: BTreeMap::new(),
            text: readable.then(String::new),
        })))
    }

    /// Notes that bytes were sent.
    pub fn message(&self, from: &str, to: &str, bytes: &[u8]) {
        let bytes = without_dates(bytes);
        let mut inner = self.lock();
        if inner.text.is_some() {
            let shown =
                String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST_SHOWN)]).into_owned();
            inner.note(&format!("{from} > {to}: {shown:?}"));
        } else {
            inner.note(&format!("{from} > {to}"));
        }
        inner.hasher.write(&bytes);
    }

    /// Notes something else.
    pub fn note(&self, what: &str) {
        self.lock().note(what);
    }

    /// Counts something that is to be printed.
    pub fn count(&self, what: &str) {
        *self.lock().counted.entry(what.to_owned()).or_default() += 1;
    }

    /// The number that stands for everything so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.lock().hasher.finish()
    }

    /// What was counted, by name.
    #[must_use]
    pub fn counted(&self) -> BTreeMap<String, u64> {
        self.lock().counted.clone()
    }

    /// The entries, if the trace is readable.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        self.lock().text.clone()
    }

    fn figure(&self, name: &str, value: f64) {
        let mut inner = self.lock();
        inner.note(&format!("{name} {value}"));
        if let Some(outcome) = name.strip_prefix(OUTCOMES) {
            let counted = inner.counted.entry(format!("decided:{outcome}"));
            *counted.or_default() += value as u64;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn note(&mut self, what: &str) {
        let now = self.clock.instant();
        let now = format!("{now:?}");
        self.entries += 1;
        self.hasher.write(now.as_bytes());
        self.hasher.write(what.as_bytes());
        if let Some(text) = &mut self.text {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{now} {what}");
        }
    }
}

/// The same bytes with the times of the machine blotted out.
fn without_dates(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if !bytes.starts_with(ANSWER) {
        return bytes;
    }
    let head = bytes.len().min(LONGEST_HEAD);
    let found = bytes[..head]
        .windows(DATE.len())
        .position(|window| window == DATE);
    if let Some(at) = found {
        let start = at + DATE.len();
        let end = (start + DATE_LENGTH).min(bytes.len());
        bytes[start..end].fill(b'-');
    }
    bytes
}

/// One figure of the product.
struct Figure {
    name: String,
    trace: Trace,
}

impl CounterFn for Figure {
    fn increment(&self, value: u64) {
        self.trace.figure(&self.name, value as f64);
    }

    fn absolute(&self, value: u64) {
        self.trace.figure(&self.name, value as f64);
    }
}

impl GaugeFn for Figure {
    fn increment(&self, value: f64) {
        self.trace.figure(&self.name, value);
    }

    fn decrement(&self, value: f64) {
        self.trace.figure(&self.name, -value);
    }

    fn set(&self, value: f64) {
        self.trace.figure(&self.name, value);
    }
}

impl HistogramFn for Figure {
    fn record(&self, value: f64) {
        self.trace.figure(&self.name, value);
    }
}

impl Trace {
    fn of_figure(&self, key: &Key) -> Arc<Figure> {
        let labels: Vec<&str> = key.labels().map(metrics::Label::value).collect();
        Arc::new(Figure {
            name: format!("{} {}", key.name(), labels.join(" ")),
            trace: self.clone(),
        })
    }
}

impl Recorder for Trace {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.of_figure(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.of_figure(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.of_figure(key))
    }
}
