//! TLS for calls to the outside.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, crypto::ring};

/// Certificates of the system (or of `SSL_CERT_FILE`, `SSL_CERT_DIR`), ring as the provider. The provider is named here, so
/// that no process-wide default has to be installed first.
///
/// A system without certificates gets a client all the same: calls to `http` work, those to `https` fail and say so.
pub(super) fn config() -> Result<ClientConfig, rustls::Error> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        tracing::warn!(
            errors = ?found.errors,
            "no certificate authorities were found: calls to https will fail; install the package ca-certificates or set SSL_CERT_FILE"
        );
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
