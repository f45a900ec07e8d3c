//! Whom to believe that it is who it says.

use std::{path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use crate::SetupError;

/// TLS that believes the platform's roots and those in `extra` (PEM files).
///
/// # Errors
/// If a file of `extra` can't be read, holds no certificate, or holds one that can't be a root.
pub(crate) fn client_config(extra: &[PathBuf]) -> Result<ClientConfig, SetupError> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "cannot read some of the platform's root certificates");
    }
    roots.add_parsable_certificates(native.certs);
    for path in extra {
        let failure = |why: String| SetupError::Certificates {
            path: path.display().to_string(),
            why,
        };
        let certificates: Result<Vec<_>, _> =
            CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
        let certificates = certificates.map_err(|error| failure(error.to_string()))?;
        if certificates.is_empty() {
            return Err(failure("there is none in it".to_owned()));
        }
        for certificate in certificates {
            let added = roots.add(certificate);
            added.map_err(|error| failure(error.to_string()))?;
        }
    }
    if roots.is_empty() {
        tracing::warn!("no root certificates at all: no other server can be reached");
    }
    let provider = aws_lc_rs::default_provider();
    // The first random byte costs 30 ms of gathering entropy: now, not in somebody's first join.
    provider
        .secure_random
        .fill(&mut [0])
        .map_err(|_| rustls::Error::FailedToGetRandomBytes)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
