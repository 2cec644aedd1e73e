//! Credentials of a NATS client that sign the server's nonce: an nkey, or a `.creds` file.
//!
//! The core does no cryptography. This crate makes the
//! [`Signer`] that the core takes, by
//! [`aws_lc_rs`], which TLS uses too.
//!
//! ```
//! use wirestate_core::nats::{Config, Credentials};
//!
//! let seed = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"; // of the NATS manual
//! let credentials = wirestate_nats_credentials::nkey(seed)?;
//! let Credentials::Nkey { public_key, .. } = &credentials else { panic!() };
//! assert_eq!(public_key, "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4");
//! let config = Config::default().with_credentials(credentials);
//! # Ok::<(), wirestate_nats_credentials::Error>(())
//! ```

#![forbid(unsafe_code)]

use std::sync::Arc;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use crc::{CRC_16_XMODEM, Crc};
use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use wirestate_core::nats::{Credentials, Signer};

/// Why credentials cannot be used. No text has a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The seed is not base32 (RFC 4648, section 6, in upper case and without padding).
    #[error("a seed is not base32")]
    Encoding,
    /// The seed has the wrong length.
    #[error("a seed has {length} bytes instead of {SEED}")]
    Length {
        /// Its length in bytes.
        length: usize,
    },
    /// The checksum of the seed is wrong: a character was changed.
    #[error("the checksum of a seed is wrong")]
    Checksum,
    /// It is no user's seed: that begins with `SU`.
    #[error("not the seed of a user, which begins with SU")]
    Kind,
    /// A `.creds` file has no section with this label.
    #[error("no section \"{label}\"")]
    NoSection {
        /// The label.
        label: &'static str,
    },
}

/// The credentials of a user's seed, which begins with `SU`. White space around it is ignored.
///
/// # Errors
/// `seed` is not the seed of a user.
pub fn nkey(seed: &str) -> Result<Credentials, Error> {
    let key = key_pair(seed.trim())?;
    let public_key = encode(USER, key.public_key().as_ref());
    Ok(Credentials::Nkey { public_key, signer: signer(key) })
}

/// The credentials in a `.creds` file with this content: a JWT and a user's seed.
///
/// # Errors
/// A section is missing, or the seed is none of a user.
pub fn creds(content: &str) -> Result<Credentials, Error> {
    let jwt = section(content, "NATS USER JWT")?;
    let seed = section(content, "USER NKEY SEED")?;
    Ok(Credentials::Jwt { jwt, signer: signer(key_pair(&seed)?) })
}

/// The lines between `-----BEGIN label-----` and the next line of dashes, joined.
fn section(content: &str, label: &'static str) -> Result<String, Error> {
    let mut lines = content.lines().map(str::trim);
    let is_begin = |line: &str| {
        let line = line.trim_matches('-');
        line.strip_prefix("BEGIN ") == Some(label)
    };
    let found = lines.any(is_begin);
    let text: String = lines.take_while(|line| !line.starts_with("---")).collect();
    if found && !text.is_empty() { Ok(text) } else { Err(Error::NoSection { label }) }
}

fn signer(key: Ed25519KeyPair) -> Signer {
    let key = Arc::new(key);
    Signer::new(move |nonce| Ok(BASE64URL_NOPAD.encode(key.sign(nonce.as_bytes()).as_ref())))
}

/// Decodes a seed: two bytes of the kinds, 32 bytes, and a checksum
/// ([nkeys](https://github.com/nats-io/nkeys)).
fn key_pair(seed: &str) -> Result<Ed25519KeyPair, Error> {
    let bytes = BASE32_NOPAD.decode(seed.as_bytes()).map_err(|_| Error::Encoding)?;
    let length = bytes.len();
    let Ok([first, second, key @ .., low, high]) = <[u8; SEED]>::try_from(bytes) else {
        return Err(Error::Length { length });
    };
    let checked: Vec<u8> = [first, second].into_iter().chain(key).collect();
    if CRC.checksum(&checked) != u16::from_le_bytes([low, high]) {
        return Err(Error::Checksum);
    }
    if (first, second) != (SEED_PREFIX | USER >> 5, (USER & 31) << 3) {
        return Err(Error::Kind);
    }
    // Any 32 bytes are a private key.
    Ed25519KeyPair::from_seed_unchecked(&key).map_err(|_| Error::Kind)
}

/// Encodes a public key of this kind.
fn encode(kind: u8, key: &[u8]) -> String {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(&CRC.checksum(&bytes).to_le_bytes());
    BASE32_NOPAD.encode(&bytes)
}

const CRC: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);
/// The kind of a seed, `S` as the first character.
const SEED_PREFIX: u8 = 18 << 3;
/// The kind of a user, `U` as the first character.
const USER: u8 = 20 << 3;
/// The length of a decoded seed, in bytes.
const SEED: usize = 36;

#[cfg(test)]
mod tests {
    use super::*;

    const SEED_TEXT: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";

    #[test]
    fn a_seed_that_is_none_of_a_user_has_a_named_error() {
        let changed = SEED_TEXT.replace("CSSL", "CSSM");
        let account = {
            let mut bytes = vec![SEED_PREFIX, 0];
            bytes.extend([7; 32]);
            bytes.extend(CRC.checksum(&bytes).to_le_bytes());
            BASE32_NOPAD.encode(&bytes)
        };
        assert!(account.starts_with("SA"));
        for (seed, error) in [
            ("", Error::Length { length: 0 }),
            ("not base32", Error::Encoding),
            ("AAAAAAAA", Error::Length { length: 5 }),
            (&*changed, Error::Checksum),
            (&account, Error::Kind),
        ] {
            assert_eq!(nkey(seed).unwrap_err(), error, "{seed}");
        }
    }

    #[test]
    fn a_creds_file_has_a_jwt_and_a_seed() {
        let file = format!(
            "-----BEGIN NATS USER JWT-----\r\neyJ.a.b\r\n------END NATS USER JWT------\r\n\r\n\
             *** IMPORTANT ***\n\n-----BEGIN USER NKEY SEED-----\n{SEED_TEXT}\n\
             ------END USER NKEY SEED------\n"
        );
        let Credentials::Jwt { jwt, .. } = creds(&file).unwrap() else { panic!() };
        assert_eq!(jwt, "eyJ.a.b");
        for label in ["NATS USER JWT", "USER NKEY SEED"] {
            let file = file.replace(&format!("BEGIN {label}"), "BEGIN OTHER");
            assert_eq!(creds(&file).unwrap_err(), Error::NoSection { label });
        }
        assert!(!format!("{:?}", creds(&file)).contains("eyJ"), "a secret");
    }
}
