//! TLS for both ends, with the operator's certificates and no others.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::error::{Class, Error, Result};

/// The most bytes of a file of certificates: a whole system's authorities are some 250 KiB.
const FILE_LIMIT: u64 = 4 << 20;

/// A certificate with those between it and its authority, and its key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair<'a> {
    pub(super) certificate: &'a Path,
    pub(super) key: &'a Path,
}

/// What a receiver shows, and whom it asks for a certificate: only those whom `client_ca` knows may speak then.
pub(super) fn server(own: Pair<'_>, client_ca: Option<&Path>) -> Result<Arc<ServerConfig>> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(unusable)?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(authorities(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
            builder.with_client_cert_verifier(verifier.map_err(|cause| bad(path, "certificates").because(cause))?)
        }
    };
    let (chain, key) = own.read()?;
    let config = builder.with_single_cert(chain, key).map_err(|cause| own.does_not_fit().because(cause))?;
    Ok(Arc::new(config))
}

/// Whom a donor believes, and what it shows when it is asked.
pub(super) fn client(ca: &Path, own: Option<Pair<'_>>) -> Result<Arc<ClientConfig>> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(unusable)?.with_root_certificates(authorities(ca)?);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let (chain, key) = own.read()?;
            builder.with_client_auth_cert(chain, key).map_err(|cause| own.does_not_fit().because(cause))?
        }
    };
    Ok(Arc::new(config))
}

impl Pair<'_> {
    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let chain = certificates(self.certificate)?;
        let found = std::fs::metadata(self.key).map_err(|cause| Error::io("examine", self.key, cause))?;
        if found.permissions().mode() & 0o007 != 0 {
            let text = format!("the key {:?} can be read by everybody", self.key);
            return Err(Error::new(Class::Config, text).hint("make a new one, then chmod 0600"));
        }
        // The cause could show what stands there.
        let key = PrivateKeyDer::from_pem_slice(&file(self.key)?);
        Ok((chain, key.map_err(|_| bad(self.key, "private key"))?))
    }

    fn does_not_fit(&self) -> Error {
        let text = format!("the key {:?} is not that of the certificate {:?}", self.key, self.certificate);
        Error::new(Class::Config, text)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn authorities(path: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|cause| bad(path, "certificates").because(cause))?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&file(path)?).collect();
    read.ok().filter(|found| !found.is_empty()).ok_or_else(|| bad(path, "certificates"))
}

fn file(path: &Path) -> Result<Vec<u8>> {
    let opened = std::fs::File::open(path).map_err(|cause| Error::io("open", path, cause))?;
    let mut bytes = Vec::new();
    opened.take(FILE_LIMIT).read_to_end(&mut bytes).map_err(|cause| Error::io("read", path, cause))?;
    Ok(bytes)
}

fn bad(path: &Path, what: &str) -> Error {
    Error::new(Class::Config, format!("{path:?} holds no {what} in PEM that can be used"))
}

fn unusable(cause: rustls::Error) -> Error {
    Error::new(Class::Config, "cannot set up TLS").because(cause)
}
