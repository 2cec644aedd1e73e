//! Certificates and keys in PEM, and what they say.

use core::{fmt, time::Duration};
use std::{sync::Arc, time::SystemTime};

use rustls::{
    ClientConfig, CommonState, RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName,
        pem::{self, PemObject},
    },
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use x509_cert::der::Decode;

/// A certificate chain and its private key.
#[derive(Clone, Debug)]
pub struct Identity {
    key: Arc<CertifiedKey>,
    certificate: CertificateInfo,
}

impl Identity {
    /// Reads a chain, the leaf first, and the leaf's private key (PKCS #8, PKCS #1 or SEC 1), both
    /// in PEM (RFC 7468). Other sections are skipped, so one file can have both.
    ///
    /// # Errors
    /// There is no certificate or no key, one of them is malformed, or the key is another
    /// certificate's.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, CredentialsError> {
        let chain = certificates(chain)?;
        let certificate = CertificateInfo::of(&chain[0])?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| {
            let is_missing = matches!(error, pem::Error::NoItemsFound);
            if is_missing { CredentialsError::NoKey } else { CredentialsError::Pem(error) }
        })?;
        let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| {
            let is_other = matches!(error, rustls::Error::InconsistentKeys(_));
            if is_other { CredentialsError::OtherKey } else { CredentialsError::Tls(error) }
        })?;
        Ok(Self { key: Arc::new(key), certificate })
    }

    /// The leaf's subject and validity.
    pub fn certificate(&self) -> &CertificateInfo {
        &self.certificate
    }

    fn is_for(&self, name: &ServerName<'_>) -> bool {
        let leaf = self.key.end_entity_cert().ok();
        leaf.and_then(|leaf| webpki::EndEntityCert::try_from(leaf).ok())
            .is_some_and(|leaf| leaf.verify_is_valid_for_subject_name(name).is_ok())
    }
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CertificateInfo {
    /// The subject's distinguished name (RFC 4514), such as `CN=example.org`.
    pub subject: String,
    /// The certificate is valid from this time on.
    pub not_before: SystemTime,
    /// The certificate is valid until this time.
    pub not_after: SystemTime,
}

impl CertificateInfo {
    /// Reads a certificate (RFC 5280).
    ///
    /// # Errors
    /// It is malformed.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, CredentialsError> {
        let malformed = |error: x509_cert::der::Error| {
            CredentialsError::Malformed(error.to_string().into_boxed_str())
        };
        let certificate = x509_cert::Certificate::from_der(certificate).map_err(malformed)?;
        let certificate = certificate.tbs_certificate;
        let time = |time: x509_cert::time::Time| SystemTime::UNIX_EPOCH + time.to_unix_duration();
        Ok(Self {
            subject: certificate.subject.to_string(),
            not_before: time(certificate.validity.not_before),
            not_after: time(certificate.validity.not_after),
        })
    }

    /// How long ago the certificate expired; `None` if it has not.
    pub fn expired(&self, now: SystemTime) -> Option<Duration> {
        now.duration_since(self.not_after).ok().filter(|ago| !ago.is_zero())
    }
}

/// The certificate that the peer has presented, and that was found valid.
pub fn peer_certificate(connection: &CommonState) -> Option<CertificateInfo> {
    CertificateInfo::of(connection.peer_certificates()?.first()?).ok()
}

/// The certificate authorities that certificates of peers are checked against.
#[derive(Clone, Debug)]
pub struct Authorities(Arc<RootCertStore>);

impl Authorities {
    /// Reads certificates in PEM.
    ///
    /// # Errors
    /// There is none, or one is malformed.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CredentialsError> {
        let mut store = RootCertStore::empty();
        for certificate in certificates(pem)? {
            store.add(certificate).map_err(CredentialsError::Tls)?;
        }
        Ok(Self(Arc::new(store)))
    }
}

impl From<RootCertStore> for Authorities {
    fn from(store: RootCertStore) -> Self {
        Self(Arc::new(store))
    }
}

/// Which certificates a server asks of its clients.
#[derive(Clone, Debug)]
pub enum Clients {
    /// None.
    Anonymous,
    /// A client may present a certificate. One that is not valid ends the handshake.
    MayAuthenticate(Authorities),
    /// A client must present a certificate.
    MustAuthenticate(Authorities),
}

/// Makes the rustls configuration of a server, for TLS 1.2 and 1.3.
///
/// A client that names a host (SNI; RFC 6066, section 3) gets the first of `identities` that is
/// valid for the host, or the first one if none is. `alpn` are the application protocols, the
/// preferred one first (RFC 7301); without any, the client's choice is ignored.
///
/// # Errors
/// `identities` is empty, or the authorities of `clients` are not usable.
pub fn server_config(
    identities: Vec<Identity>,
    clients: Clients,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, CredentialsError> {
    if identities.is_empty() {
        return Err(CredentialsError::NoCertificate);
    }
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(CredentialsError::Tls)?;
    let verifier =
        |Authorities(roots)| WebPkiClientVerifier::builder_with_provider(roots, provider());
    let builder = match clients {
        Clients::Anonymous => builder.with_no_client_auth(),
        Clients::MayAuthenticate(authorities) => builder.with_client_cert_verifier(
            verifier(authorities)
                .allow_unauthenticated()
                .build()
                .map_err(CredentialsError::other)?,
        ),
        Clients::MustAuthenticate(authorities) => builder.with_client_cert_verifier(
            verifier(authorities).build().map_err(CredentialsError::other)?,
        ),
    };
    let mut config = builder.with_cert_resolver(Arc::new(ByName(identities)));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// Makes the rustls configuration of a client, for TLS 1.2 and 1.3. It checks the server's
/// certificate against `authorities`, and presents `identity` to a server that asks for one.
///
/// # Errors
/// `identity` is not usable.
pub fn client_config(
    authorities: Authorities,
    identity: Option<Identity>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, CredentialsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(CredentialsError::Tls)?
        .with_root_certificates(authorities.0);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder.with_client_cert_resolver(Arc::new(
            rustls::sign::SingleCertAndKey::from(identity.key),
        )),
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// The cryptography of all connections: aws-lc-rs.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Chooses a certificate by the name that the client asks for.
#[derive(Debug)]
struct ByName(Vec<Identity>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let named = name.and_then(|name| self.0.iter().find(|identity| identity.is_for(&name)));
        named.or(self.0.first()).map(|identity| identity.key.clone())
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(CredentialsError::Pem)?;
    if certificates.is_empty() {
        return Err(CredentialsError::NoCertificate);
    }
    Ok(certificates)
}

/// Why certificates or keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// There is no certificate.
    #[error("there is no certificate (`-----BEGIN CERTIFICATE-----`)")]
    NoCertificate,
    /// There is no private key.
    #[error("there is no private key (`-----BEGIN PRIVATE KEY-----`)")]
    NoKey,
    /// The text is not PEM.
    #[error("{0}")]
    Pem(pem::Error),
    /// A certificate is malformed.
    #[error("a certificate is malformed: {0}")]
    Malformed(Box<str>),
    /// The private key is not the certificate's.
    #[error("the private key belongs to another certificate")]
    OtherKey,
    /// rustls does not accept them.
    #[error("{0}")]
    Tls(rustls::Error),
}

impl CredentialsError {
    fn other(error: impl fmt::Display) -> Self {
        Self::Tls(rustls::Error::General(error.to_string()))
    }
}
