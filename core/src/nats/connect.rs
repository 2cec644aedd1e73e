//! What a client says of itself.

use alloc::string::String;

use serde_core::ser::{Serialize, SerializeMap, Serializer};

use super::{Config, Credentials, Info};
use crate::protocol::Output;

/// Appends CONNECT.
///
/// # Errors
/// The signer has failed.
pub(super) fn write_connect(
    output: &mut Output,
    config: &Config,
    info: &Info,
) -> Result<(), String> {
    let sign = |signer: &super::Signer| {
        let is_asked = !info.nonce.is_empty();
        is_asked.then(|| signer.sign(&info.nonce)).transpose()
    };
    let signature = match &config.credentials {
        Credentials::None | Credentials::User { .. } | Credentials::Token(_) => None,
        Credentials::Nkey { signer, .. } | Credentials::Jwt { signer, .. } => sign(signer)?,
    };
    output.extend(b"CONNECT ");
    let connect = Connect { config, signature };
    output.extend(&serde_json::to_vec(&connect).map_err(|error| alloc::format!("{error}"))?);
    output.extend(b"\r\n");
    Ok(())
}

struct Connect<'a> {
    config: &'a Config,
    signature: Option<String>,
}

impl Serialize for Connect<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("verbose", &false)?;
        map.serialize_entry("pedantic", &false)?;
        map.serialize_entry("tls_required", &self.config.encrypted)?;
        match &self.config.credentials {
            Credentials::None => {}
            Credentials::User { user, password } => {
                map.serialize_entry("user", user)?;
                map.serialize_entry("pass", password)?;
            }
            Credentials::Token(token) => map.serialize_entry("auth_token", token)?,
            Credentials::Nkey { public_key, .. } => map.serialize_entry("nkey", public_key)?,
            Credentials::Jwt { jwt, .. } => map.serialize_entry("jwt", jwt)?,
        }
        if let Some(signature) = &self.signature {
            map.serialize_entry("sig", signature)?;
        }
        map.serialize_entry("name", &self.config.name)?;
        map.serialize_entry("lang", "rust-wirestate")?;
        map.serialize_entry("version", env!("CARGO_PKG_VERSION"))?;
        // With 1, the server sends INFO when the cluster changes, and in lame-duck mode.
        map.serialize_entry("protocol", &1)?;
        map.serialize_entry("echo", &self.config.echo)?;
        map.serialize_entry("headers", &true)?;
        map.serialize_entry("no_responders", &true)?;
        map.end()
    }
}
