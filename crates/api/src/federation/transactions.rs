//! Server-server API, "Transactions".

use axum::extract::State;
use myelin_federation::{Edu, ReceivedTransaction};
use myelin_users::DIRECT_TO_DEVICE;
use ruma::ServerName;
use serde_json::value::RawValue;

use crate::{
    Api, ApiError,
    admission::Signed,
    request::{Json, Path},
};

pub(crate) async fn send(
    State(api): State<Api>,
    Path(txn_id): Path<String>,
    request: Signed,
) -> Result<Json<Box<RawValue>>, ApiError> {
    let transaction = ReceivedTransaction::read(&request.body)?;
    let rooms = api.rooms();
    let taking = rooms.begin_taking(&request.origin, &txn_id).await?;
    // They don't wait for the events, and may come again with a repeated transaction.
    for edu in &transaction.edus {
        receive_edu(&api, &request.origin, edu).await?;
    }
    let answer = rooms.receive_transaction(&taking, transaction.pdus).await?;
    Ok(Json(answer))
}

/// An EDU that fails makes the transaction fail, so that it comes again. One that is not understood
/// doesn't.
async fn receive_edu(api: &Api, origin: &ServerName, edu: &Edu) -> Result<(), ApiError> {
    match edu.edu_type.as_str() {
        DIRECT_TO_DEVICE => api.users().receive_to_device(origin, &edu.content).await?,
        _ => api.rooms().receive_edu(origin, edu).await?,
    }
    Ok(())
}
