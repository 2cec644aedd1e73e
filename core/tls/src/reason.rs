//! Why a connection with TLS ended.

use core::{fmt, time::Duration};

use rustls::{
    AlertDescription, CertificateError, Error, InvalidMessage, PeerMisbehaved, pki_types::UnixTime,
};
use wirestate_core::{ConnectionError, Fault, Reason, quantity::Time};

/// Why a [`Tls`](crate::Tls) machine ended.
#[derive(Clone, Debug, PartialEq)]
pub enum TlsReason<R> {
    /// TLS ended the connection.
    Tls(Failure),
    /// The inner machine ended it.
    Inner(R),
}

impl<R: fmt::Display> fmt::Display for TlsReason<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls(failure) => failure.fmt(f),
            Self::Inner(reason) => reason.fmt(f),
        }
    }
}

impl<R: Reason> Reason for TlsReason<R> {
    fn label(&self) -> &'static str {
        match self {
            Self::Tls(failure) => failure.label(),
            Self::Inner(reason) => reason.label(),
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Tls(failure) => failure.fault(),
            Self::Inner(reason) => reason.fault(),
        }
    }

    fn labels() -> Vec<&'static str> {
        [Failure::labels(), R::labels()].concat()
    }
}

/// Why TLS ended a connection.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The first bytes are not a TLS record: the peer speaks another protocol, such as HTTP without
    /// TLS.
    #[error("the peer does not speak TLS")]
    NotTls,
    /// The handshake was not complete in time.
    #[error(
        "the TLS handshake was not complete after {limit}; received {received} bytes",
        limit = Time(*limit)
    )]
    HandshakeTimeout {
        /// [`Config::handshake_timeout`](crate::Config::handshake_timeout).
        limit: Duration,
        /// The bytes received.
        received: u64,
    },
    /// The peer closed the connection before the handshake was complete.
    #[error("the peer closed the connection in the TLS handshake, after {received} bytes")]
    HandshakeTruncated {
        /// The bytes received.
        received: u64,
    },
    /// A message of the handshake is longer than the receive buffer, or than 65,535 bytes.
    #[error("a TLS handshake message is longer than the limit of {limit} bytes")]
    HandshakeTooLong {
        /// [`Config::buffer`](crate::Config::buffer), or 65,535.
        limit: usize,
    },
    /// The connection was lost before the handshake was complete.
    #[error("lost in the TLS handshake: {0}")]
    Lost(ConnectionError),
    /// The server shut down before the handshake was complete.
    #[error("shut down in the TLS handshake")]
    ShutDown,
    /// The peer's certificate is not valid.
    #[error("the peer's certificate is not valid: {}", CertificateText(.0))]
    Certificate(CertificateError),
    /// The peer presented no certificate, which this side requires.
    #[error("the peer presented no certificate")]
    NoCertificate,
    /// The peer sent a fatal alert (RFC 8446, section 6.2).
    #[error("the peer sent the TLS alert {}", alert_label(*.0).trim_start_matches("tls_alert_"))]
    Alert(AlertDescription),
    /// The peer broke the protocol, or has no version, cipher suite or application protocol in
    /// common with this side.
    #[error("{0}")]
    Protocol(Error),
    /// The keys have encrypted as many records as is safe, and TLS 1.2 cannot replace them (RFC
    /// 8446, section 5.5). It happens after about 16 million records with AES.
    #[error("the TLS 1.2 connection has sent as many records as is safe with its keys")]
    KeysExhausted,
    /// The peer closed the connection without `close_notify`: its data may be incomplete (RFC 8446,
    /// section 6.1).
    #[error("the peer closed the connection without close_notify: its data may be incomplete")]
    Truncated,
    /// The peer acknowledged none of the encrypted output for too long.
    #[error(
        "the peer acknowledged nothing for {limit}; {pending} encrypted bytes are pending",
        limit = Time(*limit)
    )]
    WriteStalled {
        /// [`Config::write_timeout`](crate::Config::write_timeout).
        limit: Duration,
        /// The encrypted bytes that were not written.
        pending: usize,
    },
}

