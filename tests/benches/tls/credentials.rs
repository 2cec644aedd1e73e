//! The certificate of the servers, and the configurations of rustls.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process,
    sync::Arc,
};

use wirestate_tls::{
    Clients, Identity, provider,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        client::Resumption,
        crypto::{CryptoProvider, aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256},
        pki_types::{CertificateDer, ServerName, pem::PemObject},
        server::NoServerSessionStorage,
    },
    server_config,
};

/// A folder with a certificate (P-256) and its key. Dropping it removes the folder.
pub(crate) struct Credentials(PathBuf);

impl Credentials {
    pub(crate) fn create() -> io::Result<Self> {
        let created = rcgen::generate_simple_self_signed([NAME.to_owned()]);
        let created = created.map_err(io::Error::other)?;
        let folder = env::temp_dir().join(format!("wirestate-bench-tls-{}", process::id()));
        fs::create_dir(&folder)?;
        let credentials = Self(folder);
        fs::write(certificate(&credentials.0), created.cert.pem())?;
        fs::write(key(&credentials.0), created.signing_key.serialize_pem())?;
        Ok(credentials)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.0
    }
}

impl Drop for Credentials {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// The path of the certificate.
fn certificate(folder: &Path) -> PathBuf {
    folder.join("certificate.pem")
}

/// The path of its key.
fn key(folder: &Path) -> PathBuf {
    folder.join("key.pem")
}

/// The configuration of all servers on rustls.
pub(crate) fn server(folder: &Path) -> io::Result<Arc<ServerConfig>> {
    let identity = Identity::from_pem(&fs::read(certificate(folder))?, &fs::read(key(folder))?);
    let identities = vec![identity.map_err(io::Error::other)?];
    let mut config =
        server_config(identities, Clients::Anonymous, &[]).map_err(io::Error::other)?;
    let without_resumption = Arc::make_mut(&mut config);
    without_resumption.session_storage = Arc::new(NoServerSessionStorage {});
    without_resumption.send_tls13_tickets = 0;
    Ok(config)
}

/// The directives of nginx.
pub(crate) fn nginx(folder: &Path) -> String {
    let (certificate, key) = (certificate(folder), key(folder));
    format!(
        "ssl_certificate {}; ssl_certificate_key {};
        ssl_protocols TLSv1.3; ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
        ssl_session_tickets off; ssl_session_cache off;",
        certificate.display(),
        key.display()
    )
}

/// The configuration of the load.
pub(crate) fn client(folder: &Path) -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(certificate(folder));
    roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
    let cipher_suites = vec![TLS13_AES_128_GCM_SHA256];
    let provider = CryptoProvider { cipher_suites, ..CryptoProvider::clone(&provider()) };
    let builder = ClientConfig::builder_with_provider(Arc::new(provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The name in the certificate.
pub(crate) fn name() -> ServerName<'static> {
    NAME.try_into().expect("it is a host name")
}

const NAME: &str = "localhost";
