//! Certificates and keys of TLS: who the server is, and which client may have which export.
//!
//! Keys stay in this process. A guest sees a disk, never how it is reached.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection};
use sha2::{Digest, Sha256};

/// Files with what TLS needs, in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of authorities: a server's must be signed by one of them, and a client's likewise. For a client without this, the
    /// host's; for a server without this, clients need no certificate.
    pub ca: Option<PathBuf>,
    /// The own certificate, with the chain up to the authority behind it.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// The name that the server's certificate must have, where it is not the host's of the address.
    pub server_name: Option<String>,
}

/// What a client uses for TLS.
#[derive(Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    server_name: Option<String>,
}

/// What a server uses for TLS.
#[derive(Clone)]
pub struct TlsServer {
    config: Arc<ServerConfig>,
}

impl TlsClient {
    /// Reads the files.
    ///
    /// # Errors
    /// The host's, and those of the contents, naming the file.
    pub fn new(files: &TlsFiles) -> io::Result<Self> {
        let roots = match &files.ca {
            Some(ca) => roots(ca)?,
            None => host_roots()?,
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots);
        let config = match own(files)? {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|e| bad(files, e))?,
            None => builder.with_no_client_auth(),
        };
        Ok(TlsClient { config: Arc::new(config), server_name: files.server_name.clone() })
    }

    /// A connection to the server called `host` by the address.
    pub(super) fn connection(&self, host: &str) -> io::Result<Connection> {
        let name = self.server_name.as_deref().unwrap_or(host).to_owned();
        let name = ServerName::try_from(name.clone())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("`{name}` is no name of a server")))?;
        ClientConnection::new(self.config.clone(), name).map(Connection::from).map_err(io::Error::other)
    }
}

impl std::fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsClient")
    }
}

impl TlsServer {
    /// Reads the files. A certificate and its key are needed; with `ca`, clients need a certificate too.
    ///
    /// # Errors
    /// As [`TlsClient::new`].
    pub fn new(files: &TlsFiles) -> io::Result<Self> {
        let missing = || io::Error::new(io::ErrorKind::InvalidInput, "a server needs a certificate and its key");
        let (chain, key) = own(files)?.ok_or_else(missing)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        let builder = match &files.ca {
            Some(ca) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca)?), provider);
                builder.with_client_cert_verifier(verifier.build().map_err(io::Error::other)?)
            }
            None => builder.with_no_client_auth(),
        };
        let config = builder.with_single_cert(chain, key).map_err(|e| bad(files, e))?;
        Ok(TlsServer { config: Arc::new(config) })
    }

    pub(super) fn connection(&self) -> io::Result<Connection> {
        ServerConnection::new(self.config.clone()).map(Connection::from).map_err(io::Error::other)
    }
}

/// Whether the certificate `peer` is one of those that `allowed` names: by a DNS name in it (RFC 6125), or as `sha256:` with the
/// fingerprint in hexadecimal digits.
pub(super) fn is_allowed(peer: &[u8], allowed: &[String]) -> bool {
    let peer = CertificateDer::from(peer);
    let Ok(certificate) = webpki::EndEntityCert::try_from(&peer) else { return false };
    let fingerprint: String = Sha256::digest(&peer).iter().map(|b| format!("{b:02x}")).collect();
    allowed.iter().any(|name| match name.strip_prefix("sha256:") {
        Some(hex) => hex.replace(':', "").eq_ignore_ascii_case(&fingerprint),
        None => ServerName::try_from(name.as_str())
            .is_ok_and(|name| certificate.verify_is_valid_for_subject_name(&name).is_ok()),
    })
}

fn roots(path: &Path) -> io::Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store.add(certificate).map_err(|e| in_file(path, e))?;
    }
    Ok(store)
}

/// The authorities that the host trusts.
fn host_roots() -> io::Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    store.add_parsable_certificates(found.certs);
    if store.is_empty() {
        let what = "this host trusts no authority; name the one that signed the server's certificate";
        return Err(io::Error::new(io::ErrorKind::NotFound, what));
    }
    Ok(store)
}

type Own = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn own(files: &TlsFiles) -> io::Result<Option<Own>> {
    let (cert, key) = match (&files.cert, &files.key) {
        (None, None) => return Ok(None),
        (Some(cert), Some(key)) => (cert, key),
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "a certificate and its key go together")),
    };
    if std::fs::metadata(key).map_err(|e| in_file(key, e))?.mode() & 0o007 != 0 {
        let what = format!("everybody may read the key {}; chmod 600 it", key.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|e| in_file(key, e))?;
    Ok(Some((certificates(cert)?, private)))
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_file_iter(path).map_err(|e| in_file(path, e))?;
    let all = all.collect::<Result<Vec<_>, _>>().map_err(|e| in_file(path, e))?;
    if all.is_empty() {
        return Err(in_file(path, "there is no certificate in it"));
    }
    Ok(all)
}

fn bad(files: &TlsFiles, e: rustls::Error) -> io::Error {
    in_file(files.cert.as_deref().unwrap_or(Path::new("certificate")), e)
}

fn in_file(path: &Path, e: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{}: {e}", path.display()))
}
