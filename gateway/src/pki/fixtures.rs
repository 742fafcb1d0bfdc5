//! Certificates made for one test each by the `openssl` tool, and a handshake in memory.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, ServerConnection, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::{KeyPem, Pem, PkiOptions, ServerTls};

/// A fixed wall clock.
#[derive(Debug)]
pub(super) struct At(pub(super) u64);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0)))
    }
}

pub(super) const LEAF: &str =
    "basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\nextendedKeyUsage=clientAuth\n";
pub(super) const SERVER: &str =
    "basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\nextendedKeyUsage=serverAuth\n";
pub(super) const CA: &str = "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign,cRLSign\n";

/// A folder of certificates: `NAME.key`, `NAME.crt`.
pub(super) struct Pki {
    dir: tempfile::TempDir,
}

impl Pki {
    /// With a CA called `ca` and a server certificate called `server`.
    pub(super) fn new() -> Self {
        let pki = Self { dir: tempfile::tempdir().unwrap() };
        pki.root("ca", "/CN=Test CA");
        pki.issue("server", "ca", "/CN=server", SERVER);
        pki
    }

    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    pub(super) fn text(&self, file: &str) -> String {
        std::fs::read_to_string(self.path(file)).unwrap()
    }

    pub(super) fn write(&self, file: &str, text: &str) -> PathBuf {
        std::fs::write(self.path(file), text).unwrap();
        self.path(file)
    }

    pub(super) fn openssl(&self, arguments: &[&str]) -> String {
        openssl(self.dir.path(), arguments)
    }

    pub(super) fn key(&self, name: &str, kind: &[&str]) {
        let key = format!("{name}.key");
        let mut arguments = vec!["genpkey", "-out", &key];
        arguments.extend(kind);
        self.openssl(&arguments);
    }

    fn ec_key(&self, name: &str) {
        if !self.path(&format!("{name}.key")).exists() {
            self.key(name, &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        }
    }

    pub(super) fn root(&self, name: &str, subject: &str) {
        self.ec_key(name);
        self.self_signed(name, subject, CA, &["-sha256"]);
    }

    pub(super) fn self_signed(&self, name: &str, subject: &str, extensions: &str, more: &[&str]) {
        self.ec_key(name);
        self.write("self.csr.cnf", &format!("[req]\ndistinguished_name=dn\n[dn]\n[x]\n{extensions}"));
        let (key, crt) = (format!("{name}.key"), format!("{name}.crt"));
        let mut arguments = vec![
            "req",
            "-x509",
            "-new",
            "-utf8",
            "-config",
            "self.csr.cnf",
            "-extensions",
            "x",
            "-key",
            &key,
            "-subj",
            subject,
            "-days",
            "3650",
            "-out",
            &crt,
        ];
        arguments.extend(more);
        self.openssl(&arguments);
    }

    pub(super) fn issue(&self, name: &str, ca: &str, subject: &str, extensions: &str) {
        self.issue_with(name, ca, subject, extensions, &[]);
    }

    /// `more`: arguments for `openssl x509 -req`. Without extensions the certificate is of version 1.
    pub(super) fn issue_with(&self, name: &str, ca: &str, subject: &str, extensions: &str, more: &[&str]) {
        self.ec_key(name);
        let (key, csr) = (format!("{name}.key"), format!("{name}.csr"));
        self.openssl(&["req", "-new", "-utf8", "-key", &key, "-subj", subject, "-out", &csr]);
        self.sign(name, ca, extensions, more);
    }

    pub(super) fn sign(&self, name: &str, ca: &str, extensions: &str, more: &[&str]) {
        self.write("ext.cnf", &format!("[x]\n{extensions}"));
        let (csr, crt) = (format!("{name}.csr"), format!("{name}.crt"));
        let (ca_crt, ca_key) = (format!("{ca}.crt"), format!("{ca}.key"));
        let mut arguments =
            vec!["x509", "-req", "-in", &csr, "-CA", &ca_crt, "-CAkey", &ca_key, "-out", &crt];
        if !more.contains(&"-set_serial") {
            arguments.extend(["-set_serial", "4096"]);
        }
        if !more.contains(&"-days") {
            arguments.extend(["-days", "3000"]);
        }
        if !extensions.is_empty() {
            arguments.extend(["-extfile", "ext.cnf", "-extensions", "x"]);
        }
        arguments.extend(more);
        self.openssl(&arguments);
    }

    /// A CRL of `ca` with `revoked` on it, valid for `days` (which may be over already: `0`).
    pub(super) fn crl(&self, ca: &str, revoked: &[&str], more: &[&str]) -> String {
        self.write("index.txt", "");
        self.write("crlnumber", "01\n");
        self.write(
            "ca.cnf",
            "[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\ncrlnumber=crlnumber\ndefault_md=sha256\ndefault_crl_days=30\ncrl_extensions=x\n[x]\nauthorityKeyIdentifier=keyid:always\n",
        );
        let (cert, key) = (format!("{ca}.crt"), format!("{ca}.key"));
        for name in revoked {
            let crt = format!("{name}.crt");
            self.openssl(&["ca", "-config", "ca.cnf", "-cert", &cert, "-keyfile", &key, "-revoke", &crt]);
        }
        let mut arguments =
            vec!["ca", "-config", "ca.cnf", "-cert", &cert, "-keyfile", &key, "-gencrl", "-out", "out.crl"];
        arguments.extend(more);
        self.openssl(&arguments);
        self.text("out.crl")
    }

    pub(super) fn pem(&self, file: &str) -> Pem {
        Pem::from_file(&self.path(file)).unwrap()
    }

    /// Options with the CA and the server's certificate.
    pub(super) fn options(&self) -> PkiOptions {
        let mut options =
            PkiOptions::new(self.pem("server.crt"), KeyPem::from_file(&self.path("server.key")).unwrap());
        options.ca = Some(self.pem("ca.crt"));
        options
    }

    pub(super) fn chain(&self, files: &[&str]) -> Vec<CertificateDer<'static>> {
        let text: String = files.iter().map(|f| self.text(f)).collect();
        CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>().unwrap()
    }
}

