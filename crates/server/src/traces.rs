//! Traces, which are exported to the operator's collector (OpenTelemetry's OTLP over HTTP).
//!
//! Nobody waits for a collector: spans that end go into a queue with a limit, and are dropped and counted where
//! it is full or an export fails.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use myelin_env::{CancellationToken, Env, Network, Random};
use myelin_federation::send_beside;
use opentelemetry::{
    Context,
    trace::{SpanId, TraceId, TracerProvider as _},
};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, SpanExporter as OtlpExporter, WithExportConfig as _,
    WithHttpConfig as _,
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{
        IdGenerator, Sampler, SdkTracerProvider, Span, SpanData, SpanExporter as _, SpanProcessor,
    },
};
use tokio::sync::{Mutex, mpsc};
use tracing::{Metadata, level_filters::LevelFilter};
use tracing_subscriber::{Layer, Registry, filter::FilterFn};

use crate::config::{CollectorAddress, Config};

/// How many spans that have ended wait to be exported; some 4 MB.
const QUEUE: usize = 4_096;

/// How many are exported at once.
const BATCH: usize = 512;

/// How long they are gathered.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest pause after a failure. It begins with [`PAUSE`], and is doubled each time.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How long an export may take.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the last exports may take when the server ends.
const END_TIMEOUT: Duration = Duration::from_millis(500);

/// What becomes of spans.
const SPANS: &str = "myelin_trace_spans_total";

/// The layer of the log that makes spans of traces.
pub(crate) type TraceLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Exports spans.
#[derive(Clone, Debug)]
pub(crate) struct Exporter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    env: Env,
    otlp: OtlpExporter,
    ended: Mutex<mpsc::Receiver<SpanData>>,
}

/// What the configuration asks for: what makes spans, and what exports them. `None` if it names no collector.
///
/// # Errors
/// If the exporter can't be set up.
pub(crate) fn set_up(
    config: &Config,
    env: &Env,
) -> Result<Option<(TraceLayer, Exporter)>, ExporterBuildError> {
    let Some(collector) = &config.traces.collector else {
        return Ok(None);
    };
    let resource = Resource::builder_empty()
        .with_service_name("myelin")
        .with_attribute(opentelemetry::KeyValue::new(
            "service.version",
            env!("CARGO_PKG_VERSION"),
        ))
        .with_attribute(opentelemetry::KeyValue::new(
            "service.instance.id",
            config.server_name.to_string(),
        ))
        .build();
    let mut otlp = OtlpExporter::builder()
        .with_http()
        .with_http_client(Collector {
            address: collector.clone(),
            network: env.network.clone(),
        })
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(collector.url("/v1/traces"))
        .build()?;
    otlp.set_resource(&resource);
    let (queue, ended) = mpsc::channel(QUEUE);
    let ratio = Sampler::TraceIdRatioBased(config.traces.sample_ratio.get());
    let provider = SdkTracerProvider::builder()
        .with_resource(resource)
        .with_id_generator(Ids(env.random.clone()))
        .with_sampler(Sampler::ParentBased(Box::new(ratio)))
        .with_span_processor(Queue(queue))
        .build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("myelin"))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_filter(FilterFn::new(is_traced).with_max_level_hint(LevelFilter::DEBUG))
        .boxed();
    let exporter = Exporter(Arc::new(Inner {
        env: env.clone(),
        otlp,
        ended: Mutex::new(ended),
    }));
    Ok(Some((layer, exporter)))
}

/// Traces consist of this program's spans, except those of tasks: a trace begins with a request, and not with
/// the connection on which it came.
fn is_traced(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.target().starts_with("myelin") && metadata.name() != "task"
}

/// Where IDs of traces and spans come from. They are no secrets.
#[derive(Debug)]
struct Ids(Random);

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        let mut id = [0; 16];
        self.0.fill(&mut id);
        TraceId::from_bytes(id)
    }

    fn new_span_id(&self) -> SpanId {
        SpanId::from_bytes(self.0.u64().to_be_bytes())
    }
}

/// The way to the collector.
#[derive(Debug)]
struct Collector {
    address: CollectorAddress,
    network: Network,
}