impl Failure {
    /// Classifies an error. `is_first` says that no version was agreed on so far.
    pub(crate) fn of(error: Error, is_first: bool) -> Self {
        #[expect(clippy::wildcard_enum_match_arm, reason = "the enum is not ours, and open")]
        match error {
            Error::InvalidCertificate(error) => Self::Certificate(error),
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::AlertReceived(alert) => Self::Alert(alert),
            Error::InvalidMessage(
                InvalidMessage::InvalidContentType
                | InvalidMessage::UnknownProtocolVersion
                | InvalidMessage::MessageTooLarge
                | InvalidMessage::InvalidEmptyPayload,
            ) if is_first => Self::NotTls,
            Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge) => {
                Self::HandshakeTooLong { limit: u16::MAX.into() }
            }
            error => Self::Protocol(error),
        }
    }

    /// Classifies an error of writing.
    pub(crate) fn of_write(error: Error) -> Self {
        if error == Error::EncryptError { Self::KeysExhausted } else { Self::Protocol(error) }
    }
}

impl Reason for Failure {
    /// `tls_` and a name. A certificate and an alert have the name of what is wrong with them, such
    /// as `tls_certificate_expired` and `tls_alert_unknown_ca`.
    fn label(&self) -> &'static str {
        failure_label(self)
    }

    fn fault(&self) -> Fault {
        match self {
            Self::NotTls
            | Self::HandshakeTruncated { .. }
            | Self::Certificate(_)
            | Self::NoCertificate
            | Self::Alert(_)
            | Self::Protocol(_)
            | Self::Truncated => Fault::Peer,
            Self::HandshakeTooLong { .. } | Self::KeysExhausted => Fault::Limit,
            Self::HandshakeTimeout { .. } | Self::WriteStalled { .. } => Fault::Time,
            Self::Lost(_) => Fault::Lost,
            Self::ShutDown => Fault::Requested,
        }
    }

    fn labels() -> Vec<&'static str> {
        failure_labels()
    }
}

/// Defines a function that names a value by one match, and a function that returns all names. An
/// arm has a name, or a name of a part of the value and all names of such parts.
macro_rules! labels {
    (
        $(#[$attribute:meta])*
        $label:ident($value:ident: $type:ty), $labels:ident {
            $($pattern:pat => $arm:tt,)*
        }
    ) => {
        $(#[$attribute])*
        fn $label($value: $type) -> &'static str {
            match $value { $($pattern => labels!(@label $arm),)* }
        }

        fn $labels() -> Vec<&'static str> {
            [$(labels!(@labels $arm)),*].concat()
        }
    };
    (@label ($label:literal)) => { $label };
    (@label ($label:expr, $labels:expr)) => { $label };
    (@labels ($label:literal)) => { &[$label][..] };
    (@labels ($label:expr, $labels:expr)) => { &$labels[..] };
}

labels!(failure_label(failure: &Failure), failure_labels {
    Failure::NotTls => ("tls_not_tls"),
    Failure::HandshakeTimeout { .. } => ("tls_handshake_timeout"),
    Failure::HandshakeTruncated { .. } => ("tls_handshake_truncated"),
    Failure::HandshakeTooLong { .. } => ("tls_handshake_too_long"),
    Failure::Lost(error) => (error.label(), ConnectionError::labels()),
    Failure::ShutDown => ("tls_shut_down"),
    Failure::Certificate(error) => (certificate_label(error), certificate_labels()),
    Failure::NoCertificate => ("tls_certificate_missing"),
    Failure::Alert(alert) => (alert_label(*alert), alert_labels()),
    Failure::Protocol(error) => (protocol_label(error), protocol_labels()),
    Failure::KeysExhausted => ("tls_keys_exhausted"),
    Failure::Truncated => ("tls_truncated"),
    Failure::WriteStalled { .. } => ("tls_write_stalled"),
});

/// What is wrong with a certificate.
struct CertificateText<'a>(&'a CertificateError);

