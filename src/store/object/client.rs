//! Makes the client of an object store out of settings and credentials.
//!
//! Of the environment and of a credentials file only the names of [`known_keys`] are taken: none of them turns off
//! encryption, certificates or signatures, or runs a program.

use std::path::Path;
use std::sync::{Arc, Once};

use object_store::aws::{AmazonS3Builder, Checksum};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::multipart::MultipartStore;
use object_store::{BackoffConfig, Certificate, ClientOptions, ObjectStore, RetryConfig};

use super::settings::{Credentials, ObjectSettings};
use crate::error::{Class, Error, Result};
use crate::store::location::{ObjectUrl, Scheme};

/// The most bytes of a file of certificates.
const CA_LIMIT: u64 = 4 << 20;

/// What S3 takes. The names are those of the AWS command line and libraries.
const S3_KEYS: &[&str] = &[
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_METADATA_ENDPOINT",
];

/// What Google Cloud Storage takes.
const GS_KEYS: &[&str] = &["GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_KEY"];

/// What Azure takes.
const AZ_KEYS: &[&str] = &[
    "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_TOKEN",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_TENANT_ID",
    "AZURE_AUTHORITY_HOST",
    "AZURE_FEDERATED_TOKEN_FILE",
];

/// The names of everything that opens a store.
pub(super) fn known_keys() -> impl Iterator<Item = &'static str> {
    S3_KEYS.iter().chain(GS_KEYS).chain(AZ_KEYS).copied()
}

/// A store with both faces that are needed.
pub(super) trait Backend: ObjectStore + MultipartStore {}

impl<T: ObjectStore + MultipartStore> Backend for T {}

/// The client for `url`. Nothing is asked of the store yet.
pub(super) fn client(
    url: &ObjectUrl,
    settings: &ObjectSettings,
    credentials: &Credentials,
) -> Result<Arc<dyn Backend>> {
    install_cryptography();
    let options = client_options(settings)?;
    let client = match url.scheme() {
        Scheme::S3 => s3(url, settings, credentials, options),
        Scheme::Gs => gs(url, settings, credentials, options),
        Scheme::Az => az(url, settings, credentials, options),
    };
    // The cause would show what stands in the credentials: a key that is no JSON, for instance.
    client.map_err(|_| {
        let text = format!("the credentials or the region for \"{url}\" are incomplete or malformed");
        Error::new(Class::Config, text).hint(match url.scheme() {
            Scheme::S3 => "it takes AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the role of the machine",
            Scheme::Gs => "it takes GOOGLE_APPLICATION_CREDENTIALS, or the account of the machine",
            Scheme::Az => "it takes AZURE_STORAGE_ACCOUNT_NAME, with AZURE_STORAGE_ACCOUNT_KEY or an identity",
        })
    })
}

/// The TLS library asks for a choice once in a process.
fn install_cryptography() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // It fails only where somebody has chosen before.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

fn client_options(settings: &ObjectSettings) -> Result<ClientOptions> {
    let in_the_clear = settings.endpoint.as_ref().is_some_and(|endpoint| endpoint.is_http());
    let mut options = ClientOptions::new()
        .with_allow_http(settings.allow_http && in_the_clear)
        .with_timeout(settings.request_timeout)
        .with_connect_timeout(settings.request_timeout)
        .with_pool_max_idle_per_host(settings.parallel.get());
    if let Some(path) = &settings.ca_file {
        options = options.with_no_system_certificates(true);
        for certificate in certificates(path)? {
            options = options.with_root_certificate(certificate);
        }
    }
    Ok(options)
}

fn certificates(path: &Path) -> Result<Vec<Certificate>> {
    let too_large = std::fs::metadata(path).map_err(|cause| Error::io("read", path, cause))?.len() > CA_LIMIT;
    let bad = || Error::new(Class::Config, format!("{path:?} holds no certificates in PEM"));
    if too_large {
        return Err(bad());
    }
    let text = std::fs::read(path).map_err(|cause| Error::io("read", path, cause))?;
    let certificates = Certificate::from_pem_bundle(&text).map_err(|_| bad())?;
    if certificates.is_empty() { Err(bad()) } else { Ok(certificates) }
}

/// Retries wait twice as long each time, with jitter, and end with the stall time-out.
fn retries(settings: &ObjectSettings) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: settings.retries,
        retry_timeout: settings.stall_timeout,
    }
}

fn s3(
    url: &ObjectUrl,
    settings: &ObjectSettings,
    credentials: &Credentials,
    options: ClientOptions,
) -> object_store::Result<Arc<dyn Backend>> {
    let mut builder = AmazonS3Builder::new();
    for (name, value) in credentials.iter().filter(|(name, _)| S3_KEYS.contains(name)) {
        builder = builder.with_config(name.to_ascii_lowercase().parse()?, value);
    }
    if let Some(region) = &settings.region {
        builder = builder.with_region(region);
    }
    // Whoever runs a store of his own has mostly one name for all of its buckets.
    builder = match &settings.endpoint {
        Some(endpoint) => builder.with_endpoint(endpoint.as_str()).with_virtual_hosted_style_request(false),
        None => builder.with_virtual_hosted_style_request(!url.bucket().contains('.')),
    };
    let builder = builder
        .with_bucket_name(url.bucket())
        .with_checksum_algorithm(Checksum::SHA256)
        .with_disable_bulk_delete(true)
        .with_client_options(options)
        .with_retry(retries(settings));
    Ok(Arc::new(builder.build()?))
}

fn gs(
    url: &ObjectUrl,
    settings: &ObjectSettings,
    credentials: &Credentials,
    options: ClientOptions,
) -> object_store::Result<Arc<dyn Backend>> {
    let mut builder = GoogleCloudStorageBuilder::new();
    for (name, value) in credentials.iter().filter(|(name, _)| GS_KEYS.contains(name)) {
        builder = builder.with_config(name.to_ascii_lowercase().parse()?, value);
    }
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_config("google_base_url".parse()?, endpoint.as_str());
    }
    let builder = builder.with_bucket_name(url.bucket()).with_client_options(options).with_retry(retries(settings));
    Ok(Arc::new(builder.build()?))
}

fn az(
    url: &ObjectUrl,
    settings: &ObjectSettings,
    credentials: &Credentials,
    options: ClientOptions,
) -> object_store::Result<Arc<dyn Backend>> {
    let mut builder = MicrosoftAzureBuilder::new();
    for (name, value) in credentials.iter().filter(|(name, _)| AZ_KEYS.contains(name)) {
        builder = builder.with_config(name.to_ascii_lowercase().parse()?, value);
    }
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_endpoint(endpoint.as_str().to_owned());
    }
    let builder = builder.with_container_name(url.bucket()).with_client_options(options).with_retry(retries(settings));
    Ok(Arc::new(builder.build()?))
}
