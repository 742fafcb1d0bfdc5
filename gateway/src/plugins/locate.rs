//! Where a plugin is that the configuration names.

use std::path::{Path, PathBuf};

/// Folders of distributions for plugins; the first two are Debian's, of which only the machine's own exists.
const FOLDERS: [&str; 5] = [
    "/usr/lib/x86_64-linux-gnu/openvpn/plugins",
    "/usr/lib/aarch64-linux-gnu/openvpn/plugins",
    "/usr/lib/openvpn/plugins",
    "/usr/lib64/openvpn/plugins",
    "/usr/local/lib/openvpn/plugins",
];

/// The file that a configuration means: an absolute path is that; one with a slash is below `working_directory`; a bare name is
/// looked for in the plugin folders of distributions first, as OpenVPN does, then in `working_directory`. What is nowhere comes
/// back as if it were in `working_directory`, so that the error names a file.
#[must_use]
pub fn locate(name: &str, working_directory: &Path) -> PathBuf {
    find(name, working_directory, &FOLDERS.map(Path::new))
}

fn find(name: &str, working_directory: &Path, folders: &[&Path]) -> PathBuf {
    let here = working_directory.join(name);
    if name.contains('/') {
        return here;
    }
    folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file()).unwrap_or(here)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_names_are_looked_for() {
        let (folder, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for path in [folder.path().join("both.so"), here.path().join("both.so"), here.path().join("own.so")] {
            std::fs::write(path, "").unwrap();
        }
        let found = |name: &str| find(name, here.path(), &[Path::new("/nowhere"), folder.path()]);
        assert_eq!(found("both.so"), folder.path().join("both.so"));
        assert_eq!(found("own.so"), here.path().join("own.so"));
        assert_eq!(found("none.so"), here.path().join("none.so"));
        assert_eq!(found("./both.so"), here.path().join("./both.so"));
        assert_eq!(found("/lib/x.so"), Path::new("/lib/x.so"));
    }
}