impl fmt::Display for CertificateText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[expect(clippy::wildcard_enum_match_arm, reason = "the enum is not ours, and open")]
        match self.0 {
            CertificateError::UnknownIssuer => {
                f.write_str("none of the trusted authorities has signed it")
            }
            CertificateError::Expired => f.write_str("it has expired"),
            CertificateError::ExpiredContext { time, not_after } => {
                write!(f, "it expired {} ago", Time(seconds(*not_after, *time)))
            }
            CertificateError::NotValidYet => f.write_str("it is not valid yet"),
            CertificateError::NotValidYetContext { time, not_before } => {
                write!(f, "it is valid in {}", Time(seconds(*time, *not_before)))
            }
            CertificateError::Revoked => f.write_str("it was revoked"),
            error => error.fmt(f),
        }
    }
}

fn seconds(from: UnixTime, to: UnixTime) -> Duration {
    Duration::from_secs(to.as_secs().saturating_sub(from.as_secs()))
}

labels!(
    certificate_label(error: &CertificateError), certificate_labels {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. } => ("tls_certificate_expired"),
        CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => ("tls_certificate_not_valid_yet"),
        CertificateError::NotValidForName
        | CertificateError::NotValidForNameContext { .. } => ("tls_certificate_wrong_name"),
        CertificateError::UnknownIssuer => ("tls_certificate_unknown_issuer"),
        CertificateError::Revoked => ("tls_certificate_revoked"),
        _ => ("tls_certificate_invalid"),
    }
);

labels!(
    /// The name of RFC 8446, section 6, with a prefix. Alerts that are not listed there share one.
    alert_label(alert: AlertDescription), alert_labels {
        AlertDescription::CloseNotify => ("tls_alert_close_notify"),
        AlertDescription::UnexpectedMessage => ("tls_alert_unexpected_message"),
        AlertDescription::BadRecordMac => ("tls_alert_bad_record_mac"),
        AlertDescription::RecordOverflow => ("tls_alert_record_overflow"),
        AlertDescription::HandshakeFailure => ("tls_alert_handshake_failure"),
        AlertDescription::BadCertificate => ("tls_alert_bad_certificate"),
        AlertDescription::UnsupportedCertificate => ("tls_alert_unsupported_certificate"),
        AlertDescription::CertificateRevoked => ("tls_alert_certificate_revoked"),
        AlertDescription::CertificateExpired => ("tls_alert_certificate_expired"),
        AlertDescription::CertificateUnknown => ("tls_alert_certificate_unknown"),
        AlertDescription::IllegalParameter => ("tls_alert_illegal_parameter"),
        AlertDescription::UnknownCA => ("tls_alert_unknown_ca"),
        AlertDescription::AccessDenied => ("tls_alert_access_denied"),
        AlertDescription::DecodeError => ("tls_alert_decode_error"),
        AlertDescription::DecryptError => ("tls_alert_decrypt_error"),
        AlertDescription::ProtocolVersion => ("tls_alert_protocol_version"),
        AlertDescription::InsufficientSecurity => ("tls_alert_insufficient_security"),
        AlertDescription::InternalError => ("tls_alert_internal_error"),
        AlertDescription::InappropriateFallback => ("tls_alert_inappropriate_fallback"),
        AlertDescription::UserCanceled => ("tls_alert_user_canceled"),
        AlertDescription::MissingExtension => ("tls_alert_missing_extension"),
        AlertDescription::UnsupportedExtension => ("tls_alert_unsupported_extension"),
        AlertDescription::UnrecognisedName => ("tls_alert_unrecognized_name"),
        AlertDescription::BadCertificateStatusResponse =>
            ("tls_alert_bad_certificate_status_response"),
        AlertDescription::UnknownPSKIdentity => ("tls_alert_unknown_psk_identity"),
        AlertDescription::CertificateRequired => ("tls_alert_certificate_required"),
        AlertDescription::NoApplicationProtocol => ("tls_alert_no_application_protocol"),
        _ => ("tls_alert_other"),
    }
);

labels!(
    protocol_label(error: &Error), protocol_labels {
        Error::DecryptError => ("tls_decrypt_error"),
        Error::PeerIncompatible(_) => ("tls_incompatible"),
        Error::NoApplicationProtocol => ("tls_no_application_protocol"),
        Error::PeerMisbehaved(PeerMisbehaved::TooManyKeyUpdateRequests) =>
            ("tls_too_many_requests"),
        _ => ("tls_protocol"),
    }
);
