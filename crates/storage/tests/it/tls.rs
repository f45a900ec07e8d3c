//! TLS to PostgreSQL.

use std::{env, fs};

use myelin_env::Env;
use myelin_storage::{
    Database, StorageError, params,
    testing::{OwnPostgres, POSTGRES_VARIABLE, PostgresDatabase},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio_postgres::NoTls;

use crate::assert_refused;

/// Whether the connection is encrypted that a URL leads to.
async fn is_encrypted(url: &str) -> Result<bool, StorageError> {
    let database = Database::open(&url.parse()?, &Env::real()).await?;
    let read = database.read("read", |tx| {
        Box::pin(async move {
            let select = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
            tx.query(select, params![]).await?[0].bool(0)
        })
    });
    let encrypted = read.await;
    database.close().await;
    encrypted
}

/// An authority and its certificate in PEM form.
fn authority() -> (Issuer<'static, KeyPair>, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), certificate)
}

/// Lets a server speak TLS from its next start on. The server itself writes the files: its key must be
/// its own, and it may run as another user.
async fn encrypt(server: &OwnPostgres, issuer: &Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    let (client, connection) = tokio_postgres::connect(&server.url, NoTls).await.unwrap();
    let setting = async move {
        for (file, text) in [
            ("server.crt", certificate.pem()),
            ("server.key", key.serialize_pem()),
        ] {
            let text = text.trim();
            let copy = format!(
                "COPY (SELECT unnest(string_to_array('{text}', E'\\n')))
                TO PROGRAM 'umask 077; cat > {file}'"
            );
            client.batch_execute(&copy).await.unwrap();
        }
        client
            .batch_execute("ALTER SYSTEM SET ssl = on")
            .await
            .unwrap();
        drop(client);
    };
    let ((), ended) = tokio::join!(setting, connection);
    ended.unwrap();
    server.kill();
    server.start_again();
}

#[tokio::test]
async fn the_url_says_how_the_connection_is_secured() {
    let Some(server) = OwnPostgres::start() else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let (issuer, ours) = authority();
    let (_, others) = authority();
    let files = [("ours.pem", ours), ("others.pem", others)].map(|(name, text)| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    });
    let [ours, others] = files;
    encrypt(&server, &issuer).await;
    let url = &server.url;
    let verified = |roots: &str| format!("{url}?sslmode=verify-full&sslrootcert={roots}");
    for (url, encrypted) in [
        (url.clone(), true),
        (format!("{url}?sslmode=disable"), false),
        (format!("{url}?sslmode=prefer"), true),
        (format!("{url}?sslmode=require"), true),
        (verified(&ours), true),
    ] {
        assert_eq!(is_encrypted(&url).await, Ok(encrypted), "{url}");
    }
    // Another authority, the platform's, and another name than the certificate's.
    let by_name = verified(&ours).replace("127.0.0.1", "localhost");
    for url in [
        verified(&others),
        format!("{url}?sslmode=verify-full"),
        by_name,
    ] {
        match is_encrypted(&url).await {
            Err(StorageError::Unavailable(why)) => {
                assert!(why.contains("invalid peer certificate"), "{url}: {why}");
            }
            other => panic!("{url}: {other:?}"),
        }
    }
    let missing = verified("/nowhere.pem");
    assert_refused(is_encrypted(&missing).await, &["sslrootcert /nowhere.pem"]);
}

#[tokio::test]
async fn a_server_without_tls_is_used_unless_that_was_required() {
    let Ok(server) = env::var(POSTGRES_VARIABLE) else {
        return;
    };
    let place = PostgresDatabase::create(&server).await;
    assert_eq!(is_encrypted(&place.url).await, Ok(false));
    for mode in ["require", "verify-full"] {
        let refused = is_encrypted(&format!("{}?sslmode={mode}", place.url)).await;
        assert!(
            matches!(&refused, Err(StorageError::Unavailable(why)) if why.contains("TLS")),
            "{refused:?}"
        );
    }
    place.remove().await;
}
