//! Public keys of other servers, and the documents in which they were published.

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
    /// All documents of some servers, the newest first.
    DOCUMENTS_OF_SERVERS = "SELECT server, document_ts, heard_ts, document FROM server_key_documents
        WHERE server IN text_list($1) ORDER BY server, document_ts DESC";
    PUT_DOCUMENT = "INSERT INTO server_key_documents (server, document_ts, heard_ts, document)
        VALUES ($1, $2, $3, $4)
        ON CONFLICT (server, document_ts) DO UPDATE SET heard_ts = excluded.heard_ts,
            document = excluded.document";
    /// Those that are not the newest word on any key, and all but the newest $2.
    DELETE_OLD_DOCUMENTS = "DELETE FROM server_key_documents WHERE server = $1 AND (
        document_ts NOT IN (SELECT document_ts FROM server_keys WHERE server = $1)
        OR document_ts <= (SELECT document_ts FROM server_key_documents WHERE server = $1
            ORDER BY document_ts DESC LIMIT 1 OFFSET $2))";
}

/// How many documents of one server are kept. More than one only if it retires keys without saying so.
const MOST_DOCUMENTS: i64 = 4;

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

/// A server's document as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyDocumentRow {
    /// The server.
    pub server: String,
    /// Until when (Unix milliseconds) it is valid: the same as [`ServerKeyRow::document_ms`] of its keys.
    pub document_ms: u64,
    /// When (Unix milliseconds) it was heard.
    pub heard_ms: u64,
    /// Canonical JSON, with the server's signature.
    pub document: String,
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

/// The documents of `servers`, the newest of each first.
///
/// # Errors
/// Any [`StorageError`].
pub async fn documents_of_servers(
    tx: &mut Tx,
    servers: &[String],
) -> Result<Vec<KeyDocumentRow>, StorageError> {
    let rows = tx.query(DOCUMENTS_OF_SERVERS, params![servers]).await?;
    rows.iter().map(read_document).collect()
}

/// Stores documents whose keys are stored already, and forgets those that are not needed any more: what
/// stays is the newest that has each key.
///
/// # Errors
/// Any [`StorageError`].
pub async fn put_documents(tx: &mut Tx, documents: &[KeyDocumentRow]) -> Result<(), StorageError> {
    for row in documents {
        let values = params![
            &row.server,
            row.document_ms,
            row.heard_ms,
            row.document.as_str()
        ];
        tx.run(PUT_DOCUMENT, values).await?;
        let values = params![&row.server, MOST_DOCUMENTS];
        tx.run(DELETE_OLD_DOCUMENTS, values).await?;
    }
    Ok(())
}

fn read_document(row: &Row) -> Result<KeyDocumentRow, StorageError> {
    Ok(KeyDocumentRow {
        server: row.text(0)?.to_owned(),
        document_ms: row.int(1)?.max(0).unsigned_abs(),
        heard_ms: row.int(2)?.max(0).unsigned_abs(),
        document: row.text(3)?.to_owned(),
    })
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
    use super::{
        KeyDocumentRow, ServerKeyRow, documents_of_servers, of_servers, put, put_documents,
    };
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

    #[tokio::test]
    async fn of_a_servers_documents_the_newest_with_each_key_stays_and_no_more_than_four() {
        on_each_engine(|fresh| async move {
            let document = |server: &str, document_ms| KeyDocumentRow {
                server: server.to_owned(),
                document_ms,
                heard_ms: 1,
                document: format!("{{\"at\":{document_ms}}}"),
            };
            let store = |keys: Vec<ServerKeyRow>, documents: Vec<KeyDocumentRow>| {
                let database = fresh.database.clone();
                async move {
                    let stored = database
                        .write::<_, StorageError, _>("keys", Priority::Bulk, move |tx| {
                            Box::pin(async move {
                                put(tx, &keys).await?;
                                put_documents(tx, &documents).await?;
                                documents_of_servers(tx, &["a".to_owned(), "c".to_owned()]).await
                            })
                        })
                        .await
                        .unwrap();
                    stored.iter().map(|row| row.document_ms).collect::<Vec<_>>()
                }
            };
            let both = vec![row("a", "1", 10, 10), row("a", "2", 10, 10)];
            let others = vec![document("a", 10), document("b", 10)];
            assert_eq!(store(both, others).await, [10]);
            // The second key is not in it: the first document is still the last word on it.
            let one = vec![row("a", "1", 20, 20)];
            assert_eq!(store(one, vec![document("a", 20)]).await, [20, 10]);
            // An older one says nothing new.
            let older = vec![row("a", "1", 15, 15)];
            assert_eq!(store(older, vec![document("a", 15)]).await, [20, 10]);
            let both = vec![row("a", "1", 30, 30), row("a", "2", 30, 30)];
            assert_eq!(store(both, vec![document("a", 30)]).await, [30]);
            // The same one again, heard later.
            let again = vec![document("a", 30)];
            assert_eq!(store(Vec::new(), again).await, [30]);
            // A new key every time.
            for number in 31..40 {
                let key = vec![row("a", &number.to_string(), number, number)];
                store(key, vec![document("a", number)]).await;
            }
            assert_eq!(store(Vec::new(), Vec::new()).await, [39, 38, 37, 36]);
        })
        .await;
    }
}