impl HttpClient for Collector {
    /// Whoever calls this sees to it that it ends in time.
    fn send_bytes<'s, 'f>(
        &'s self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'f>>
    where
        's: 'f,
        Self: 'f,
    {
        let CollectorAddress { host, port } = &self.address;
        Box::pin(send_beside(&self.network, (host, *port), request))
    }
}

/// Takes spans when they end.
#[derive(Debug)]
struct Queue(mpsc::Sender<SpanData>);

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.0.try_send(span).is_err() {
            count("queue full", 1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

fn count(outcome: &'static str, spans: usize) {
    metrics::counter!(SPANS, "outcome" => outcome).increment(spans as u64);
}

impl Exporter {
    /// Exports what has ended, again and again, until the server stops.
    pub(crate) fn start(&self) {
        let exporter = self.clone();
        let tasks = &self.0.env.tasks;
        // It is tracked; nobody waits for it.
        drop(tasks.spawn("export traces", async move { exporter.run().await }));
    }

    async fn run(&self) {
        let stopping = self.0.env.tasks.stopping();
        let mut ended = self.0.ended.lock().await;
        let mut pause = PAUSE;
        loop {
            let gathering = self.0.env.clock.sleep(pause);
            if stopping.run_until_cancelled(gathering).await.is_none() {
                return;
            }
            pause = match self.export_all(&mut ended, &stopping).await {
                Ok(()) => PAUSE,
                Err(why) => {
                    let longer = (pause * 2).min(LONGEST_PAUSE);
                    tracing::warn!(%why, pause_s = longer.as_secs(), "traces can't be exported");
                    longer
                }
            };
        }
    }

    /// Exports what has ended until now, or until the server stops.
    async fn export_all(
        &self,
        ended: &mut mpsc::Receiver<SpanData>,
        stopping: &CancellationToken,
    ) -> Result<(), String> {
        loop {
            let batch = take(ended);
            if batch.is_empty() {
                return Ok(());
            }
            match stopping.run_until_cancelled(self.export(batch)).await {
                Some(exported) => exported?,
                // What waits behind it is exported at the end.
                None => return Ok(()),
            }
        }
    }

    /// Exports some spans. What the collector doesn't take is not sent again.
    async fn export(&self, batch: Vec<SpanData>) -> Result<(), String> {
        let spans = batch.len();
        let exporting = self.0.otlp.export(batch);
        let exported = match self.0.env.clock.timeout(EXPORT_TIMEOUT, exporting).await {
            Ok(exported) => exported.map_err(|error| error.to_string()),
            Err(_) => Err("the collector doesn't answer in time".to_owned()),
        };
        let outcome = if exported.is_ok() {
            "exported"
        } else {
            "export failed"
        };
        count(outcome, spans);
        exported
    }

    /// Exports what ended while the server stopped, within half a second.
    pub(crate) async fn finish(&self) {
        let finishing = async {
            let mut ended = self.0.ended.lock().await;
            self.export_all(&mut ended, &CancellationToken::new()).await
        };
        match self.0.env.clock.timeout(END_TIMEOUT, finishing).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => tracing::warn!(%why, "the last traces can't be exported"),
            Err(_) => tracing::warn!("the last traces are not exported in time"),
        }
    }
}

/// What has ended, as far as it is exported at once.
fn take(ended: &mut mpsc::Receiver<SpanData>) -> Vec<SpanData> {
    let mut batch = Vec::new();
    while batch.len() < BATCH
        && let Ok(span) = ended.try_recv()
    {
        batch.push(span);
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::{QUEUE, Queue, take};
    use metrics_exporter_prometheus::PrometheusBuilder;
    use opentelemetry::trace::{Tracer as _, TracerProvider as _};
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tokio::sync::mpsc;

    #[test]
    fn spans_that_find_the_queue_full_are_dropped_and_counted() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let figures = recorder.handle();
        let (queue, mut ended) = mpsc::channel(QUEUE);
        let provider = SdkTracerProvider::builder().with_span_processor(Queue(queue));
        let tracer = provider.build().tracer("test");
        metrics::with_local_recorder(&recorder, || {
            for _ in 0..QUEUE + 3 {
                drop(tracer.start("span"));
            }
        });
        let mut waiting = 0;
        while let batch @ 1.. = take(&mut ended).len() {
            waiting += batch;
        }
        assert_eq!(waiting, QUEUE);
        let figures = figures.render();
        let dropped = r#"myelin_trace_spans_total{outcome="queue full"} 3"#;
        assert!(figures.contains(dropped), "{figures}");
    }
}
