//! Public keys of other servers.

use crate::{Row, StorageError, Tx};

statements! {
    /// All that is known of some servers.
    KEYS_OF_SERVERS = "SELECT server, key_id, public_key, valid_until_ts, document_ts FROM server_keys
        WHERE server IN text_list($1)";
    /// An older document must not bring back what a newer one ended.
    PUT_KEY = "INSERT INTO server_keys (server, key_id, public_key, valid_until_ts, document_ts)
        VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (server, key_id) DO UPDATE SET public_key = excluded.public_key,
            valid_until_ts = excluded.valid_until_ts, document_ts = excluded.document_ts
        WHERE server_keys.document_ts <= excluded.document_ts";
}

/// A server's public key as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerKeyRow {
    /// The server.
    pub server: String,
    /// As in `ed25519:a_xYz1`.
    pub key_id: String,
    /// The 32 bytes of the key.
    pub public_key: Vec<u8>,
    /// The last moment (Unix milliseconds) at which a signature by the key counts.
    pub valid_until_ms: u64,
    /// Until when (Unix milliseconds) the document that said so was valid.
    pub document_ms: u64,
}

/// All known keys of `servers`.
///
/// # Errors
/// Any [`StorageError`].
pub async fn of_servers(
    tx: &mut Tx,
    servers: &[String],
) -> Result<Vec<ServerKeyRow>, StorageError> {
    let rows = tx.query(KEYS_OF_SERVERS, params![servers]).await?;
    rows.iter().map(read_key).collect()
}

/// Stores keys, except where a newer document was stored already.
///
/// # Errors
/// Any [`StorageError`].
pub async fn put(tx: &mut Tx, keys: &[ServerKeyRow]) -> Result<(), StorageError> {
    for key in keys {
        let values = params![
            &key.server,
            &key.key_id,
            &key.public_key,
            key.valid_until_ms,
            key.document_ms,
        ];
        tx.run(PUT_KEY, values).await?;
    }
    Ok(())
}

fn read_key(row: &Row) -> Result<ServerKeyRow, StorageError> {
    Ok(ServerKeyRow {
        server: row.text(0)?.to_owned(),
        key_id: row.text(1)?.to_owned(),
        public_key: row.blob(2)?.to_owned(),
        valid_until_ms: row.int(3)?.max(0).unsigned_abs(),
        document_ms: row.int(4)?.max(0).unsigned_abs(),
    })
}

#[cfg(test)]
mod tests {
    use super::{ServerKeyRow, of_servers, put};
    use crate::{Priority, StorageError, testing::on_each_engine};

    fn row(server: &str, key_id: &str, valid_until_ms: u64, document_ms: u64) -> ServerKeyRow {
        ServerKeyRow {
            server: server.to_owned(),
            key_id: key_id.to_owned(),
            public_key: vec![7; 32],
            valid_until_ms,
            document_ms,
        }
    }

    #[tokio::test]
    async fn the_newest_document_counts_for_each_key() {
        on_each_engine(|fresh| async move {
            let writes = [
                vec![
                    row("a", "1", 10, 10),
                    row("a", "2", 10, 10),
                    row("b", "1", 5, 5),
                ],
                // One key is renewed, one is not mentioned any more.
                vec![row("a", "1", 20, 20)],
                // Older, of equal age.
                vec![row("a", "1", 99, 19), row("b", "1", 4, 5)],
            ];
            let found = fresh
                .database
                .write::<_, StorageError, _>("keys", Priority::Bulk, move |tx| {
                    Box::pin(async move {
                        for keys in &writes {
                            put(tx, keys).await?;
                        }
                        of_servers(tx, &["a".to_owned(), "b".to_owned(), "c".to_owned()]).await
                    })
                })
                .await;
            let mut found = found.unwrap();
            found.sort_by(|a, b| (&a.server, &a.key_id).cmp(&(&b.server, &b.key_id)));
            let expected = [
                row("a", "1", 20, 20),
                row("a", "2", 10, 10),
                row("b", "1", 4, 5),
            ];
            assert_eq!(found, expected);
        })
        .await;
    }
}
