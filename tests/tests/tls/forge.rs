//! A peer that breaks the protocol inside of the encryption.

use std::sync::{Arc, LazyLock};

use wirestate_tls::rustls::{
    CipherSuite, CipherSuiteCommon, ConnectionTrafficSecrets, ContentType, Error,
    SupportedCipherSuite, Tls12CipherSuite, Tls13CipherSuite,
    crypto::{
        CryptoProvider,
        aws_lc_rs::{self, cipher_suite},
        cipher::{
            AeadKey, Iv, MessageDecrypter, MessageEncrypter, OutboundChunks, OutboundOpaqueMessage,
            OutboundPlainMessage, Tls13AeadAlgorithm, UnsupportedOperationError,
        },
    },
};

/// A message of an application that is encrypted as a record of `kind` with `content`.
pub(crate) fn forged(kind: ContentType, content: &[u8]) -> Vec<u8> {
    [MARK, &[kind.into()], content].concat()
}

const MARK: &[u8] = b"forged:";

/// The cryptography of a peer that sends the records that [`forged`] asks for.
pub(crate) fn forging() -> Arc<CryptoProvider> {
    static SUITE: LazyLock<Tls13CipherSuite> = LazyLock::new(|| {
        let suite = tls13();
        Tls13CipherSuite {
            common: common(&suite.common, suite.common.confidentiality_limit),
            aead_alg: &Forging,
            ..*suite
        }
    });
    with(SupportedCipherSuite::Tls13(&SUITE))
}

/// Cryptography that replaces the keys of TLS 1.3 after [`KEY_LIMIT`] records.
pub(crate) fn tls13_with_limited_keys() -> Arc<CryptoProvider> {
    static SUITE: LazyLock<Tls13CipherSuite> = LazyLock::new(|| {
        let suite = tls13();
        Tls13CipherSuite { common: common(&suite.common, KEY_LIMIT), ..*suite }
    });
    with(SupportedCipherSuite::Tls13(&SUITE))
}

/// Cryptography whose keys of TLS 1.2 end after [`KEY_LIMIT`] records.
pub(crate) fn tls12_with_limited_keys() -> Arc<CryptoProvider> {
    static SUITE: LazyLock<Tls12CipherSuite> = LazyLock::new(|| {
        let SupportedCipherSuite::Tls12(suite) =
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        else {
            panic!("it is a cipher suite of TLS 1.2");
        };
        Tls12CipherSuite { common: common(&suite.common, KEY_LIMIT), ..*suite }
    });
    with(SupportedCipherSuite::Tls12(&SUITE))
}

/// How many records a key may encrypt.
pub(crate) const KEY_LIMIT: u64 = 5;

fn with(suite: SupportedCipherSuite) -> Arc<CryptoProvider> {
    let provider = aws_lc_rs::default_provider();
    Arc::new(CryptoProvider { cipher_suites: vec![suite], ..provider })
}

fn tls13() -> &'static Tls13CipherSuite {
    match cipher_suite::TLS13_AES_128_GCM_SHA256 {
        SupportedCipherSuite::Tls13(suite) => suite,
        SupportedCipherSuite::Tls12(_) => panic!("it is a cipher suite of TLS 1.3"),
    }
}

fn common(of: &CipherSuiteCommon, confidentiality_limit: u64) -> CipherSuiteCommon {
    let (suite, hash_provider): (CipherSuite, _) = (of.suite, of.hash_provider);
    CipherSuiteCommon { suite, hash_provider, confidentiality_limit }
}

struct Forging;

impl Tls13AeadAlgorithm for Forging {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        Box::new(Forger(tls13().aead_alg.encrypter(key, iv)))
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        tls13().aead_alg.decrypter(key, iv)
    }

    fn key_len(&self) -> usize {
        tls13().aead_alg.key_len()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        tls13().aead_alg.extract_keys(key, iv)
    }
}

struct Forger(Box<dyn MessageEncrypter>);

impl MessageEncrypter for Forger {
    fn encrypt(
        &mut self,
        message: OutboundPlainMessage<'_>,
        sequence: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        let payload = message.payload.to_vec();
        let Some((&kind, content)) =
            payload.strip_prefix(MARK).and_then(|forged| forged.split_first())
        else {
            return self.0.encrypt(message, sequence);
        };
        let (typ, payload) = (kind.into(), OutboundChunks::Single(content));
        self.0.encrypt(OutboundPlainMessage { typ, payload, ..message }, sequence)
    }

    fn encrypted_payload_len(&self, payload_len: usize) -> usize {
        self.0.encrypted_payload_len(payload_len)
    }
}
