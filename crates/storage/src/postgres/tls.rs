//! TLS to a PostgreSQL server: what a URL asks for, and how it is done.

use std::{
    io,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::{
    Socket,
    config::SslMode,
    tls::{ChannelBinding, MakeTlsConnect, TlsConnect},
};
use tokio_rustls::TlsConnector;

use crate::{BoxFuture, StorageError};

/// What a URL says of TLS, in libpq's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Security {
    mode: SslMode,
    /// Whether the server has to prove its name.
    is_verified: bool,
    /// In place of the platform's roots.
    roots: Option<PathBuf>,
}

impl Security {
    /// Takes `sslmode` and `sslrootcert` out of a URL.
    ///
    /// # Errors
    /// [`StorageError::Refused`] if one of them has a value that is not supported.
    pub(crate) fn take(url: &str) -> Result<(String, Self), StorageError> {
        let mut security = Self {
            // As for libpq: encrypted if the server offers it.
            mode: SslMode::Prefer,
            is_verified: false,
            roots: None,
        };
        // A question mark in a password is written as %3F.
        let Some((place, query)) = url.split_once('?') else {
            return Ok((url.to_owned(), security));
        };
        let mut others = Vec::new();
        for option in query.split('&') {
            match option.split_once('=') {
                Some(("sslmode", mode)) => security.set_mode(mode)?,
                Some(("sslrootcert", path)) => security.roots = Some(decoded(path)?.into()),
                _ => others.push(option),
            }
        }
        if security.roots.is_some() && !security.is_verified {
            return Err(refused("sslrootcert is for sslmode=verify-full"));
        }
        let place = match others.as_slice() {
            [] => place.to_owned(),
            others => format!("{place}?{}", others.join("&")),
        };
        Ok((place, security))
    }

    fn set_mode(&mut self, mode: &str) -> Result<(), StorageError> {
        (self.mode, self.is_verified) = match mode {
            "disable" => (SslMode::Disable, false),
            "prefer" => (SslMode::Prefer, false),
            "require" => (SslMode::Require, false),
            "verify-full" => (SslMode::Require, true),
            other => {
                return Err(refused(&format!(
                    "sslmode is {other:?}, expected disable, prefer, require or verify-full"
                )));
            }
        };
        Ok(())
    }

    /// Whether to encrypt.
    pub(super) fn mode(&self) -> SslMode {
        self.mode
    }

    /// What encrypts.
    ///
    /// # Errors
    /// [`StorageError::Refused`] if `sslrootcert` can't be used.
    pub(super) fn connector(&self) -> Result<Connector, StorageError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let bug = |error: rustls::Error| StorageError::Bug(error.to_string());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(bug)?;
        let config = if self.is_verified {
            let roots = self.root_certificates()?;
            builder.with_root_certificates(roots).with_no_client_auth()
        } else {
            let anybody = Arc::new(Anybody(provider));
            builder
                .dangerous()
                .with_custom_certificate_verifier(anybody)
                .with_no_client_auth()
        };
        Ok(Connector(Arc::new(config)))
    }

    fn root_certificates(&self) -> Result<RootCertStore, StorageError> {
        let mut roots = RootCertStore::empty();
        let Some(path) = &self.roots else {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            return Ok(roots);
        };
        let failed = |why: String| refused(&format!("sslrootcert {}: {why}", path.display()));
        let certificates: Result<Vec<_>, _> =
            CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
        for certificate in certificates.map_err(|error| failed(error.to_string()))? {
            let added = roots.add(certificate);
            added.map_err(|error| failed(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(failed("there is no certificate in it".to_owned()));
        }
        Ok(roots)
    }
}

fn refused(why: &str) -> StorageError {
    StorageError::Refused(format!("the database URL is wrong: {why}"))
}

/// Takes the percent signs out of a value.
fn decoded(value: &str) -> Result<String, StorageError> {
    let decoded = percent_encoding::percent_decode_str(value).decode_utf8();
    let decoded = decoded.map_err(|_| refused("sslrootcert is no text"))?;
    Ok(decoded.into_owned())
}

/// Accepts every certificate: what is sent is hidden from those who only listen. It is what libpq does
/// unless the mode says `verify`.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Makes connections of PostgreSQL's client TLS ones.
#[derive(Clone)]
pub(super) struct Connector(Arc<ClientConfig>);

impl MakeTlsConnect<Socket> for Connector {
    type Stream = Secured;
    type TlsConnect = Handshake;
    type Error = rustls::pki_types::InvalidDnsNameError;

    fn make_tls_connect(&mut self, host: &str) -> Result<Handshake, Self::Error> {
        Ok(Handshake {
            tls: TlsConnector::from(Arc::clone(&self.0)),
            name: ServerName::try_from(host)?.to_owned(),
        })
    }
}

/// For one connection.
pub(super) struct Handshake {
    tls: TlsConnector,
    name: ServerName<'static>,
}

impl TlsConnect<Socket> for Handshake {
    type Stream = Secured;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Secured>>;

    fn connect(self, stream: Socket) -> Self::Future {
        Box::pin(async move {
            let secured = self.tls.connect(self.name, stream).await?;
            Ok(Secured(Box::new(secured)))
        })
    }
}

/// A connection over TLS.
pub(super) struct Secured(Box<tokio_rustls::client::TlsStream<Socket>>);

impl tokio_postgres::tls::TlsStream for Secured {
    /// The password is proven without being bound to the certificate.
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio_postgres::config::SslMode;

    use super::Security;

    #[test]
    fn what_a_url_says_of_tls_is_taken_out_of_it() {
        let cases = [
            ("postgres://h/d", "postgres://h/d", SslMode::Prefer, false),
            (
                "postgres://h/d?sslmode=disable",
                "postgres://h/d",
                SslMode::Disable,
                false,
            ),
            (
                "postgres://h/d?a=1&sslmode=require&b=2",
                "postgres://h/d?a=1&b=2",
                SslMode::Require,
                false,
            ),
            (
                "postgres://h/d?sslrootcert=%2Fa%20b.pem&sslmode=verify-full",
                "postgres://h/d",
                SslMode::Require,
                true,
            ),
        ];
        for (url, rest, mode, is_verified) in cases {
            let (place, security) = Security::take(url).unwrap();
            assert_eq!(place, rest);
            assert_eq!(
                (security.mode, security.is_verified),
                (mode, is_verified),
                "{url}"
            );
            let roots = security.roots.map(|path| path.display().to_string());
            assert_eq!(roots.as_deref(), is_verified.then_some("/a b.pem"));
        }
        for (url, expected) in [
            (
                "postgres://h/d?sslmode=verify-ca",
                "expected disable, prefer, require or verify-full",
            ),
            (
                "postgres://h/d?sslrootcert=x",
                "sslrootcert is for sslmode=verify-full",
            ),
        ] {
            let refused = Security::take(url).unwrap_err().to_string();
            assert!(refused.contains(expected), "{url}: {refused}");
        }
    }
}
