//! TLS with ring, the system's root certificates and those that the host adds.

use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::Verifier;

/// Why root certificates could not be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidCertificates {
    /// There is no `-----BEGIN CERTIFICATE-----` in it.
    #[error("no certificate: give one or more in PEM, each from `-----BEGIN CERTIFICATE-----` on")]
    None,
    /// One of them can't be read.
    #[error("a certificate can't be read: check that the PEM is whole, and that each is an X.509 certificate")]
    Unreadable,
}

/// All certificates of a PEM text, each tried as a root.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, InvalidCertificates> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|_| InvalidCertificates::Unreadable)?;
    if found.is_empty() {
        return Err(InvalidCertificates::None);
    }
    let mut store = RootCertStore::empty();
    for certificate in &found {
        store.add(certificate.clone()).map_err(|_| InvalidCertificates::Unreadable)?;
    }
    Ok(found)
}

/// The configuration, with the provider named: a process may have another one as its default, or none.
pub(super) fn config(roots: &[CertificateDer<'static>]) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let mut config = match Verifier::new_with_extra_roots(roots.iter().cloned(), provider) {
        Ok(verifier) => builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)),
        Err(error) => {
            // A container without certificates: plain http toward loopback works all the same.
            tracing::warn!(%error, "no root certificates: no server will be trusted over TLS");
            builder.with_root_certificates(RootCertStore::empty())
        }
    }
    .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
