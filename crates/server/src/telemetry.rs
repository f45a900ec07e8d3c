//! Logs and figures of the running program.

use std::{
    io::{self, IsTerminal as _},
    sync::OnceLock,
};

use metrics::Unit;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{
    EnvFilter, Layer as _, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::{
    config::{LogFormat, LogSection},
    traces::TraceLayer,
};

/// What took how long is counted in these classes, in seconds.
const BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
];

/// Sends the log to standard error, and spans to the layer that traces them, if there is one. Does nothing if
/// something else was installed before.
pub(crate) fn install_log(config: &LogSection, traces: Option<TraceLayer>) {
    // The configuration was checked when it was read.
    let filter = EnvFilter::try_new(&config.filter).unwrap_or_default();
    let log = fmt::layer()
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    let log = match config.format {
        LogFormat::Text => log.with_filter(filter).boxed(),
        LogFormat::Json => log.json().flatten_event(true).with_filter(filter).boxed(),
    };
    let layers: Vec<_> = traces.into_iter().chain([log]).collect();
    let installed = tracing_subscriber::registry().with(layers).try_init();
    if installed.is_err() {
        tracing::debug!("a log was installed before");
    }
}

/// What kind of figure it is.
#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// All figures, with what they mean.
const FIGURES: &[(Kind, &str, Unit, &str)] = &[
    (
        Kind::Counter,
        "myelin_http_requests_total",
        Unit::Count,
        "Requests that were answered",
    ),
    (
        Kind::Histogram,
        "myelin_http_request_duration_seconds",
        Unit::Seconds,
        "How long requests took, up to the head of the answer",
    ),
    (
        Kind::Gauge,
        "myelin_http_requests_in_progress",
        Unit::Count,
        "Requests that are being answered",
    ),
    (
        Kind::Counter,
        "myelin_events_total",
        Unit::Count,
        "Events that were judged, by verdict",
    ),
    (
        Kind::Counter,
        "myelin_foreign_events_total",
        Unit::Count,
        "Events of other rooms than were asked about, in the answers of other servers",
    ),
    (
        Kind::Counter,
        "myelin_decisions_total",
        Unit::Count,
        "What came of asking what becomes of an event",
    ),
    (
        Kind::Gauge,
        "myelin_events_waiting",
        Unit::Count,
        "Acknowledged events of other servers that are to be judged",
    ),
    (
        Kind::Gauge,
        "myelin_resyncs_running",
        Unit::Count,
        "Partially joined rooms whose state is being completed",
    ),
    (
        Kind::Counter,
        "myelin_federation_requests_total",
        Unit::Count,
        "Requests to other servers, by endpoint and outcome",
    ),
    (
        Kind::Histogram,
        "myelin_federation_answer_seconds",
        Unit::Seconds,
        "How long other servers took to answer",
    ),
    (
        Kind::Counter,
        "myelin_federation_backoffs_total",
        Unit::Count,
        "How often a server that fails was left alone for a while",
    ),
    (
        Kind::Histogram,
        "myelin_storage_commit_seconds",
        Unit::Seconds,
        "How long commits took",
    ),
    (
        Kind::Histogram,
        "myelin_storage_commit_writes",
        Unit::Count,
        "How many writes shared a commit of SQLite",
    ),
    (
        Kind::Histogram,
        "myelin_storage_connection_wait_seconds",
        Unit::Seconds,
        "How long transactions waited for a connection to PostgreSQL",
    ),
    (
        Kind::Gauge,
        "myelin_queued",
        Unit::Count,
        "What waits in the database, by queue, up to 100,000 of each",
    ),
    (
        Kind::Gauge,
        "myelin_destinations",
        Unit::Count,
        "Other servers that are behind with what is sent to them, and to which requests fail",
    ),
    (
        Kind::Gauge,
        "myelin_cached_entries",
        Unit::Count,
        "What the caches of all rooms hold, and the rooms in memory, by cache",
    ),
    (
        Kind::Gauge,
        "myelin_cached_bytes",
        Unit::Bytes,
        "How much JSON the cached events have",
    ),
    (
        Kind::Counter,
        "myelin_trace_spans_total",
        Unit::Count,
        "Spans of traces that were exported or dropped, by outcome",
    ),
    (
        Kind::Gauge,
        "myelin_worker_last_success_timestamp_seconds",
        Unit::Seconds,
        "When work that is done again and again was last done",
    ),
    (
        Kind::Counter,
        "myelin_worker_failures_total",
        Unit::Count,
        "How often work that is done again and again failed",
    ),
];

fn describe() {
    for (kind, name, unit, meaning) in FIGURES.iter().copied() {
        match kind {
            Kind::Counter => metrics::describe_counter!(name, unit, meaning),
            Kind::Gauge => metrics::describe_gauge!(name, unit, meaning),
            Kind::Histogram => metrics::describe_histogram!(name, unit, meaning),
        }
    }
}

/// Where the process's figures are collected: one place for all servers in it. `None` if something
/// else collects them.
pub(crate) fn recorder() -> Option<&'static PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    let install = || {
        let builder = PrometheusBuilder::new().set_buckets(&BUCKETS).ok()?;
        let handle = builder.install_recorder().ok()?;
        describe();
        Some(handle)
    };
    HANDLE.get_or_init(install).as_ref()
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        fs,
        path::{Path, PathBuf},
    };

    use super::FIGURES;

    /// The Rust files below a directory, but for this one.
    fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && !path.ends_with(file!().rsplit('/').next().unwrap())
            {
                found.push(path);
            }
        }
    }

    #[test]
    fn every_figure_is_counted_somewhere_and_whatever_is_counted_is_described() {
        let mut files = Vec::new();
        for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap() {
            sources(&entry.unwrap().path().join("src"), &mut files);
        }
        let mut counted = BTreeSet::new();
        for file in files {
            let text = fs::read_to_string(file).unwrap();
            // Names of figures are the only texts of this form: in quotation marks, with a blank nowhere.
            let names = text.split('"').filter(|part| {
                let letters = |c: char| c.is_ascii_lowercase() || c == '_';
                part.starts_with("myelin_") && part.chars().all(letters)
            });
            counted.extend(names.map(str::to_owned));
        }
        let described = FIGURES.iter().map(|(_, name, _, _)| (*name).to_owned());
        assert_eq!(counted, described.collect());
    }

    #[test]
    fn operators_find_every_figure_in_the_documents_and_on_the_dashboard() {
        let page = include_str!("../../../docs/troubleshooting.md");
        let dashboard = include_str!("../../../docs/grafana.json");
        for (_, name, _, _) in FIGURES {
            assert!(page.contains(name), "{name}");
            assert!(dashboard.contains(name), "{name}");
        }
    }
}
