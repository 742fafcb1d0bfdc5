//! `--genkey`: keys in the files that OpenVPN's own `--genkey` writes.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ring::rand::{SecureRandom, SystemRandom};
use tessera_proto::Secret;
use tessera_proto::auth_token::TokenKey;
use tessera_proto::wrap::{ClientKeyFile, Metadata, ServerKey, StaticKey};

use crate::cli::KeyKind;
use crate::clock;

/// Makes a key and gives the text of its file. A client key holds the time, or what the admin gives in its place.
///
/// # Errors
/// When there is no randomness, or the server key cannot be read.
pub fn make(
    kind: KeyKind,
    server_key: Option<&Path>,
    metadata: Option<Vec<u8>>,
) -> io::Result<Secret<String>> {
    match kind {
        KeyKind::Static => Ok(StaticKey::new(random()?).to_text()),
        KeyKind::AuthToken => Ok(TokenKey::new(random()?).to_text()),
        KeyKind::TlsCryptV2Server => {
            let key = ServerKey::new(random()?).map_err(io::Error::other)?;
            Ok(key.to_text())
        }
        KeyKind::TlsCryptV2Client => {
            let path = server_key
                .ok_or_else(|| io::Error::other("the server key (--tls-crypt-v2 FILE) is missing"))?;
            let text = Secret::new(std::fs::read_to_string(path)?);
            let server = ServerKey::parse(text.expose())
                .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
            let key = StaticKey::new(random()?);
            let made = i64::try_from(clock::unix_seconds()).unwrap_or(i64::MAX);
            let metadata = metadata.map_or(Metadata::Timestamp(made), Metadata::User);
            let wkc = server.wrap(&key, &metadata).map_err(io::Error::other)?;
            Ok(ClientKeyFile { key, wkc }.to_text())
        }
    }
}

/// Writes a key into a new file that only its owner can read. An existing file is never replaced.
///
/// # Errors
/// When the file is there, or cannot be written.
pub fn write(file: &Path, text: &Secret<String>) -> io::Result<()> {
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    out.write_all(text.expose().as_bytes())
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("no randomness"))?;
    Ok(bytes)
}
