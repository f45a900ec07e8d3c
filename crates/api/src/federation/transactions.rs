//! Server-server API, "Transactions".

use axum::extract::State;
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
    let rooms = api.rooms();
    let answer = rooms
        .receive_transaction(&request.origin, &txn_id, &request.body)
        .await?;
    Ok(Json(answer))
}