/// Runs the tool, which must be there and must succeed.
pub(super) fn openssl(dir: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("openssl");
    command.args(arguments).current_dir(dir);
    if arguments.first() == Some(&"ca") {
        command.arg("-batch");
    }
    let output = command.output().expect("the openssl tool is needed");
    assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[derive(Debug)]
struct TrustAll;

impl ServerCertVerifier for TrustAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A client that shows `chain`, if any, and speaks `versions`.
pub(super) fn client(
    chain: Option<(Vec<CertificateDer<'static>>, &str)>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustAll));
    Arc::new(match chain {
        Some((chain, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
            let pair = rustls::sign::CertifiedKey::new(chain, key);
            builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(pair)))
        }
        None => builder.with_no_client_auth(),
    })
}

/// What a handshake came to.
pub(super) struct Done {
    pub(super) server: ServerConnection,
    pub(super) client: ClientConnection,
    /// Bytes from server to client.
    pub(super) from_server: usize,
}

/// Runs a handshake; the error is the server's, and the client has got its alert by then.
pub(super) fn handshake(tls: &ServerTls, client: &Arc<ClientConfig>) -> Result<Done, rustls::Error> {
    let mut server = ServerConnection::new(tls.server_config()).unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), ServerName::try_from("vpn").unwrap()).unwrap();
    let mut from_server = 0;
    for _ in 0..10 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            if let Err(error) = server.process_new_packets() {
                let mut alert = Vec::new();
                server.write_tls(&mut alert).unwrap();
                client.read_tls(&mut alert.as_slice()).unwrap();
                assert!(
                    matches!(client.process_new_packets(), Err(rustls::Error::AlertReceived(_))),
                    "no alert for {error}"
                );
                return Err(error);
            }
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        from_server += wire.len();
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
    }
    assert!(!server.is_handshaking() && !client.is_handshaking());
    Ok(Done { server, client, from_server })
}
