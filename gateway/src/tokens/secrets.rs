//! The keys of generated tokens: read from `auth-gen-token-secret`, made when there is none, and rotated.
//!
//! A file may hold several keys, one behind the other: the first makes tokens, all of them check. A stock server reads
//! the first only, so a fleet may share the file.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom, SystemRandom};
use tessera_proto::Secret;
use tessera_proto::auth_token::TokenKey;
use zeroize::Zeroizing;

use super::MAX_KEYS;
use crate::config::Source;

/// Largest file of keys: each takes about 300 bytes.
const MAX_FILE: u64 = 64 * 1024;

/// Reads the keys of all sources, in order.
///
/// # Errors
/// Which source cannot be read, or holds no key.
pub fn load(sources: &[Source]) -> Result<Vec<TokenKey>, String> {
    let mut keys = Vec::new();
    for source in sources {
        let name = source.path().map_or_else(|| "(inline)".to_owned(), |path| path.display().to_string());
        let named = |error: &dyn std::fmt::Display| format!("auth-gen-token-secret {name}: {error}");
        let bytes = source.read(MAX_FILE).map_err(|error| named(&error))?;
        let text = std::str::from_utf8(bytes.expose()).map_err(|_| named(&"not a text file"))?;
        keys.extend(TokenKey::parse_all(text).map_err(|error| named(&error))?);
    }
    if keys.len() > MAX_KEYS {
        return Err(format!("auth-gen-token-secret: more than {MAX_KEYS} keys"));
    }
    Ok(keys)
}

/// A new key.
///
/// # Errors
/// When the system gives no randomness.
pub fn generate() -> io::Result<TokenKey> {
    let mut random = Zeroizing::new([0; 128]);
    SystemRandom::new().fill(&mut *random).map_err(|_| io::Error::other("no randomness"))?;
    Ok(TokenKey::new(*random))
}

/// Writes keys into a file in one step, as far as they fit; its owner and its rights stay what they were. A reader sees the
/// old file or the new one.
///
/// # Errors
/// When it cannot be written; then the old file is still there.
pub fn write(file: &Path, keys: &[TokenKey]) -> io::Result<()> {
    let mut text = Secret::new(String::new());
    for key in keys.iter().take(MAX_KEYS) {
        text.expose_mut().push_str(key.to_text().expose());
    }
    let old = fs::metadata(file)?;
    let temporary = beside(file);
    let _ = fs::remove_file(&temporary);
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let written = fchown(&out, Some(old.uid()), Some(old.gid()))
        .and_then(|()| out.set_permissions(old.permissions()))
        .and_then(|()| out.write_all(text.expose().as_bytes()))
        .and_then(|()| out.sync_all())
        .and_then(|()| fs::rename(&temporary, file));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn beside(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    file.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn keys_come_back_in_order_and_rights_stay() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        fs::write(&file, generate().unwrap().to_text().expose()).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let source = [Source::File(file.clone())];
        let mut keys = load(&source).unwrap();
        keys.insert(0, generate().unwrap());
        write(&file, &keys).unwrap();
        let text =
            |keys: &[TokenKey]| keys.iter().map(|key| key.to_text().expose().clone()).collect::<Vec<_>>();
        assert_eq!(text(&load(&source).unwrap()), text(&keys));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = Source::File(folder.path().join("missing"));
        assert!(load(&[missing]).unwrap_err().contains("missing"));
        let wrong = Source::Inline(Secret::new("hello".into()));
        let error = load(&[wrong]).unwrap_err();
        assert!(error.starts_with("auth-gen-token-secret (inline): not an"), "{error}");
        assert!(write(&folder.path().join("none"), &[generate().unwrap()]).is_err());
    }
}
