//! Finds a client's file in `client-config-dir`.

use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Largest ccd file.
const MAX_FILE: u64 = 64 * 1024;

/// A client's file.
#[derive(Debug)]
pub struct CcdFile {
    /// For messages.
    pub path: PathBuf,
    /// What is in it.
    pub content: Vec<u8>,
}

/// The file with the client's name, or `DEFAULT` (unless `exclusive`), or none.
///
/// # Errors
/// When a file is there and cannot be read, or is too large.
pub fn find(directory: &Path, common_name: &str, exclusive: bool) -> io::Result<Option<CcdFile>> {
    let own = file_name(common_name).map(|name| directory.join(name));
    let default = (!exclusive).then(|| directory.join("DEFAULT"));
    for path in [own, default].into_iter().flatten() {
        // O_NONBLOCK: a pipe in the directory must not hold up the caller.
        let mut options = std::fs::OpenOptions::new();
        match options.read(true).custom_flags(libc::O_NONBLOCK).open(&path) {
            Ok(file) => {
                let metadata = file.metadata()?;
                if !metadata.is_file() {
                    let text = format!("{} is no plain file", path.display());
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
                }
                // Room for one byte more, so that the end of the file is found without growing.
                let mut content = Vec::with_capacity(metadata.len().min(MAX_FILE) as usize + 1);
                file.take(MAX_FILE + 1).read_to_end(&mut content)?;
                if content.len() as u64 > MAX_FILE {
                    let text = format!("{} is larger than {MAX_FILE} bytes", path.display());
                    return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
                }
                return Ok(Some(CcdFile { path, content }));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The name of a client's file: `/` becomes `_`. `None` for names that are no file of the directory, and for the name of
/// the file for everybody.
fn file_name(common_name: &str) -> Option<String> {
    let name: String =
        common_name.chars().map(|c| if c == '/' || c.is_control() { '_' } else { c }).collect();
    (!matches!(name.as_str(), "" | "." | ".." | "DEFAULT")).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_file_then_default_and_nothing_outside() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("ccd")).unwrap();
        let ccd = dir.path().join("ccd");
        std::fs::write(dir.path().join("secret"), "disable").unwrap();
        std::fs::write(ccd.join("alice"), "push a").unwrap();
        std::fs::write(ccd.join(".._secret"), "mapped").unwrap();
        let content = |name: &str, exclusive| find(&ccd, name, exclusive).unwrap().map(|f| f.content);
        assert_eq!(content("alice", true), Some(b"push a".to_vec()));
        assert_eq!(content("bob", false), None);
        std::fs::write(ccd.join("DEFAULT"), "push d").unwrap();
        assert_eq!(content("bob", false), Some(b"push d".to_vec()));
        assert_eq!(content("bob", true), None);
        assert_eq!(content("../secret", true), Some(b"mapped".to_vec()));
        for name in ["..", ".", "", "DEFAULT"] {
            assert_eq!(content(name, true), None, "{name}");
        }
        std::fs::write(ccd.join("big"), vec![b'#'; 70_000]).unwrap();
        assert!(find(&ccd, "big", true).is_err());
        nix::unistd::mkfifo(&ccd.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(find(&ccd, "pipe", true).is_err());
    }
}
