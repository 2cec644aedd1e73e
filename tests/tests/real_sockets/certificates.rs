//! Certificates for the tests with TLS: an authority that signs those of servers, and one that
//! signs those of clients.

use std::{
    fs, path::PathBuf, process::id, sync::atomic::AtomicU32, sync::atomic::Ordering::Relaxed,
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};

/// A folder with certificates and keys in PEM, removed when it is dropped. A file with a
/// certificate has its private key as well.
pub(crate) struct Certificates {
    folder: PathBuf,
    servers: Issuer<'static, KeyPair>,
    /// The authority of servers.
    pub(crate) ca: String,
    /// The certificate of a server on this machine: `CN=server`.
    pub(crate) server: String,
    /// The authority of clients.
    pub(crate) client_ca: String,
    /// The certificate of a client: `CN=client`.
    pub(crate) client: String,
}

impl Certificates {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("wirestate-certificates-{}-{}", id(), COUNT.fetch_add(1, Relaxed));
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).unwrap();
        let ((servers, server_pem), (clients, client_pem)) =
            (authority("servers"), authority("clients"));
        let mut certificates = Self {
            folder,
            servers,
            ca: String::new(),
            server: String::new(),
            client_ca: String::new(),
            client: String::new(),
        };
        certificates.ca = certificates.write("ca.pem", &server_pem);
        certificates.client_ca = certificates.write("client-ca.pem", &client_pem);
        certificates.server = certificates.server("server.pem", &["localhost", "127.0.0.1"], 2099);
        let mut client = params("client", &[]);
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        certificates.client = certificates.write("client.pem", &sign(&client, &clients));
        certificates
    }

    /// The path of a file in the folder.
    pub(crate) fn path(&self, file: &str) -> String {
        self.folder.join(file).to_str().unwrap().to_owned()
    }

    /// Writes a file. Returns its path.
    pub(crate) fn write(&self, file: &str, content: &str) -> String {
        let path = self.path(file);
        fs::write(&path, content).unwrap();
        path
    }

    /// Writes a certificate of a server with these names, which is valid until the start of `year`.
    /// Its common name is the file's. Returns its path.
    pub(crate) fn server(&self, file: &str, names: &[&str], year: i32) -> String {
        let mut params = params(file.trim_end_matches(".pem"), names);
        params.not_after = date_time_ymd(year, 1, 1);
        self.write(file, &sign(&params, &self.servers))
    }

    /// The flags of a server.
    pub(crate) fn server_flags(&self) -> [&str; 2] {
        ["--tls-cert", &self.server]
    }

    /// The flags of a client.
    pub(crate) fn client_flags(&self) -> [&str; 3] {
        ["--tls", "--tls-ca", &self.ca]
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// An authority, and its certificate.
fn authority(name: &str) -> (Issuer<'static, KeyPair>, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = params(name, &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), pem)
}

/// A certificate, and its private key.
fn sign(params: &CertificateParams, issuer: &Issuer<'_, KeyPair>) -> String {
    let key = KeyPair::generate().unwrap();
    params.signed_by(&key, issuer).unwrap().pem() + &key.serialize_pem()
}

fn params(common_name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params
}
