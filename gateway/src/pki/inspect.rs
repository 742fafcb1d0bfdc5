//! Looks at one certificate for what the TLS library would only refuse without words.

use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo};

use super::error::CertProblem;

/// Parses a certificate that must fill `der` to the end.
pub(super) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, String> {
    let (rest, cert) = X509Certificate::from_der(der).map_err(|e| e.to_string())?;
    if rest.is_empty() { Ok(cert) } else { Err("bytes follow the certificate".into()) }
}

/// The first problem of a certificate that is used in a handshake, or below a trust anchor.
pub(super) fn problem(cert: &X509Certificate<'_>) -> Option<CertProblem> {
    let version = cert.version().0.saturating_add(1);
    if version != 3 {
        return Some(CertProblem::Version(version));
    }
    // A self-issued certificate's signature tells nothing, and nothing checks it.
    let signature = if self_issued(cert) { None } else { signature_problem(&cert.signature_algorithm) };
    key_problem(cert.public_key()).or(signature)
}

/// Subject and issuer are one name.
pub(super) fn self_issued(cert: &X509Certificate<'_>) -> bool {
    cert.subject().as_raw() == cert.issuer().as_raw()
}

/// Says why signatures by this algorithm are refused.
pub(super) fn signature_problem(algorithm: &AlgorithmIdentifier<'_>) -> Option<CertProblem> {
    let oid = algorithm.algorithm.to_id_string();
    let name = match oid.as_str() {
        // RSA PKCS#1 and PSS, ECDSA with SHA-256 and SHA-384, Ed25519.
        "1.2.840.113549.1.1.10"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.113549.1.1.12"
        | "1.2.840.113549.1.1.13"
        | "1.2.840.10045.4.3.2"
        | "1.2.840.10045.4.3.3"
        | "1.3.101.112" => return None,
        "1.2.840.113549.1.1.4" => "RSA with MD5",
        "1.2.840.113549.1.1.5" | "1.3.14.3.2.29" => "RSA with SHA-1",
        "1.2.840.113549.1.1.14" => "RSA with SHA-224",
        "1.2.840.10045.4.1" => "ECDSA with SHA-1",
        "1.2.840.10045.4.3.1" => "ECDSA with SHA-224",
        "1.2.840.10045.4.3.4" => "ECDSA with SHA-512",
        "1.2.840.10040.4.3" => "DSA with SHA-1",
        "2.16.840.1.101.3.4.3.2" => "DSA with SHA-256",
        "1.3.101.113" => "Ed448",
        other => other,
    };
    Some(CertProblem::Signature(name.to_owned()))
}

/// Says why this public key cannot be used.
pub(super) fn key_problem(spki: &SubjectPublicKeyInfo<'_>) -> Option<CertProblem> {
    match spki.algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.1" => match spki.parsed() {
            Ok(PublicKey::RSA(rsa)) => {
                let bits = bit_length(rsa.modulus);
                (!(2048..=8192).contains(&bits)).then_some(CertProblem::RsaSize(bits))
            }
            _ => Some(CertProblem::KeyType("RSA that cannot be parsed".into())),
        },
        "1.2.840.10045.2.1" => {
            let curve =
                spki.algorithm.parameters().and_then(|p| p.as_oid().ok()).map(|oid| oid.to_id_string());
            let name = match curve.as_deref() {
                Some("1.2.840.10045.3.1.7" | "1.3.132.0.34") => return None,
                Some("1.3.132.0.35") => "P-521 (secp521r1)",
                Some("1.3.132.0.10") => "secp256k1",
                Some("1.3.36.3.3.2.8.1.1.7") => "brainpoolP256r1",
                Some("1.3.36.3.3.2.8.1.1.11") => "brainpoolP384r1",
                Some("1.3.36.3.3.2.8.1.1.13") => "brainpoolP512r1",
                Some(other) => other,
                None => "given by explicit parameters",
            };
            Some(CertProblem::Curve(name.to_owned()))
        }
        "1.3.101.112" => None,
        "1.3.101.113" => Some(CertProblem::KeyType("Ed448".into())),
        "1.2.840.113549.1.1.10" => Some(CertProblem::KeyType("RSA-PSS".into())),
        "1.2.840.10040.4.1" => Some(CertProblem::KeyType("DSA".into())),
        other => Some(CertProblem::KeyType(other.to_owned())),
    }
}

fn bit_length(big_endian: &[u8]) -> usize {
    let significant: &[u8] = match big_endian.iter().position(|&b| b != 0) {
        Some(first) => big_endian.get(first..).unwrap_or_default(),
        None => return 0,
    };
    let top_zeros = significant.first().map_or(0, |b| b.leading_zeros() as usize);
    significant.len() * 8 - top_zeros
}

#[cfg(test)]
mod tests {
    use super::bit_length;

    #[test]
    fn bits_are_counted_from_the_first_one() {
        assert_eq!(bit_length(&[0, 0x80, 0]), 16);
        assert_eq!(bit_length(&[0x01]), 1);
        assert_eq!(bit_length(&[0, 0]), 0);
        assert_eq!(bit_length(&[]), 0);
    }
}
