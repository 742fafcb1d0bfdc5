//! Scratch certificate authorities: ECDSA P-256 throughout.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason,
    RevokedCertParams, SerialNumber, date_time_ymd,
};

/// Validity of everything that is not meant to be expired. Tests must not begin to fail by date.
const FROM_YEAR: i32 = 2020;
const TO_YEAR: i32 = 2090;

/// A certificate with its key, both PEM.
#[derive(Clone)]
pub struct Identity {
    /// The common name.
    pub name: String,
    /// Serial number as one byte string, for [`Pki::revocation_list`].
    pub serial: u64,
    /// Certificate, PEM.
    pub certificate: String,
    /// Private key, PKCS#8 PEM.
    pub key: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("name", &self.name)
            .field("serial", &self.serial)
            .finish_non_exhaustive()
    }
}

/// A certificate authority that signs for one test.
pub struct Pki {
    issuer: Issuer<'static, KeyPair>,
    /// The authority's certificate, PEM.
    pub ca: String,
}

impl std::fmt::Debug for Pki {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pki").finish_non_exhaustive()
    }
}

impl Pki {
    /// A new authority called `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a P-256 key");
        let mut params = subject(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.key_identifier_method = KeyIdMethod::Sha256;
        let ca = params.self_signed(&key).expect("a self-signed certificate").pem();
        Self { issuer: Issuer::new(params, key), ca }
    }

    /// A server's certificate.
    #[must_use]
    pub fn server(&self, name: &str) -> Identity {
        self.sign(name, 1, ExtendedKeyUsagePurpose::ServerAuth, TO_YEAR)
    }

    /// A client's certificate. Give different clients different serials.
    #[must_use]
    pub fn client(&self, name: &str, serial: u64) -> Identity {
        self.sign(name, serial, ExtendedKeyUsagePurpose::ClientAuth, TO_YEAR)
    }

    /// A client's certificate that expired years ago.
    #[must_use]
    pub fn expired_client(&self, name: &str, serial: u64) -> Identity {
        self.sign(name, serial, ExtendedKeyUsagePurpose::ClientAuth, FROM_YEAR + 1)
    }

    /// A revocation list, PEM, naming `revoked`.
    #[must_use]
    pub fn revocation_list(&self, revoked: &[&Identity]) -> String {
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(FROM_YEAR + 2, 1, 1),
            next_update: date_time_ymd(TO_YEAR, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked
                .iter()
                .map(|identity| RevokedCertParams {
                    serial_number: SerialNumber::from(identity.serial),
                    revocation_time: date_time_ymd(FROM_YEAR + 2, 1, 1),
                    reason_code: Some(RevocationReason::KeyCompromise),
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).expect("a revocation list").pem().expect("as PEM")
    }

    fn sign(&self, name: &str, serial: u64, usage: ExtendedKeyUsagePurpose, to_year: i32) -> Identity {
        let key = KeyPair::generate().expect("a P-256 key");
        let mut params = subject(name);
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_after = date_time_ymd(to_year, 1, 1);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Identity { name: name.to_owned(), serial, certificate, key: key.serialize_pem() }
    }
}

fn subject(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CountryName, "DE");
    params.distinguished_name.push(DnType::OrganizationName, "Tessera Tests");
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(FROM_YEAR, 1, 1);
    params.not_after = date_time_ymd(TO_YEAR, 1, 1);
    params
}
