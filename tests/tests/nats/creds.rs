//! A `.creds` file, and a server that trusts its operator.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use crc::{CRC_16_XMODEM, Crc};
use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use wirestate_core::nats::{Config, ServerErrorKind};

use crate::real_server::{Server, connect, on_tokio, refused};

/// The keys of an operator, an account or a user. The kind is the first character of the public
/// key.
struct Keys {
    pair: Ed25519KeyPair,
    public: String,
    seed: String,
}

impl Keys {
    fn new(kind: char, secret: u8) -> Self {
        let kind = BASE32_NOPAD.decode(format!("{kind}AAAAAAA").as_bytes()).unwrap()[0];
        let secret = [secret; 32];
        let pair = Ed25519KeyPair::from_seed_unchecked(&secret).unwrap();
        let public = encode(&[kind], pair.public_key().as_ref());
        let seed = encode(&[(18 << 3) | kind >> 5, (kind & 31) << 3], &secret);
        Self { pair, public, seed }
    }

    /// A JWT about `subject`, signed with these keys.
    fn jwt(&self, subject: &Self, nats: &str) -> String {
        let claims = format!(
            r#"{{"jti":"x","iat":1700000000,"iss":"{}","name":"n","sub":"{}","nats":{nats}}}"#,
            self.public, subject.public
        );
        let part = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
        let text = format!("{}.{}", part(r#"{"typ":"JWT","alg":"ed25519-nkey"}"#), part(&claims));
        let signature = self.pair.sign(text.as_bytes());
        format!("{text}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
    }
}

fn encode(kinds: &[u8], key: &[u8]) -> String {
    let mut bytes = [kinds, key].concat();
    bytes.extend(Crc::<u16>::new(&CRC_16_XMODEM).checksum(&bytes).to_le_bytes());
    BASE32_NOPAD.encode(&bytes)
}

#[test]
fn a_creds_file_is_accepted_and_another_users_seed_is_not() {
    let (operator, account, user) = (Keys::new('O', 1), Keys::new('A', 2), Keys::new('U', 3));
    let limits = r#""subs":-1,"data":-1,"payload":-1"#;
    let of_account = format!(
        r#"{{"type":"account","version":2,"limits":{{{limits},"imports":-1,"exports":-1,
            "wildcards":true,"conn":-1,"leaf":-1}}}}"#
    );
    let config = format!(
        "operator: {}\nresolver: MEMORY\nresolver_preload: {{ {}: {} }}",
        operator.jwt(&operator, r#"{"type":"operator","version":2}"#),
        account.public,
        operator.jwt(&account, &of_account)
    );
    let Some(server) = Server::with_config("creds", &config) else { return };
    let jwt = account.jwt(&user, &format!(r#"{{"type":"user","version":2,{limits}}}"#));
    let file = |seed: &str| {
        let content = format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        let credentials = wirestate_nats_credentials::creds(&content).unwrap();
        Config::default().with_credentials(credentials)
    };
    on_tokio(async |runtime| {
        connect(&runtime, &server.address, file(&user.seed)).await;
        let other = file(&Keys::new('U', 4).seed);
        let kind = refused(&runtime, &server.address, other).await;
        assert_eq!(kind, ServerErrorKind::Authorization);
    });
}
