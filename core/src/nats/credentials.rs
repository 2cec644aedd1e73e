//! How a client authenticates.

use alloc::{string::String, sync::Arc};
use core::fmt;

/// How a client authenticates. `Debug` prints no secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    /// It does not.
    #[default]
    None,
    /// A user and a password.
    User {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// A token.
    Token(String),
    /// An nkey: the server knows the public key.
    Nkey {
        /// The public key, which begins with `U`.
        public_key: String,
        /// Signs the server's nonce with the private key.
        signer: Signer,
    },
    /// The content of a `.creds` file: a JWT that names the public key, and its private key.
    Jwt {
        /// The JWT.
        jwt: String,
        /// Signs the server's nonce with the private key.
        signer: Signer,
    },
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::User { user, .. } => {
                f.debug_struct("User").field("user", user).finish_non_exhaustive()
            }
            Self::Token(_) => f.write_str("Token(..)"),
            Self::Nkey { public_key, .. } => {
                f.debug_struct("Nkey").field("public_key", public_key).finish_non_exhaustive()
            }
            Self::Jwt { .. } => f.debug_struct("Jwt").finish_non_exhaustive(),
        }
    }
}

/// A function from the server's nonce to its Ed25519 signature, as text in base64url without
/// padding. The error's text becomes the reason of the connection's end. Clones are one function.
///
/// The server sends another nonce for each connection, at most
/// [`Config::max_info`](super::Config::max_info) bytes long.
#[derive(Clone)]
pub struct Signer(Arc<Sign>);

#[cfg(feature = "std")]
type Sign = dyn Fn(&str) -> Result<String, String> + Send + Sync;
#[cfg(not(feature = "std"))]
type Sign = dyn Fn(&str) -> Result<String, String>;

impl Signer {
    /// A signer that calls `sign`.
    #[cfg(feature = "std")]
    pub fn new(sign: impl Fn(&str) -> Result<String, String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(sign))
    }

    /// A signer that calls `sign`.
    #[cfg(not(feature = "std"))]
    pub fn new(sign: impl Fn(&str) -> Result<String, String> + 'static) -> Self {
        Self(Arc::new(sign))
    }

    pub(super) fn sign(&self, nonce: &str) -> Result<String, String> {
        (self.0)(nonce)
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").finish_non_exhaustive()
    }
}

/// Two signers are equal if they are clones.
impl PartialEq for Signer {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Signer {}
