//! Traces: what follows from one request, across tasks and beyond the moment.
//!
//! Spans are those of `tracing`. Where none are collected, nothing here does anything.

use std::future::Future;

use opentelemetry::{
    Context,
    trace::{FutureExt as _, SpanContext, TraceContextExt as _, WithContext},
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// A span's place in a trace. It may be kept for longer than the span lasts, and what follows from the span
/// later can be added to its trace.
#[derive(Clone, Debug)]
pub struct TracePoint(SpanContext);

impl TracePoint {
    /// Where a span is; `None` if it is not collected.
    #[must_use]
    pub fn of(span: &Span) -> Option<Self> {
        Self::in_context(&span.context())
    }

    /// Where the work that calls this is; `None` if it is not collected.
    #[must_use]
    pub fn current() -> Option<Self> {
        Self::in_context(&Context::current())
    }

    fn in_context(context: &Context) -> Option<Self> {
        let here = context.span().span_context().clone();
        here.is_sampled().then_some(Self(here))
    }

    /// Makes this the parent of a span that has not been entered.
    #[must_use]
    pub fn adopt(&self, span: Span) -> Span {
        let parent = Context::new().with_remote_span_context(self.0.clone());
        // It fails if the span isn't collected; then it needs no parent.
        span.set_parent(parent).ok();
        span
    }

    /// Lets a span, which belongs to another trace, name this as something that it has to do with.
    pub fn link_from(&self, span: &Span) {
        span.add_link(self.0.clone());
    }
}

/// Lets the spans of a future belong to the trace of whoever calls this.
pub(crate) fn carry_on<F: Future>(future: F) -> WithContext<F> {
    future.with_context(Context::current())
}
