//! One line of plain words for a failed handshake, with the way out where there is one.

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

/// Says why a handshake with a client failed. One line, no control characters, fit for a log.
#[must_use]
pub fn explain(error: &Error) -> String {
    let text = match error {
        Error::InvalidCertificate(reason) => certificate(reason),
        Error::NoCertificatesPresented => {
            "client sent no certificate, and verify-client-cert requires one".into()
        }
        Error::PeerIncompatible(reason) => incompatible(reason),
        Error::AlertReceived(alert) => alert_from_client(*alert),
        Error::General(reason) => format!("TLS failed: {reason}"),
        other => format!("TLS failed: {other}"),
    };
    super::names::printable(&text)
}

fn certificate(reason: &CertificateError) -> String {
    match reason {
        CertificateError::Other(other) => other.to_string(),
        CertificateError::UnknownIssuer => {
            "client certificate was issued by a CA that is not in `ca` (or the client left out an intermediate)".into()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("client certificate or one of its CAs has expired: {reason}")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("client certificate is not valid yet, or the clock is wrong: {reason}")
        }
        CertificateError::Revoked => "client certificate is revoked".into(),
        CertificateError::ExpiredRevocationList | CertificateError::ExpiredRevocationListContext { .. } => {
            format!("the CRL is out of date; issue a new one: {reason}")
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "client certificate's extended key usage does not include clientAuth (a server certificate?)".into()
        }
        CertificateError::BadSignature => {
            "a signature in the client's certificate chain or handshake is wrong (key and certificate of the client may not match)".into()
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            format!("the client's certificate chain uses an algorithm that is not accepted: {reason}")
        }
        other => format!("client certificate refused: {other}"),
    }
}

fn incompatible(reason: &PeerIncompatible) -> String {
    match reason {
        PeerIncompatible::NoCipherSuitesInCommon => {
            "no cipher suite in common: only ECDHE with AES-GCM or ChaCha20-Poly1305 is spoken, no CBC, DHE or RSA key exchange; \
             remove `tls-cipher` from the client (or this server's `tls-cipher`)"
                .into()
        }
        PeerIncompatible::NoKxGroupsInCommon => {
            "no key exchange group in common: X25519, P-256 and P-384 are spoken, P-521 and finite fields are not; \
             see `tls-groups` and `ecdh-curve`"
                .into()
        }
        PeerIncompatible::NoSignatureSchemesInCommon | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon => {
            "no signature algorithm in common: the client cannot check this server's kind of key (SHA-1 is not spoken)".into()
        }
        PeerIncompatible::SupportedVersionsExtensionRequired
        | PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled
        | PeerIncompatible::Tls13RequiredForQuic => {
            "no TLS version in common: TLS 1.2 and 1.3 are spoken, within tls-version-min and tls-version-max".into()
        }
        other => format!("client's TLS does not fit this server: {other:?}"),
    }
}

fn alert_from_client(alert: AlertDescription) -> String {
    let hint = match alert {
        AlertDescription::UnknownCA => "the client does not know the CA of this server's certificate",
        AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
            "the client does not accept this server's certificate (remote-cert-tls, verify-x509-name or peer-fingerprint)"
        }
        AlertDescription::CertificateExpired => {
            "the client holds this server's certificate for expired, or its clock is wrong"
        }
        AlertDescription::UnsupportedCertificate => {
            "the client does not accept this server's kind of certificate (is it issued with serverAuth?)"
        }
        AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => {
            "client and server have no algorithm in common"
        }
        AlertDescription::ProtocolVersion => "client and server have no TLS version in common",
        _ => return format!("client broke off the handshake with the alert {alert:?}"),
    };
    format!("{hint} (alert {alert:?})")
}
