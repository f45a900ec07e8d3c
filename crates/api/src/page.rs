//! What a person or a monitor sees of the server.

use axum::{
    extract::State,
    response::{Html, IntoResponse, Response},
};
use http::header;

use crate::{Api, ApiError};

/// A page that shows that the server lives.
pub(crate) async fn start(State(api): State<Api>) -> Html<String> {
    let name = api.users().server_name();
    Html(format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{name}</title>\n\
         <h1>{name}</h1>\n<p>This is a Matrix homeserver, run by Myelin {}. It works.</p>\n\
         <p>Use it with a Matrix client: give it this address as the homeserver.</p>\n</html>\n",
        env!("CARGO_PKG_VERSION")
    ))
}

/// Whether requests can be answered: for that, the database has to.
pub(crate) async fn health(State(api): State<Api>) -> Result<&'static str, ApiError> {
    api.users().check().await?;
    Ok("OK\n")
}

/// Figures in the format of Prometheus.
pub(crate) async fn metrics(State(api): State<Api>) -> Result<Response, ApiError> {
    let render = api
        .config()
        .metrics
        .as_ref()
        .ok_or_else(ApiError::unrecognized)?;
    let format = "text/plain; version=0.0.4; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, format)], render()).into_response())
}
