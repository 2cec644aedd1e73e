//! Certificates for the tests: an authority, and what it has signed.

use std::sync::LazyLock;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    PKCS_ED25519, date_time_ymd,
};
use wirestate_tls::{
    Authorities, Identity,
    rustls::pki_types::{CertificateDer, pem::PemObject as _},
};

/// A certificate authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// The authority of the tests' servers.
pub(crate) static SERVERS: LazyLock<Authority> = LazyLock::new(|| Authority::new("servers"));
/// The authority of the tests' clients.
pub(crate) static CLIENTS: LazyLock<Authority> = LazyLock::new(|| Authority::new("clients"));

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = params(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = key();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()
    }

    pub(crate) fn authorities(&self) -> Authorities {
        Authorities::from_pem(self.pem.as_bytes()).unwrap()
    }

    /// A certificate for these host names, which is valid until the year 2099.
    pub(crate) fn sign(&self, names: &[&str]) -> Identity {
        self.sign_until(names, 2099)
    }

    /// A certificate for these host names, which is valid until the start of `year`.
    pub(crate) fn sign_until(&self, names: &[&str], year: i32) -> Identity {
        self.sign_between(names, 2020, year)
    }

    /// A certificate for these host names, which is valid from the start of a year to that of
    /// another one.
    pub(crate) fn sign_between(&self, names: &[&str], from: i32, until: i32) -> Identity {
        let mut params = params(names[0], names);
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        self.sign_params(&params)
    }

    /// A certificate for these host names that must not be used by a server.
    pub(crate) fn sign_for_clients(&self, names: &[&str]) -> Identity {
        let mut params = params(names[0], names);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign_params(&params)
    }

    fn sign_params(&self, params: &CertificateParams) -> Identity {
        let key = key();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap()
    }
}

/// The signatures of such a key always have the same length, so that runs can be repeated.
fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ED25519).unwrap()
}

fn params(common_name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params
}
